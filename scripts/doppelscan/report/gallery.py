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
        large: ``src`` of the strip at the resolution of the files, or empty.
        side: pixels a side of its tiles.
        same: there is no difference to be seen; None where the match was not brought into the pose.
    """

    strip: str
    tiles: int
    slices: tuple[str, ...] = ()
    large: str = ""
    side: int = 0
    same: bool | None = None


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
        places = {"strip": "", "large": ""}
        for kind, name in (("strip", f"pair-{number:06d}.webp"), ("large", f"pair-{number:06d}-large.webp")):
            content = one.strip if kind == "strip" else one.large
            if content and inline:
                places[kind] = "data:image/webp;base64," + base64.b64encode(content).decode()
            elif content:
                places[kind], files[name] = f"{FOLDER}/{name}", content
        slices = tuple(base64.b64encode(part).decode() for part in one.slices)
        shown[number] = ShownPair(
            places["strip"], one.tiles, slices, places["large"], one.side, one.same if one.tiles == 5 else None
        )
    return Gallery(shown, files)
