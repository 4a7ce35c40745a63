"""What the page's script reads of each image, as JSON within the page."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence

from doppelscan.decide import ReviewedImages
from doppelscan.report.entries import Entries, PageEntry
from doppelscan.report.gallery import ShownPair
from doppelscan.report.pose_words import pose_sentence
from doppelscan.scores import p_words

__all__ = ["COLUMNS", "LISTED", "page_data"]

# Images that can be looked up on the page, about 200 bytes each: of a larger set the flagged and the nearest; all are in scores.csv.
LISTED = 40_000

COLUMNS = (
    "image", "match", "patient", "second", "secondPatient", "condition", "kind", "score", "verified", "part", "share", "ssim", "deepssim", "mi", "p", "q", "pWords", "qWords", "pose",
    "why", "picture", "tiles", "large", "side", "same",
)  # fmt: skip


def page_data(
    entries: Entries,
    shorts: Mapping[str, str],
    shown: Mapping[int, ShownPair],
    reviews: ReviewedImages,
    audit: str,
    drawn: Collection[int],
    volumes: bool,
    floors: Sequence[float],
) -> str:
    """The JSON, without what would end its element.

    Args:
        entries: the images.
        shorts: short names of all names.
        shown: number of an entry -> its pictures.
        reviews: decisions that were read.
        audit: names the audit, so that a browser keeps the decisions of each apart.
        drawn: numbers of the entries that the page itself draws, with their pictures.
        volumes: they are volumes.
        floors: where the tails of p-values are cut off.
    """
    places: dict[str, int] = {}

    def place(name: str) -> int:
        return places.setdefault(name, len(places))

    listed = entries.every[: max(LISTED, len(entries.flagged))]
    rows = [_row(one, place, shown.get(one.number), one.number in drawn, volumes, floors) for one in listed]
    content = {
        "audit": audit,
        "columns": COLUMNS,
        "names": [[name, shorts.get(name, name)] for name in places],
        "rows": rows,
        "decisions": [[one.image, one.decision, one.comment, one.reviewer, one.date] for one in reviews.said],
    }
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _row(one: PageEntry, place, shown: ShownPair | None, drawn: bool, volume: bool, floors: Sequence[float]) -> list[object]:
    scored = one.image.scored
    return [
        place(str(one.row["image"])),
        place(one.source),
        place(one.patient),
        place(str(one.row["second_match"])),
        place(one.second_patient),
        one.condition,
        str(one.row["finding"]) or ("unlike" if one.image.unlike else ""),
        *(
            _number(value)
            for value in (
                scored.score, scored.verified, scored.part, scored.share, scored.ssim, scored.deepssim, scored.mi, one.p_value, one.q_value,
            )
        ),
        p_words(one.p_value, floors),
        p_words(one.p_value, floors, one.q_value),
        pose_sentence(str(one.row["pose"]) if not one.image.of_region else one.pair.pose.words(0), volume),
        one.why,
        "" if shown is None or drawn else shown.strip,
        *((0, "", 0, None) if shown is None else (shown.tiles, shown.large, shown.side, shown.same)),
    ]  # fmt: skip


def _number(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
