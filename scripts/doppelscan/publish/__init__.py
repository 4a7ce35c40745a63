"""Publish: what is made of trained weights to hand them on."""

from doppelscan.publish.checksums import list_checksum
from doppelscan.publish.hub import Publication, publish
from doppelscan.publish.info import info
from doppelscan.publish.label_app import write_label_app
from doppelscan.publish.pack import bundle_folder, pack
from doppelscan.publish.quantize import quantize_int8
from doppelscan.publish.verification import verify

__all__ = ["Publication", "bundle_folder", "info", "list_checksum", "pack", "publish", "quantize_int8", "verify", "write_label_app"]
