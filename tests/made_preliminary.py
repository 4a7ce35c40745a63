"""A report of an audit that is not finished, made by hand."""

from __future__ import annotations

import csv
from pathlib import Path

from doppelscan.decide import LeftOut, ScoredSet, nearest_by_encoder, ranked_so_far, summarize_preliminary
from doppelscan.report import write_preliminary
from doppelscan.verify import IdenticalImage
from made_records import made_reference, made_score, made_set

SAME = IdenticalImage(4, 5, False, 0.99999, 0.998)


def so_far(cohort, scored: bool, count: int = 6):
    """Some images, the last one of the same pixels as a training image; scored, or only embedded."""
    synthetic, training = made_set("synthetic", count, cohort), made_set("training", 20, cohort)
    identical = [None] * (count - 1) + [SAME]
    if not scored:
        return nearest_by_encoder(synthetic, training, identical)
    scores = tuple(made_score(row, 0.3 + 0.05 * row, match=row % 20) for row in range(count))
    return ranked_so_far(ScoredSet(synthetic, scores, made_reference(training)), identical)


def write_so_far(folder: Path, made, redact: bool = False, sample=None, key=None) -> list[dict[str, str]]:
    """Write the report; its rows of scores.csv."""
    summary = summarize_preliminary(
        made,
        written="2026-11-29 14:02",
        ends="15:10",
        to_come={"score control": 40.0, "self-test": 1200.0, "report": 9000.0},
        sample=sample,
        skipped=[LeftOut("synthetic", "synthetic/<bad>.png", "synthetic/<bad>.png is truncated")],
        settings={"seed": 0},
        weights_sha256="0" * 64,
        versions={"doppelscan": "0"},
        seconds={"embed training": 3.0},
    )
    write_preliminary(folder, made, summary, redact, key)
    with open(folder / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))
