"""What kind a finding is, who is there twice, and when the control will not do."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

import doppelscan
import numpy as np
import pytest
from doppelscan.images import InputError, generate_cohort, plant_copy
from made_files import save_png
from scipy import ndimage


def write_people(root: Path, people: np.ndarray, training: int, holdout: int) -> None:
    """The first of ``people`` as training images, those up to ``holdout`` as the holdout."""
    for i in range(holdout):
        part = "training" if i < training else "holdout"
        save_png(root / part / f"{part[0]}{i:03d}.png", people[i])


@pytest.fixture(scope="module")
def people() -> np.ndarray:
    """float32 [110, 128, 128]: one image each of look-alikes."""
    return generate_cohort(110, 1, 128, seed=21)[0][:, 0].numpy().astype(np.float32) / 255


@pytest.fixture(scope="module")
def sets(people, tmp_path_factory) -> dict[str, Path]:
    """30 training and 60 holdout people; synthetic: 4 copies, 4 blurred, 4 blurred and noisy ones, 4 halves, 4 blends, 12 novel images."""
    root = tmp_path_factory.mktemp("kinds")
    rng = np.random.default_rng(0)
    write_people(root, people, 30, 90)
    for k in range(4):
        save_png(root / "synthetic" / f"copy{k}.png", plant_copy(people[k], "rotation 5", rng))
        half = people[90 + k].copy()
        half[:, :64] = people[8 + k][:, :64]
        save_png(root / "synthetic" / f"half{k}.png", half)
        save_png(root / "synthetic" / f"mixed{k}.png", 0.6 * people[12 + k] + 0.4 * people[20 + k])
        soft = ndimage.gaussian_filter(plant_copy(people[4 + k], "rotation 5", rng), 1.5)
        save_png(root / "synthetic" / f"soft{k}.png", soft)
        save_png(root / "synthetic" / f"noisy{k}.png", soft + 0.05 * rng.standard_normal(soft.shape))
    for k in range(12):
        save_png(root / "synthetic" / f"novel{k:02d}.png", people[94 + k])
    return {name: root / name for name in ("training", "synthetic", "holdout")}


@pytest.fixture(scope="module")
def audited(sets, store, tmp_path_factory):
    return doppelscan.audit(**sets, output=tmp_path_factory.mktemp("out"), store=store)


def kinds(result, name: str) -> list[str]:
    return [r["finding"] for r in result.scores if os.path.basename(r["image"]).startswith(name)]


def test_copies_halves_and_blends_are_named_as_such(audited):
    assert kinds(audited, "copy") == ["copy"] * 4
    assert kinds(audited, "half").count("part") >= 3 and "" not in kinds(audited, "half")
    assert kinds(audited, "mixed").count("blend") >= 3 and "" not in kinds(audited, "mixed")
    assert kinds(audited, "novel") == [""] * 12
    assert audited.summary["findings"] == {
        kind: Counter(r["finding"] for r in audited.scores)[kind] for kind in audited.summary["findings"]
    }


def test_a_blurred_or_noisy_copy_is_a_copy(audited):
    assert kinds(audited, "soft") == ["copy"] * 4 and kinds(audited, "noisy") == ["copy"] * 4


def test_a_part_names_its_source_and_its_share(audited):
    for row in audited.scores:
        name = os.path.basename(row["image"])
        if row["finding"] == "part":
            assert os.path.basename(row["part_match"]) == f"t{8 + int(name[4]):03d}.png" and 0.2 < row["part_share"] < 0.8


def test_a_blend_names_both_sources_and_the_weight_of_the_second(audited):
    for row in audited.scores:
        name = os.path.basename(row["image"])
        if row["finding"] == "blend":
            first, second = 12 + int(name[5]), 20 + int(name[5])
            found = {os.path.basename(row["match"]), os.path.basename(row["second_match"])}
            assert found == {f"t{first:03d}.png", f"t{second:03d}.png"} and 0.25 < row["second_share"] < 0.75
    with open(audited.output / "exposure.csv", newline="") as file:
        exposed = {os.path.basename(row["patient"]) for row in csv.DictReader(file)}
    assert {"t020.png", "t012.png", "t008.png", "t000.png"} <= exposed


def test_a_neighbouring_slice_may_only_be_the_same_patient(people, store, tmp_path):
    """Structure of its own in every place, as the next slice has, and everything else the same."""
    rng = np.random.default_rng(3)
    write_people(tmp_path, people, 20, 60)
    for i in range(4):
        other = ndimage.gaussian_filter(rng.standard_normal((128, 128)), 1.5)
        other *= (people[i] > 0.05) * 0.035 / other.std()
        save_png(tmp_path / "synthetic" / f"near{i}.png", np.clip(people[i] + other, 0, 1))
        save_png(tmp_path / "synthetic" / f"copy{i}.png", plant_copy(people[i + 4], "rotation 5", rng))
    result = doppelscan.audit(
        **{n: tmp_path / n for n in ("training", "synthetic", "holdout")}, output=tmp_path / "out", store=store
    )
    assert kinds(result, "near") == ["same patient?"] * 4 and kinds(result, "copy") == ["copy"] * 4
    assert "4 copies, 4 same patient?" in result.conclusion.reason
    rows = {os.path.basename(row["image"]): row["same_patient_p_value"] for row in result.scores}
    # They lie as their person does: hardly any of the strangers' pairs lies so.
    near = [rows[f"near{i}.png"] for i in range(4)]
    assert sorted(near)[2] <= 0.05 and max(near) < 0.2, near
    assert result.summary["rules"]["same_patient_p"] == 0.01 and "same_patient" not in result.summary, "nobody has two images"


def test_means_of_training_images_are_of_no_patient(people, store, tmp_path):
    rng = np.random.default_rng(3)
    write_people(tmp_path, people, 30, 90)
    nearest = [np.argsort(((people[:30] - people[i]) ** 2).mean((1, 2))) for i in range(12)]
    for i in range(12):
        mean = people[nearest[i][: (3, 3, 5)[i % 3]]].mean(0)
        save_png(tmp_path / "synthetic" / f"mean{i:02d}.png", mean + 0.01 * rng.standard_normal(mean.shape))
    result = doppelscan.audit(
        **{n: tmp_path / n for n in ("training", "synthetic", "holdout")}, output=tmp_path / "out", store=store, self_test=False
    )
    assert set(kinds(result, "mean")) <= {"no single source", ""} and kinds(result, "mean").count("no single source") >= 2
    assert result.conclusion.verdict == "cannot conclude" and "derived from training" in result.conclusion.reason
    with open(tmp_path / "out" / "exposure.csv", newline="") as file:
        assert not list(csv.DictReader(file)), "nobody is exposed"


def test_one_person_under_two_names_is_reported_and_left_out_of_the_control(people, sets, store, tmp_path):
    rng = np.random.default_rng(1)
    write_people(tmp_path, people, 30, 90)
    save_png(tmp_path / "training" / "t900.png", plant_copy(people[5], "rotation 3", rng))
    save_png(tmp_path / "holdout" / "h900.png", plant_copy(people[7], "noise", rng))
    result = doppelscan.audit(
        training=tmp_path / "training",
        synthetic=sets["synthetic"],
        holdout=tmp_path / "holdout",
        output=tmp_path / "out",
        store=store,
        patient_pattern=r"([th]\d+)",
    )
    pairs = {(r["set"], frozenset(os.path.basename(r[k]) for k in ("image", "match"))) for r in result.summary["near_duplicates"]}
    assert pairs == {("training", frozenset(("t900.png", "t005.png"))), ("control", frozenset(("h900.png", "t007.png")))}
    # The same person is nobody else: a blurred or noisy copy of them is a copy.
    assert kinds(result, "soft") == ["copy"] * 4 and kinds(result, "noisy") == ["copy"] * 4
    # The holdout without the double, topped up with the training images.
    assert result.summary["images"]["control"] == 60 + 31 and any("left out of the control" in n for n in result.summary["notes"])
    assert "same person twice" in (tmp_path / "out" / "report.html").read_text()


def test_a_control_of_another_kind_is_refused(people, sets, store, tmp_path):
    for i in range(30, 90):
        blurred = ndimage.gaussian_filter(people[i], 1.6) ** 0.6
        save_png(tmp_path / "holdout" / f"h{i:03d}.png", blurred)
    result = doppelscan.audit(
        training=sets["training"], synthetic=sets["synthetic"], holdout=tmp_path / "holdout", output=tmp_path / "out", store=store
    )
    assert result.conclusion.verdict.value == "cannot conclude" and "another kind" in result.conclusion.reason


@pytest.mark.parametrize("score", ["deepssim", *(pytest.param(name, marks=pytest.mark.slow) for name in ("verified", "mi"))])
def test_each_score_ranks_copies_first_and_is_the_one_that_is_calibrated(sets, store, tmp_path, score):
    result = doppelscan.audit(**sets, output=tmp_path, score=score, store=store, correction="by")
    column = {"deepssim": "deepssim", "mi": "mi"}.get(score)
    assert column is None or all(r["score"] == r[column] for r in result.scores)
    assert result.summary["score"] == score and result.summary["correction"] == "by"
    ranked = sorted(result.scores, key=lambda r: -r["score"])
    assert all("novel" not in os.path.basename(r["image"]) for r in ranked[:4])


@pytest.mark.parametrize(("settings", "words"), [({"score": "ssim"}, "combined, verified"), ({"correction": "holm"}, "bh or by")])
def test_settings_that_do_not_exist_are_one_line(sets, tmp_path, settings, words):
    with pytest.raises(InputError, match=words):
        doppelscan.audit(**sets, output=tmp_path, **settings)


def test_leaks_are_counted_by_how_often_a_record_was_shown(sets, store, tmp_path):
    table = tmp_path / "training.csv"
    rows = [f"{path},{path.stem},{10 if int(path.stem[1:]) < 4 else 1}" for path in sorted(sets["training"].iterdir())]
    table.write_text("path,patient,repeats\n" + "\n".join(rows) + "\n")
    result = doppelscan.audit(
        training=table, synthetic=sets["synthetic"], holdout=sets["holdout"], output=tmp_path / "out", store=store
    )
    trend = result.summary["duplication_trend"]
    assert [(g["repeats"], g["images"]) for g in trend["groups"]] == [("1", 26), ("10", 4)]
    assert trend["groups"][1]["share"] == 1.0 > trend["groups"][0]["share"] and trend["tau"] > 0
    assert "Leaks by how often" in (tmp_path / "out" / "report.html").read_text()


def test_one_copy_among_many_images_is_flagged_by_the_tail_of_the_control(people, sets, store, tmp_path):
    """One turned copy among forty with 60 controls: by counting q is 40/61."""
    save_png(tmp_path / "synthetic" / "copy.png", plant_copy(people[3], "rotation 5", np.random.default_rng(0)))
    for i in range(39):
        save_png(tmp_path / "synthetic" / f"novel{i}.png", generate_cohort(1, 1, 128, seed=900 + i)[0][0, 0].numpy() / 255)
    result = doppelscan.audit(
        training=sets["training"], synthetic=tmp_path / "synthetic", holdout=sets["holdout"], output=tmp_path / "out", store=store
    )
    row = next(r for r in result.scores if "copy" in r["image"])
    assert row["flagged"] and row["finding"] == "copy" and row["q_value"] <= 0.05 and row["p_value"] < 1 / 61
    assert result.conclusion.verdict.value == "memorization found"
