"""The audit of volumes as its users run it, on generated heads: whole and in 3D, along three planes, or as stacks; once for all tests."""

from __future__ import annotations

import csv
import json
import pickle
import re
from pathlib import Path

import doppelscan
import nibabel as nib
import numpy as np
import pytest
from doppelscan.deepssim import DeepSSIMEncoder
from doppelscan.errors import InputError
from doppelscan.images import content_hash, find_images, generate_head, plant_volume
from doppelscan.images.cubes import CUBES
from doppelscan.locations import REPORT_FILES, VOLUMES_READ
from doppelscan.search import EmbeddingStore
from doppelscan.workflows import RecordDataset, VolumeEmbedder, volume_audit, volume_selftest
from doppelscan.workflows.audit import _read_of
from doppelscan.workflows.volume_embed import BlockOfVolumes, OfFile
from made_files import save_png

PEOPLE, SIDE, SPACING = 10, 32, (2.0, 2.0, 2.0)
# Small cubes and slices, and a rate that a control of ten people can reach.
SMALL = {"spatial_size": 64, "volume_embedder::size": 32, "fdr": 0.3, "patient_pattern": r"(p\d+)", "device": "cpu"}


def write(path: Path, pixels: np.ndarray, spacing=SPACING, affine=None) -> None:
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(np.round(pixels * 255).astype(np.uint8), np.diag([*spacing, 1.0]) if affine is None else affine), path)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    rng = np.random.default_rng(0)
    heads = [generate_head(seed, SIDE) for seed in range(2 * PEOPLE + 1)]
    for number in range(PEOPLE):
        write(folder / "training" / f"p{number}.nii.gz", heads[number])
        write(folder / "holdout" / f"p{PEOPLE + 1 + number}.nii.gz", heads[PEOPLE + 1 + number])
    for name, source, change in (("turned", 3, "rotation 10 x"), ("posed", 5, "axes 2 0 1")):
        made = plant_volume(heads[source], SPACING, change, rng)
        write(folder / "synthetic" / f"{name}.nii.gz", made.pixels, made.spacing)
    write(folder / "synthetic" / "stranger.nii.gz", heads[PEOPLE])
    write(folder / "synthetic" / "unspaced.nii.gz", heads[7], (2.0, 2.0, 3.6))
    bad = np.where(heads[0] > 0.9, np.nan, heads[0])
    nib.save(nib.Nifti1Image(bad.astype(np.float32), np.eye(4)), folder / "synthetic" / "nan.nii.gz")
    sheared = np.diag([*SPACING, 1.0])
    sheared[0, 1] = 1.0
    write(folder / "synthetic" / "sheared.nii.gz", heads[0], affine=sheared)
    write(folder / "synthetic" / "series.nii.gz", np.stack([heads[0]] * 2, -1))
    zero = nib.Nifti1Image(np.round(heads[0] * 255).astype(np.uint8), np.diag([*SPACING, 1.0]))
    zero.header["pixdim"][3] = 0
    zero.set_sform(None, 0)
    zero.set_qform(None, 0)
    nib.save(zero, folder / "synthetic" / "flat.nii.gz")
    return {"training": folder / "training", "synthetic": folder / "synthetic", "store": folder / "store"}


@pytest.fixture(scope="module")
def audited(sets, tmp_path_factory):
    output = tmp_path_factory.mktemp("audit")
    return doppelscan.audit(**sets, output=output, **SMALL), output


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_copies_turned_out_of_the_plane_or_with_other_axes_are_found_with_source_and_pose(audited):
    result, output = audited
    rows = {Path(row["image"]).name.split(".")[0]: row for row in result.scores}
    assert set(rows) == {"turned", "posed", "stranger", "unspaced"}, "one row a volume"
    assert rows["turned"]["flagged"] and rows["turned"]["match_patient"] == "p3" and rows["turned"]["finding"] == "copy"
    angle = [float(one) for one in re.findall(r"rot x (\S+) y (\S+) z (\S+)", rows["turned"]["pose"])[0]]
    assert np.allclose(angle, [-10, 0, 0], atol=1), "the transform turns by minus 10 degrees"
    assert rows["posed"]["match_patient"] == "p5" and rows["posed"]["pose"] == "axes 2 0 1"
    assert rows["posed"]["reason"].startswith("identical voxels")
    assert not rows["stranger"]["flagged"] and result.conclusion.verdict.value == "memorization found"
    assert {(row["verdict"], row["unlike"]) for row in result.scores} == {("", False)} and result.summary["images"]["unlike"] == 0
    assert len(read(output / "control.csv")) == PEOPLE and len(read(output / "volumes.csv")) == 4


