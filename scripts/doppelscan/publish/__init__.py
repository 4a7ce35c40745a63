"""Publish: what is made of trained weights to hand them on."""

from doppelscan.publish.checksums import list_checksum
from doppelscan.publish.quantize import quantize_int8

__all__ = ["list_checksum", "quantize_int8"]
