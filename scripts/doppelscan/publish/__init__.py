"""Publish: checksums of what is handed on."""

from doppelscan.publish.checksums import list_checksum

__all__ = ["list_checksum"]