def test_a_copy_whose_header_says_another_voxel_size_is_found_and_laid_on_its_source(audited):
    """All stages compared volumes in mm: a copy with an affine that nobody set matched another person and was not flagged."""
    result, output = audited
    (row,) = (row for row in result.scores if "unspaced" in row["image"])
    assert row["flagged"] and row["match_patient"] == "p7" and row["pose"] == "stretch 1.00,1.00,1.80"
    assert row["reason"] == "identical voxels, another voxel size in the header" and np.isnan(row["runner_up"])
    page = (output / "report.html").read_text()
    assert "along z enlarged by 80 %" in page and not re.search(r"next patient nan", page)


def test_what_cannot_be_a_volume_is_listed_in_words_and_the_rest_goes_on(audited):
    reasons = {Path(one["path"]).name.split(".")[0]: one["reason"] for one in audited[0].summary["skipped"]}
    assert set(reasons) == {"nan", "sheared", "series", "flat"}
    assert "NaN" in reasons["nan"] and "degrees" in reasons["sheared"] and "--channel" in reasons["series"]
    assert "voxel size" in reasons["flat"]


def test_what_was_read_is_a_table(audited):
    rows = read(audited[1] / VOLUMES_READ)
    assert [row["set"] for row in rows].count("training") == PEOPLE
    assert rows[0] | {"volume": "", "patient": ""} == rows[0] | {
        "volume": "", "patient": "", "format": "nifti", "kind": "volume", "shape": "32 32 32", "spacing": "2 2 2", "orientation": "RAS",
        "left_out": "",
    }  # fmt: skip
    assert rows[0]["patient"] == "p0"
    synthetic = {Path(row["volume"]).name.split(".")[0]: row for row in rows if row["set"] == "synthetic"}
    left_out = {name: row["left_out"] for name, row in synthetic.items() if row["left_out"]}
    assert len(synthetic) == 8, "one row a file, whether it was read or not"
    assert {name: words in left_out[name] for name, words in (("nan", "NaN"), ("sheared", "degrees"), ("flat", "voxel size"))} == {
        "nan": True, "sheared": True, "flat": True,
    } and set(left_out) == {"nan", "sheared", "series", "flat"}  # fmt: skip


def test_the_table_of_what_was_read_names_the_people_whom_the_audit_counts(tmp_path):
    """It had the path of each file as its patient where the audit had found who is who."""
    for name in ("sub-01_a", "sub-02_a"):
        write(tmp_path / f"{name}.nii.gz", generate_head(0, 16))
    found = find_images(tmp_path, volumes="whole")
    rows = _read_of(found, {found.records[0].volume: "sub-01"})
    assert [row["patient"] for row in rows] == ["sub-01", found.records[1].volume]


def test_a_summary_names_no_setting_that_volumes_do_not_have(audited):
    settings = audited[0].summary["settings"]
    assert settings["candidates"] == 8 and "index" not in settings and "rotations" not in settings
    assert (
        settings["preprocessing"][0] == {"cube": 32, "largest": 128, "stored": 16, "version": CUBES}
        and settings["preprocessing"][1]["degrees"] == 15
    )
    assert "builtins" not in json.dumps(settings)
    assert not any("Memorization Index" in note for note in audited[0].summary["notes"])
    rules = audited[0].summary["rules"]
    assert {"close_pair", "least_part", "mixed"} <= set(rules) and not {
        "third",
        "set_in",
        "identical_small",
        "position_patients",
    } & set(rules)


def test_the_page_shows_three_planes_and_goes_through_the_slices_offline(audited):
    page = (audited[1] / "report.html").read_text()
    assert page.count("data-synthetic=") == page.count('class="strip"') == 4 and 'id="slice" min="0" max="' in page
    assert "data-aligned=" in page and "getImageData" in page and not re.search(r'(src|href)="(?!data:|#)', page)
    assert "axes 2 0 1" in page and "(ONI" not in page, "what is not defined for volumes is not shown"


