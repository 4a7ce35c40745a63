"""N_copies and N_mem by hand: what counts as a copy, whose it is, and what is no image."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from doppelscan.calibrate import wilson
from doppelscan.errors import InputError
from doppelscan.files import to_csv
from doppelscan.report import SCORE_COLUMNS
from doppelscan.study import read_audit
from doppelscan.study.measures import Mean, changes
from made_files import save_png

# finding, match, part_match, second_match, unlike
SAMPLES = [
    ("copy", 0, 5, None, False),
    ("copy", 0, 5, None, False),  # of one training image
    ("blend", 1, 5, 2, False),
    ("part", 5, 3, None, False),
    ("same patient?", 4, 5, None, False),
    ("no single source", 4, 5, None, False),
    ("", 4, 5, None, False),
    ("", 4, 5, None, True),
]


@pytest.fixture
def audit(tmp_path, cohort) -> tuple[Path, Path]:
    """The folder of an audit of 8 samples, and the table of its training set: 6 images of 3 people, shown up to 3 times."""
    lines = ["path,patient,repeats"]
    for i in range(6):
        save_png(tmp_path / "images" / f"{i}.png", cohort[i])
        lines.append(f"images/{i}.png,p{i // 2},{1 + 2 * (i < 2)}")
    (tmp_path / "training.csv").write_text("\n".join(lines))
    write_audit(tmp_path / "audit", [str(tmp_path / "images" / f"{i}.png") for i in range(6)])
    return tmp_path / "audit", tmp_path / "training.csv"


def write_audit(folder: Path, names: list[str]) -> None:
    folder.mkdir()
    rows = []
    for number, (finding, match, part, second, unlike) in enumerate(SAMPLES):
        row = dict.fromkeys(SCORE_COLUMNS, "")
        row |= {"image": f"{number}.png", "match": names[match], "part_match": names[part], "finding": finding, "unlike": unlike}
        row |= {
            "reason": "region, false discovery rate: q 0.01 <= 0.05" if finding == "part" else "",
            "second_match": "" if second is None else names[second],
            "mi": float(number),
            "deepssim": 0.5,
            "flagged": bool(finding),
        }
        rows.append(row)
    (folder / "scores.csv").write_text(to_csv(SCORE_COLUMNS, rows))
    owed = {"images": 16, "won_by_training": 14, "p_value": 0.004, "owed": 0.7, "owed_lower": 0.3, "owed_upper": 0.9}
    summary = {"conclusion": "memorization found", "images": {"unlike": 1}, "competition": owed}
    share = wilson(6, 7).__dict__
    (folder / "summary.json").write_text(json.dumps({**summary, "flagged": share, "flagged_control": wilson(0, 20).__dict__}))


def test_copies_and_memorized_images_are_counted_apart(audit):
    numbers = read_audit(*audit, step=800)
    assert (numbers.samples, numbers.unlike, numbers.step) == (8, 1, 800)
    assert (numbers.copies.count, numbers.copies.total) == (4, 7)  # not the one that may only be of the same patient
    # Two copies of one image; both sources of a blend; of a part the source of the region.
    assert (numbers.memorized.count, numbers.memorized.total) == (4, 6)
    assert (numbers.patients.count, numbers.patients.total) == (2, 3)
    assert numbers.kinds["same patient?"].count == 1 and sum(one.count for one in numbers.kinds.values()) == 6
    assert [(group["repeats"], group["leaked"]) for group in numbers.trend["groups"]] == [("1", 2), ("3", 2)]
    assert (numbers.owed.count, numbers.owed.total, numbers.owed.share, numbers.owed_p_value) == (14, 16, 0.7, 0.004)
    assert numbers.shares["unlike"].count == 1 and numbers.shares["unlike"].total == 8
    assert numbers.mi.value == pytest.approx(3) and numbers.mi.lower < 3 < numbers.mi.upper
    assert all(one.lower <= one.share <= one.upper for one in numbers.shares.values())


def test_shares_of_two_training_sets_are_not_compared(audit):
    one = read_audit(*audit, step=800)
    assert set(changes(one, one)) == {"flagged", "copies", "memorized", "patients"}
    larger = replace(one, memorized=wilson(4, 12), patients=wilson(2, 6))
    assert set(changes(one, larger)) == {"flagged", "copies"}, "the same samples show half the share of twice the images"


def test_an_audit_of_another_training_set_is_refused(audit, tmp_path):
    folder, _ = audit
    (tmp_path / "other.csv").write_text("path,patient\nimages/3.png,a\nimages/4.png,b\n")
    with pytest.raises(InputError, match="which is not in it"):
        read_audit(folder, tmp_path / "other.csv", 0)


def test_a_mean_of_nothing_is_not_a_number_and_of_one_has_no_interval():
    assert Mean.of([]).value != Mean.of([]).value
    one = Mean.of([2.0, float("nan")])
    assert one.value == 2 and one.lower != one.lower
