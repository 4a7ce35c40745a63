"""Where the pictures of a page lie: in it, or in a folder beside it when they are many or large."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from doppelscan.report.pair_pictures import PairPicture

__all__ = ["FOLDER", "Gallery", "ShownPair", "hang"]

FOLDER = "report_files"
# A page of more pictures, or of more bytes of them, keeps them in a folder, from which a browser reads what is looked at.
MOST_INLINE, MOST_BYTES = 300, 10_000_000


@dataclass(frozen=True)
class ShownPair:
    """A pair's pictures as the page names them.

    Attributes:
        strip: ``src`` of the strip.
        tiles: how many it has.
        slices: of volumes, the mosaics in base64, which a script has to read pixel by pixel: a browser lets it do so only with what is in the page.
    """

    strip: str
    tiles: int
    slices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gallery:
    """The pictures of a page.

    Attributes:
        shown: number of an entry -> its pictures.
        files: name -> bytes of what lies in :data:`FOLDER`; empty where all is in the page.
    """

    shown: Mapping[int, ShownPair]
    files: Mapping[str, bytes]


def hang(pictures: Mapping[int, PairPicture]) -> Gallery:
    """Put ``pictures`` (number of an entry -> picture) into the page, or into files."""
    inline = len(pictures) <= MOST_INLINE and sum(one.size for one in pictures.values()) <= MOST_BYTES
    shown, files = {}, {}
    for number, one in pictures.items():
        name = f"pair-{number:06d}.webp"
        strip = "data:image/webp;base64," + base64.b64encode(one.strip).decode() if inline else f"{FOLDER}/{name}"
        if not inline:
            files[name] = one.strip
        shown[number] = ShownPair(strip, one.tiles, tuple(base64.b64encode(part).decode() for part in one.slices))
    return Gallery(shown, files)