def test_a_second_audit_computes_nothing_and_redaction_names_nobody(sets, audited, tmp_path, monkeypatch):
    def computed(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(EmbeddingStore, "add", computed)
    monkeypatch.setattr(VolumeEmbedder, "view_differences", computed)
    others = {"index": "ivf", "rotations": (0,), "slice_step": 3, "candidates": 9}
    again = doppelscan.audit(**sets, output=tmp_path / "out", redact=True, **SMALL, **others)
    without = "Without effect on volumes that are compared whole: --rotations, --index ivf, --slice-step, --candidates above 8."
    assert without in again.summary["notes"] and not any("Without effect" in note for note in audited[0].summary["notes"])
    assert [row["score"] for row in sorted(again.scores, key=lambda r: r["score"])] == sorted(
        row["score"] for row in audited[0].scores
    )
    files = list((tmp_path / "out").iterdir())
    assert {path.name for path in files} == {*REPORT_FILES, VOLUMES_READ} - {"patients.csv"}
    written = "".join(path.read_text() for path in files)
    assert not re.search(r"\bp\d+\b|nii|data:image|turned\.|stranger\.", written)


def test_a_block_of_volumes_that_is_sent_to_another_process_is_embedded_alike_and_tells_what_cannot_be_read(sets, tmp_path):
    embedder = VolumeEmbedder(
        DeepSSIMEncoder(outputs=["embedding", "layer2"], blocks=(1, 1, 1, 1)).eval(), spatial_size=64, size=32
    )
    found = [find_images(sets[name], name="synthetic", volumes="whole") for name in ("training", "synthetic")]
    records = [*found[0].records[:2], *(one for one in found[1].records if "nan" in one.id)]
    keys = [content_hash(record) for record in records]
    store = embedder.store(tmp_path / "one", 1)
    assert list(embedder.fill(store, keys, [OfFile(one) for one in records], 1, "one")) == keys[2:]
    sent = pickle.loads(
        pickle.dumps(BlockOfVolumes(embedder, embedder.store(tmp_path / "two", 1), keys, [OfFile(one) for one in records], 1))
    )
    assert "NaN" in sent([0, 1, 2])[2]
    read = [one.read(keys[:2], ["embedding", "thumbnail"]) for one in (store, sent.store)]
    for name, values in read[0].items():
        np.testing.assert_array_equal(values, read[1][name])


@pytest.mark.slow
def test_whoever_computes_the_table_is_the_same(sets, audited, tmp_path):
    given = {**sets, "store": tmp_path / "store"}
    result = doppelscan.audit(**given, output=tmp_path / "out", workers=2, **SMALL)
    for one, two in zip(audited[0].scores, result.scores, strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            assert two[name] == (pytest.approx(value, abs=1e-5, nan_ok=True) if isinstance(value, float) else value), name


def test_a_holdout_is_the_control_and_competes_with_training(sets, audited, tmp_path):
    holdout = sets["training"].parent / "holdout"
    result = doppelscan.audit(**sets, holdout=holdout, output=tmp_path, **SMALL)
    assert result.summary["control"] == f"holdout, topped up with {PEOPLE} training volumes"
    assert result.summary["images"]["control"] == 2 * PEOPLE and result.summary["control_against_training"] is not None
    assert result.summary["competition"]["images"] == 4 and result.summary["competition"]["won_by_training"] >= 2
    flagged = {Path(row["image"]).name for row in result.scores if row["flagged"]}
    assert flagged == {"turned.nii.gz", "posed.nii.gz", "unspaced.nii.gz"}


def test_planted_volumes_say_what_would_have_been_found(sets, audited, tmp_path, monkeypatch):
    chosen = {name: volume_selftest.COPIES[name] for name in ("rotation", "noise")}
    monkeypatch.setattr(volume_selftest, "COPIES", chosen)
    monkeypatch.setattr(volume_selftest, "STRANGERS", ("noise",))
    monkeypatch.setattr(volume_selftest, "FEWEST_NEGATIVES", 1)
    monkeypatch.setattr(volume_audit, "size_of", lambda count: 2)
    result = doppelscan.audit(**sets, output=tmp_path, self_test=True, **SMALL)
    rotation, noise = result.summary["self_test"]["copies"]
    assert (rotation["name"], rotation["planted"], rotation["found"], rotation["right_source"]) == ("rotation", 2, 2, 2)
    assert noise["planted"] == 2 and [one["name"] for one in result.summary["self_test"]["negatives"]] == ["means"]
    assert "flagged" in json.dumps(result.summary["self_test"]["negatives"])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"score": "mi"}, "The 'score' parameter must be combined or verified for volumes. Got 'mi'"),
        ({"training": "pictures"}, "The 'training' parameter must name volumes for a synthetic set of volumes. Got 3 2D images"),
        ({"synthetic": "mixed"}, "must name volumes or 2D images, not both. Got 1 volumes and 1 2D images"),
        (
            {"training": "stacks"},
            "Got 2 stacks of thick slices, which are compared slice by slice; give volumes of thin slices, or pass",
        ),
        ({"volumes": "flat"}, "The 'volumes' parameter must be whole or as-slices. Got 'flat'"),
    ],
)
def test_mistakes_are_told_in_one_line(sets, tmp_path, cohort, changed, words):
    for number in range(2):
        write(tmp_path / "stacks" / f"p{number}.nii.gz", generate_head(number, 16)[:, :, ::2], (1.2, 1.2, 8.0))
    for number in range(3):
        save_png(tmp_path / "pictures" / f"p{number}.png", cohort[number])
    save_png(tmp_path / "mixed" / "p0.png", cohort[0])
    write(tmp_path / "mixed" / "p1.nii.gz", generate_head(0, 16))
    given = {name: tmp_path / value if name in ("training", "synthetic") else value for name, value in changed.items()}
    with pytest.raises(InputError) as error:
        doppelscan.audit(**{**sets, **SMALL, **given}, output=tmp_path / "out")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_declared_change_that_no_volume_is_planted_with_is_refused_before_anything_is_read(sets, tmp_path):
    with pytest.raises(InputError, match=r"planted in these sets: rotation, flip, .*half. Got shift, blur; leave them out"):
        doppelscan.audit(**sets, output=tmp_path / "o", declared="rotation,shift,blur", self_test=True)


