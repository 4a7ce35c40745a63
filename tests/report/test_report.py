"""The page stays readable and small, the tables keep their digits, redaction names nobody."""

from __future__ import annotations

import csv
import re
from dataclasses import replace

import numpy as np
import pytest
from doppelscan.calibrate import compete
from doppelscan.decide import SetFacts
from doppelscan.files import to_csv
from doppelscan.images.geometry import unknown_geometry
from doppelscan.report import SCORE_COLUMNS, write_report
from doppelscan.report.tables import exposure_rows, patient_rows, volume_rows
from doppelscan.verify import Pose
from made_records import made_decision, made_pair, made_summary


def written(folder, decision, redact=False) -> list[dict]:
    return write_report(folder, decision, made_summary(decision), redact=redact, pair=made_pair)


@pytest.mark.parametrize("flagged", [0, 1, 50, 2000])
def test_page_stays_under_20_mb_with_every_pair_listed(tmp_path, cohort, flagged):
    decision = made_decision(flagged, cohort=cohort)
    written(tmp_path, decision)
    page = (tmp_path / "report.html").read_text()
    assert len(page) < 20e6
    assert len(re.findall('class="pair( brief)?"', page)) == flagged and page.count('class="pair near"') == 5
    conclusion = page.index(f"<h1>{'memorization found' if flagged else 'no memorization found'}")
    assert conclusion < page.index("You may sign") < page.index('class="pair') < page.index('class="plot"')
    assert (tmp_path / "report_files").exists() == (flagged > 300), "many pictures lie beside the page"


def test_page_is_offline_and_escapes_what_it_is_given(tmp_path, cohort):
    written(tmp_path, made_decision(3, cohort=cohort))
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "<bad>" not in page and "&lt;b&gt;markup" in page


def test_redaction_leaves_no_path_patient_or_picture(tmp_path, cohort):
    decision = made_decision(3, cohort=cohort)
    rows = written(tmp_path, decision, redact=True)
    for file in tmp_path.iterdir():
        assert not re.search(r"patient\d|/\d+\.png|data:image|bad>", file.read_text()), file
    again = written(tmp_path, decision, redact=True)
    assert not {row["match"] for row in rows} & {row["match"] for row in again}, "pseudonyms of two reports must not be linkable"
    assert sum(row["score"] == 1.0 for row in rows) == 3


def test_csv_floats_are_float32_with_their_digits():
    row = {c: 0.123456789 for c in SCORE_COLUMNS} | {"flagged": True, "mi": float("nan"), "image": 'a,"b.png'}
    text = to_csv(SCORE_COLUMNS, [row])
    assert "0.1234568" in text and ",true" in text and "nan" in text and '"a,""b.png"' in text


def test_volumes_take_the_best_slice_and_a_p_value_of_all_their_slices():
    decision = made_decision(2, total=4)
    one_volume = [replace(one, record=replace(one.record, volume="v", patient="v")) for one in decision.images]
    decision = replace(decision, images=tuple(one_volume))
    (row,) = volume_rows(decision)
    assert row["flagged_images"] == 2
    assert abs(row["p_value"] - 4 * 0.01 / 0.8 / 2) < 1e-9, "two of four slices at 0.01, by Simes, of four fifths of the rate"
    regions = [replace(one, flag=replace(one.flag, p_value=0.5, part_p_value=0.0001)) for one in one_volume[:2]] + list(
        one_volume[2:]
    )
    (row,) = volume_rows(replace(decision, images=tuple(regions)))
    assert abs(row["p_value"] - 4 * 0.0001 / 0.2 / 2) < 1e-9, "a volume whose regions are copied is no clean one"
    assert patient_rows(decision)[0]["images"] == 4


@pytest.mark.parametrize(("order", "words"), [(1, "identity"), (-1, "identity, slices reversed")])
def test_a_stack_whose_slices_run_the_other_way_is_told(order, words):
    geometry = unknown_geometry((20, 20, 6))
    decision = made_decision(4, total=4)
    images = [
        replace(
            one,
            record=replace(one.record, volume="v", slice=number, axis=2, geometry=geometry),
            match=replace(one.match, volume="w", slice=number if order > 0 else 5 - number, axis=2, geometry=geometry),
            scored=replace(one.scored, pose=Pose()),
        )
        for number, one in enumerate(decision.images)
    ]
    (row,) = volume_rows(replace(decision, images=tuple(images)))
    assert row["pose"] == words


