"""Publish: what is made of trained weights to hand them on."""

from doppelscan.publish.checksums import list_checksum
from doppelscan.publish.pack import bundle_folder, pack
from doppelscan.publish.quantize import quantize_int8
from doppelscan.publish.verification import verify

__all__ = ["bundle_folder", "list_checksum", "pack", "quantize_int8", "verify"]