def test_volumes_beside_pictures_are_cut_along_three_planes(sets, tmp_path, cohort):
    save_png(tmp_path / "pictures" / "one.png", cohort[0])
    pictures = RecordDataset(tmp_path / "pictures", lambda item: item, name="synthetic", volumes="whole", slice_step=8)
    cut = pictures.with_source(sets["training"], "training").image_set
    assert {record.axis for record in cut.records} == {0, 1, 2} and not cut.whole_volumes
    volumes = RecordDataset(sets["training"], lambda item: item, name="synthetic", volumes="whole")
    assert volumes.with_source(sets["training"], "training").image_set.whole_volumes


def test_pictures_are_found_in_volumes_with_plane_and_place(tmp_path):
    """A whole audit: slices of two training people and of a stranger against volumes of which every fourth slice is looked at."""
    heads = [generate_head(seed, 40) for seed in range(7)]
    for number, head in enumerate(heads[:6]):
        write(tmp_path / "training" / f"p{number}.nii.gz", head)
    save_png(tmp_path / "pictures" / "coronal.png", heads[2][:, 16, ::-1].T)
    save_png(tmp_path / "pictures" / "sagittal.png", heads[4][20].T)
    save_png(tmp_path / "pictures" / "stranger.png", heads[6][:, :, 20].T)
    given = {"training": tmp_path / "training", "synthetic": tmp_path / "pictures", "output": tmp_path / "out"}
    result = doppelscan.audit(**given, slice_step=4, self_test=False, rotations=(0,), **{**SMALL, "control_size": 12})
    rows = {Path(row["image"]).stem: row for row in result.scores}
    for name, volume, plane, place in (("coronal", "p2", "coronal", -7.0), ("sagittal", "p4", "sagittal", 1.0)):
        row = rows[name]
        assert (row["match_patient"], row["match_plane"], row["flagged"]) == (volume, plane, True)
        assert Path(row["match_volume"]).name == f"{volume}.nii.gz" and float(row["match_mm"]) == pytest.approx(place)
    assert not rows["stranger"]["flagged"]
    assert "cut into" in " ".join(result.summary["notes"]) and len(read(tmp_path / "out" / VOLUMES_READ)) == 6


def test_thick_stacks_are_items_slice_by_slice(tmp_path):
    for number in range(2):
        write(tmp_path / "stacks" / f"p{number}.nii.gz", generate_head(number, 16)[:, :, ::2], (1.2, 1.2, 8.0))
    stacks = RecordDataset(tmp_path / "stacks", lambda item: item, name="synthetic", volumes="whole")
    assert len(stacks) == 16 and not stacks.image_set.whole_volumes
