"""Output folders of audits that were never run: records made by hand, written as an audit writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from doppelscan.calibrate import Prevalence, clopper_pearson, wilson
from doppelscan.decide import NegativeResult, PlantedResult, SelfTest
from doppelscan.report import write_report
from made_records import made_decision, made_summary, made_unnamed

WEIGHTS = "a" * 64


def made_test(found: int = 18, lower: float = 0.1, upper: float = 0.6, bound: float = 0.5) -> SelfTest:
    """Two transforms, of which ``found`` of 18 copies are found, and one negative."""
    power = clopper_pearson([True] * found + [False] * (18 - found))
    copies = tuple(PlantedResult(name, f"changed by {name}", 18, found, power, found, found) for name in ("rotation", "noise"))
    return SelfTest(
        copies, (NegativeResult("means", "means of three", 5, 0, 0),), Prevalence((lower + upper) / 2, lower, upper), bound
    )


def made_audit(
    folder: Path,
    flagged: int = 3,
    total: int | None = None,
    *,
    redact: bool = False,
    test: SelfTest | None = None,
    change: Callable[[dict[str, Any]], object] | None = None,
    rename: Mapping[str, str] | None = None,
    whole: bool = False,
    named: bool = True,
    **summary: Any,
) -> Path:
    """The folder of an audit with ``flagged`` of ``total`` images flagged, see :func:`made_decision`.

    Args:
        folder: made, and returned.
        flagged, total: numbers of images.
        redact: as the audit's setting.
        test: the self-test.
        change: called with summary.json before it is written again.
        whole: it is one of volumes.
        named: somebody named the patients.
        rename: what is put in the place of what, in all tables.
        summary: fields of the summary.
    """
    folder.mkdir(parents=True)
    decision = made_decision(flagged, total, whole=whole)
    decision = decision if named else made_unnamed(decision)
    count = len(decision.images)
    decision = replace(decision, test=test or made_test())
    settings = {
        "seed": 0,
        "candidates": 20,
        "redact": redact,
        "preprocessing": ["made"],
        "rotations": [0],
        "index": "exact",
        "control_size": 300,
    }
    given = {
        "settings": settings,
        "weights_sha256": WEIGHTS,
        "skipped": [],
        "command": "doppelscan audit --training anna/training --synthetic anna/synthetic --fdr 0.05",
        "finished": "2026-11-29T09:00:00Z",
        **summary,
    }
    record = replace(made_summary(decision, **given), flagged=wilson(flagged, count))
    write_report(folder, decision, record, redact)
    if change is not None:
        content = json.loads((folder / "summary.json").read_text())
        change(content)
        (folder / "summary.json").write_text(json.dumps(content))
    for old, new in (rename or {}).items():
        for table in ("scores.csv", "exposure.csv"):
            path = folder / table
            path.write_text(path.read_text().replace(old, new))
    return folder
