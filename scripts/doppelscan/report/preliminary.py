"""The page and the table of an audit that is not finished: marked as that, without p-values and without flags but those of the same pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from doppelscan.decide import FirstMatch, Preliminary, PreliminarySummary, Reason, Rule
from doppelscan.images import unit_of
from doppelscan.pages import page_templates
from doppelscan.report.inline import inline_picture
from doppelscan.report.tables import NONE, Row, class_of
from doppelscan.report.volume_pictures import middle_planes

__all__ = ["by_likeness", "preliminary_rows", "render_preliminary"]

LISTED, PICTURED = 200, 40
UNDECIDED = "preliminary: not decided yet"


def preliminary_rows(found: Preliminary) -> list[Row]:
    """Rows of scores.csv so far: what is not known is empty or NaN, ``flagged`` too, which is no false."""
    return [_row(one) for one in found.images]


def _row(one: FirstMatch) -> Row:
    same, scored, pose = one.identical, one.scored, one.pose
    row: Row = {
        "image": one.record.id,
        "patient": one.record.patient,
        "match": one.match_record.id,
        "match_patient": one.match_record.patient,
        "pose": "" if pose is None else pose.words(max(one.shape)),
        "deepssim": one.deepssim,
        "flagged": "" if same is None else True,
        "finding": "" if same is None else "copy",
        "reason": UNDECIDED
        if same is None
        else Reason(Rule.PIXELS, same.correlation, same.limit, 0.0, same.told).words_of(unit_of([one.record])),
        "verdict": "",
        "second_match": "",
        "part_match": "",
        "consensus": "",
        "unlike": "",
    }
    measured = ("score", "embedding", "similarity", "mi", "oni", "ssim", "detail", "agreement", "share", "verified", "runner_up")
    row |= {name: NONE if scored is None else float(getattr(scored, name)) for name in measured}
    if scored is not None:
        row |= {"verdict": class_of(one.record, scored.ssim), "consensus": scored.consensus}
    calibrated = (
        "p_value",
        "q_value",
        "explained",
        "same_patient_p_value",
        "second_share",
        "part",
        "part_share",
        "part_p_value",
        "part_q_value",
    )
    return row | dict.fromkeys(calibrated, NONE)


def render_preliminary(
    found: Preliminary,
    summary: PreliminarySummary,
    rows: Sequence[Row],
    redact: bool,
    drawn: dict[int, dict[str, str]] | None = None,
) -> str:
    """The page as HTML text: the same pixels first, then the nearest; no more than 200 pairs.

    Args:
        found: what is known so far.
        summary: what summary.json holds.
        rows: rows of scores.csv, one an image of ``found``, already redacted where asked for.
        redact: leave out pictures.
        drawn: place of an image of ``found`` -> its pictures, of an earlier page; filled.
    """
    images = found.images
    order = by_likeness(found, rows)[:LISTED]
    pictures: dict[int, dict[str, str]] = {} if redact or drawn is None else drawn
    if not redact and (missing := [i for i in order[:PICTURED] if i not in pictures]):
        pictures |= _pictures(found, missing)
    pairs = [{**rows[i], "same": images[i].identical is not None, "pictures": pictures.get(i)} for i in order]
    return (
        page_templates()
        .get_template("preliminary.html")
        .render(
            summary=summary,
            pairs=pairs,
            redact=redact,
            colour="unsure",
            of=unit_of(one.record for one in images),
            minutes={k: _minutes(v) for k, v in summary.to_come.items()},
        )
    )


def by_likeness(found: Preliminary, rows: Sequence[Row]) -> list[int]:
    """Places of the images of ``found``: the same pixels first, then the nearest; equals by their names in ``rows``, as their order in the set would
    undo pseudonyms, and digits that are not written could, too.
    """
    images = found.images
    return sorted(range(len(images)), key=lambda i: (*(-round(float(v), 6) for v in _ranks(images[i])), str(rows[i]["image"])))


def _pictures(found: Preliminary, chosen: Sequence[int]) -> dict[int, dict[str, str]]:
    images = [found.images[i] for i in chosen]
    own = found.synthetic.thumbnails([one.row for one in images]).numpy()
    others = found.training.thumbnails([one.match for one in images]).numpy()
    return {
        i: {"synthetic": inline_picture(_flat(image[0])), "match": inline_picture(_flat(match[0]))}
        for i, image, match in zip(chosen, own, others, strict=True)
    }


def _flat(pixels: np.ndarray) -> np.ndarray:
    """An image as it is; of a volume three planes."""
    return middle_planes(pixels) if pixels.ndim == 3 else pixels


def _ranks(one: FirstMatch) -> tuple[bool, float]:
    same, value = one.likeness
    return same, value if value == value else -1.0


def _minutes(seconds: float) -> str:
    return (
        "less than a minute"
        if seconds < 60
        else f"about {seconds / 60:.0f} min"
        if seconds < 5400
        else f"about {seconds / 3600:.1f} h"
    )