def test_exposure_counts_every_source_of_a_finding():
    exposure = {row["patient"]: row for row in exposure_rows(made_decision(4))}
    assert exposure["training-patient1"]["part"] == 1, "a part exposes the patient of the part, not the whole image's match"
    assert exposure["training-patient2"]["blend"] == 1, "the second source of a blend is exposed too"
    assert exposure["training-patient0"]["copy"] == 1


def test_page_names_people_who_are_there_twice_before_the_distributions(tmp_path, cohort):
    written(tmp_path, made_decision(3, cohort=cohort))
    page = (tmp_path / "report.html").read_text()
    assert page.index("same person twice") < page.index("Synthetic against control") and "training-patient4" in page


def test_page_says_how_many_images_chance_would_give_to_training(tmp_path, cohort):
    names = [f"t{i % 20}" for i in range(30)]
    owed = compete(np.full(30, 0.4), np.full(30, 0.2), names, [f"d{i % 10}" for i in range(30)], 20, 10)
    written(tmp_path, replace(made_decision(3, 30, cohort=cohort), owed=owed))
    words = " ".join((tmp_path / "report.html").read_text().split())
    assert "30 of 30 synthetic images are nearer to a training patient than to a patient of the holdout; 20 would be if" in words


def test_page_says_that_an_image_of_no_single_source_is_as_near_to_another_patient(tmp_path, cohort):
    decision = made_decision(5, cohort=cohort)
    assert decision.images[4].finding.kind == "no single source"
    images = list(decision.images)
    images[4] = replace(images[4], scored=replace(images[4].scored, runner_up=0.87))
    written(tmp_path, replace(decision, images=tuple(images)))
    words = " ".join((tmp_path / "report.html").read_text().split())
    assert "derived from training: verified score 1.00 with this patient, 0.87 with the next" in words
    with open(tmp_path / "exposure.csv", newline="") as file:
        assert "training-patient4" not in {row["patient"] for row in csv.DictReader(file)}, "it exposes nobody"


def test_sets_are_known_by_their_images_and_not_by_their_names():
    decision = made_decision(3)
    sets, again = made_summary(decision).as_dict()["sets"], made_summary(decision).sets
    assert sets["training"]["images"] == 40 and sets["synthetic"]["images"] == 8 and sets["control"]["patients"] == 30
    assert len({one["sha256"] for one in sets.values()}) == 3 and sets["training"]["sha256"] == again["training"].sha256
    training = decision.training
    assert SetFacts.of(training.subset(range(39, -1, -1))).sha256 == sets["training"]["sha256"], "in whatever order they are listed"
    assert SetFacts.of(training.subset(range(39))).sha256 != sets["training"]["sha256"]


def test_a_share_that_is_filed_is_never_below_none():
    """Where the decoys win, what is owed is estimated below 0: -1.00 to -0.72 stood in summary.json as a share."""
    names = [f"t{i % 20}" for i in range(30)]
    owed = compete(np.full(30, 0.2), np.full(30, 0.4), names, [f"d{i % 10}" for i in range(30)], 20, 10)
    assert owed.owed < 0 and owed.owed_lower < 0
    filed = made_summary(replace(made_decision(3, 30), owed=owed)).competition
    assert filed is not None and 0 <= filed["owed_lower"] <= filed["owed"] <= filed["owed_upper"]


def test_a_set_that_names_no_patient_has_no_table_of_patients(tmp_path):
    """It held a row an image, each its own patient; that of an earlier audit goes."""
    decision = made_decision(2, 4)
    write_report(tmp_path, decision, made_summary(decision), False)
    assert len((tmp_path / "patients.csv").read_text().splitlines()) == 5
    unnamed = tuple(replace(one, record=replace(one.record, patient_known=False)) for one in decision.images)
    decision = replace(decision, images=unnamed)
    write_report(tmp_path, decision, made_summary(decision), False)
    assert not (tmp_path / "patients.csv").exists() and (tmp_path / "volumes.csv").is_file()
