"""The page stays readable and small, the tables keep their digits, redaction names nobody."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from doppelscan.calibrate import Control
from doppelscan.decide import KINDS, Finding, NearDuplicate, ScoredImage
from doppelscan.report import SCORE_COLUMNS, AuditTables, to_csv, write_report
from doppelscan.verify import AlignedPair, Pose

IMAGES = 40


@dataclass
class Record:
    id: str
    patient: str
    volume: str


class MadeSet:
    """What the report needs of an embedded set."""

    def __init__(self, name: str, count: int, cohort: np.ndarray):
        self.records = [Record(f"{name}/{i}.png", f"{name}-patient{i}", f"{name}/{i}.png") for i in range(count)]
        self.pixels = [
            torch.nn.functional.interpolate(torch.from_numpy(c)[None, None] * 255, (128, 128))[0].to(torch.uint8) for c in cohort
        ]

    def __len__(self):
        return len(self.records)

    @property
    def patients(self):
        return [r.patient for r in self.records]

    def thumbnails(self, rows):
        return torch.stack([self.pixels[r % len(self.pixels)] for r in rows])

    def native_shapes(self, rows):
        return np.full((len(rows), 2), 256)


def scored(row: int, score: float) -> ScoredImage:
    pose = Pose(row % 2 == 1, 0, 3.0)
    return ScoredImage(row, row % IMAGES, pose, score, 0.9, 0.8, 0.7, 5.0, -1.0, 3, 0.95, 0.9, 0.9, 0.8, 0.99, 1, 0.3, False)


def pair(scored: ScoredImage) -> AlignedPair:
    """What a registration would give."""
    grey, nowhere = np.full((128, 128), 0.5, np.float32), np.full((128, 128), np.nan, np.float32)
    return AlignedPair(grey, np.ones_like(grey), 0.99, np.ones(81), np.ones(81, bool), nowhere, grey)


def tables(flagged: int, cohort: np.ndarray, total: int | None = None) -> AuditTables:
    total = total or flagged + 5
    flags = np.arange(total) < flagged
    return AuditTables(
        MadeSet("training", IMAGES, cohort),
        MadeSet("synthetic", total, cohort),
        [scored(i, 1.0 if flags[i] else 0.3) for i in range(total)],
        np.where(flags, 0.01, 0.5),
        np.where(flags, 0.02, 0.6),
        flags,
        MadeSet("control", 30, cohort),
        [scored(i, 0.2 + 0.001 * i) for i in range(30)],
        Control(0.2 + 0.001 * np.arange(30)),
        np.where(flags, 0.01, 0.5),
        np.where(flags, 0.02, 0.6),
        [Finding(KINDS[i % 4], 0.98, 2 if i % 4 == 1 else None, 0.3) if flags[i] else None for i in range(total)],
        [NearDuplicate(True, 3, 4, 0.8), NearDuplicate(False, 5, 6, 0.75)],
    )


def summary(flagged: int, total: int, near: list | None = None) -> dict:
    share = {"count": flagged, "total": total, "share": flagged / total, "lower": 0.0, "upper": 1.0}
    return {
        "conclusion": "memorization found" if flagged else "no memorization found",
        "reason": "because",
        "images": {
            "training": IMAGES,
            "synthetic": total,
            "control": 30,
            "training_patients": 40,
            "control_patients": 30,
            "skipped": 1,
        },
        "flagged": share,
        "flagged_control": share,
        "residual_risk": {"value": 0.1, "lower": 0.0, "upper": 0.2},
        "findings": {"copy": flagged, "blend": 0, "part": 0, "same patient?": 0},
        "near_duplicates": near or [],
        "duplication_trend": {
            "groups": [{"repeats": "1", "images": 9, "leaked": 1, "share": 0.1, "lower": 0.0, "upper": 0.4}],
            "tau": 0.3,
            "p_value": 0.01,
        },
        "correction": "bh",
        "effective_control": 30.0,
        "control_against_training": {"auc": 0.5, "p_value": 0.4},
        "verdicts": {"duplicate": flagged, "similar": 0, "different": total - flagged},
        "fdr": 0.05,
        "smallest_p_value": 1 / 31,
        "control": "holdout",
        "patient_source": "column",
        "notes": ["A note with <b>markup</b>."],
        "skipped": [{"set": "synthetic", "path": "synthetic/<bad>.png", "reason": "truncated"}],
        "settings": {"seed": 0, "candidates": 20},
        "weights_sha256": "0" * 64,
        "versions": {"doppelscan": "0", "monai": "1", "torch": "2"},
        "seconds": {"fit": 1.0},
    }


@pytest.mark.parametrize("flagged", [0, 1, 50, 2000])
def test_page_stays_under_20_mb_with_every_pair_listed(tmp_path, cohort, flagged):
    made = tables(flagged, cohort)
    write_report(tmp_path, made, summary(flagged, len(made.scored)), redact=False, pair=pair)
    page = (tmp_path / "report.html").read_text()
    assert len(page) < 20e6
    assert page.count('class="pair"') == (flagged or min(10, len(made.scored)))
    assert (
        page.index(f"<h1>{'memorization found' if flagged else 'no memorization found'}")
        < page.index("<svg")
        < page.index('class="pair"')
    )


def test_page_is_offline_and_escapes_what_it_is_given(tmp_path, cohort):
    made = tables(3, cohort)
    write_report(tmp_path, made, summary(3, 8, made.near_duplicate_rows()), redact=False, pair=pair)
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "<bad>" not in page and "&lt;b&gt;markup" in page


def test_redaction_leaves_no_path_patient_or_picture(tmp_path, cohort):
    made = tables(3, cohort)
    rows = write_report(tmp_path, made, summary(3, 8, made.near_duplicate_rows()), redact=True, pair=pair)
    for file in tmp_path.iterdir():
        assert not re.search(r"patient\d|/\d+\.png|data:image|bad>", file.read_text()), file
    again = write_report(tmp_path, made, summary(3, 8, made.near_duplicate_rows()), redact=True, pair=pair)
    assert rows[0]["match"] != again[0]["match"], "pseudonyms of two reports must not be linkable"
    assert rows[0]["score"] == 1.0


def test_csv_floats_are_float32_with_their_digits():
    row = {c: 0.123456789 for c in SCORE_COLUMNS} | {"flagged": True, "mi": float("nan"), "image": 'a,"b.png'}
    text = to_csv(SCORE_COLUMNS, [row])
    assert "0.1234568" in text and ",true" in text and "nan" in text and '"a,""b.png"' in text


def test_volumes_take_the_best_slice_and_patients_of_the_control_for_p(cohort):
    made = tables(2, cohort, total=4)
    for record in made.synthetic.records:
        record.volume = record.patient = "v"
    rows = made.volume_rows(made.score_rows())
    assert len(rows) == 1 and rows[0]["flagged_images"] == 2
    assert abs(rows[0]["p_value"] - 4 / 31) < 1e-9, "four slices against patients of one slice: four times the smallest p-value"
    assert made.patient_rows(made.score_rows())[0]["images"] == 4


def test_exposure_counts_every_source_of_a_finding(cohort):
    made = tables(4, cohort)
    exposure = {row["patient"]: row for row in made.exposure_rows(made.score_rows())}
    assert exposure["training-patient1"]["part"] == 1, "a part exposes the patient of the part, not the whole image's match"
    assert exposure["training-patient2"]["blend"] == 1, "the second source of a blend is exposed too"
    assert exposure["training-patient0"]["copy"] == 1


def test_page_names_people_who_are_there_twice_before_the_distributions(tmp_path, cohort):
    made = tables(3, cohort)
    write_report(tmp_path, made, summary(3, 8, made.near_duplicate_rows()), redact=False, pair=pair)
    page = (tmp_path / "report.html").read_text()
    assert page.index("same person twice") < page.index("Synthetic against control") and "training-patient4" in page
