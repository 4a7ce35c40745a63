"""One image at a time, as a reviewer sees it: the right match and map, in the order of risk, and no second audit of the same files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from doppelscan.images import InputError
from doppelscan.workflows import Review, encoder_weights
from doppelscan.workflows import review as review_module
from doppelscan.workflows import run as run_module
from made_files import dicom, save_png


@pytest.fixture
def review(folders, store, tmp_path) -> Review:
    return Review(folders["training"], tmp_path / "out", folders["holdout"], device="cpu", store=store)


def test_an_image_has_its_match_pose_and_a_map_of_its_own_size(review, folders):
    found = review.image(folders["synthetic"] / "copy.png")
    assert Path(found.values["match"]).name == "p03.png" and found.values["pose"].startswith("flip-x")
    assert (
        found.values["score"] > 0.9 and found.values["mi"] > 3 and "p_value" not in found.values
    )  # nothing is judged without a control
    assert found.agreement.shape == (96, 96) and found.affine is None and np.median(found.agreement[24:72, 24:72]) > 0.8
    novel = review.image(folders["synthetic"] / "novel10.png")
    assert novel.values["score"] < 0.5 and np.median(novel.agreement[24:72, 24:72]) < 0.6


def test_the_audit_adds_what_the_control_says_and_orders_the_images(review, folders, monkeypatch):
    images = sorted(folders["synthetic"].glob("*.png"))
    assert review.ranked(images)[0] == str(images[0])  # copy.png
    values = review.image(images[0]).values
    assert values["flagged"] is True and values["finding"] == "copy" and 0 < values["p_value"] < 0.1
    assert json.loads(json.dumps(values)) == values
    monkeypatch.setattr(review_module, "audit", lambda **settings: pytest.fail("the same files were audited again"))
    review.ranked(images)


def test_changed_files_are_audited_again(review, folders, cohort):
    images = sorted(folders["synthetic"].glob("*.png"))
    review.audit(images)
    save_png(images[1], cohort[5])
    os.utime(images[1], (1, 1))
    assert Path(review.ranked(images)[0]).name in ("copy.png", images[1].name)
    assert review.known()[str(images[1])]["flagged"] is True


def test_an_image_that_cannot_be_read_is_looked_at_first(review, folders):
    broken = folders["synthetic"] / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    order = review.ranked(sorted(folders["synthetic"].glob("*.png")))
    assert [Path(one).name for one in order[:2]] == ["broken.png", "copy.png"]
    with pytest.raises(InputError):
        review.image(broken)


def test_a_folder_is_a_dicom_series(review, cohort, tmp_path):
    (tmp_path / "series").mkdir()
    for number, one in enumerate((cohort[50], cohort[3], cohort[51])):
        position = (0.0, 0.0, float(number))
        dicom(tmp_path / "series" / f"{number}.dcm", np.round(one * 1000), number=number, position=position)
    found = review.image(tmp_path / "series")
    assert found.values["slice"] == 1 and Path(found.values["match"]).name == "p03.png" and found.agreement.shape == (96, 96, 3)


@pytest.mark.parametrize("stored", [(1, 1, 1), (-1, -1, -1)])
def test_the_map_of_a_volume_lies_where_its_slice_lies_however_it_is_stored(review, folders, cohort, tmp_path, stored):
    slices = [cohort[50], cohort[3], cohort[51]]
    volume = np.stack([np.rot90(np.round(one * 255), -1) for one in slices], 2).astype(np.float32)
    held = volume[:: stored[0], :: stored[1], :: stored[2]]
    nib.save(nib.Nifti1Image(held, np.diag([*stored, 1.0])), tmp_path / "volume.nii.gz")
    found = review.image(tmp_path / "volume.nii.gz")
    assert found.values["slice"] == 1 and Path(found.values["match"]).name == "p03.png"
    canonical = nib.as_closest_canonical(nib.load(tmp_path / "volume.nii.gz"))
    assert found.agreement.shape == canonical.shape and np.allclose(found.affine, canonical.affine)
    means = found.agreement[24:72, 24:72].mean((0, 1))
    assert means[1] > 0.8 and means[1] > 1.5 * max(means[0], means[2])


def test_the_map_of_an_oblong_image_lies_on_it(review, folders, cohort, tmp_path):
    wide = np.pad(cohort[3], ((0, 0), (0, 48)))  # the body keeps to the left
    save_png(tmp_path / "wide.png", wide)
    found = review.image(tmp_path / "wide.png")
    assert found.agreement.shape == (96, 144)
    assert found.agreement[24:72, 24:72].mean() > 2 * found.agreement[:, 108:].mean()


def test_the_map_of_a_picture_on_a_page_lies_on_the_picture(review, folders, cohort, tmp_path):
    page = np.pad(cohort[3], ((50, 20), (10, 30)), constant_values=cohort[3].max())
    save_png(tmp_path / "page.png", page)
    save_png(tmp_path / "bare.png", cohort[3])
    found, bare = review.image(tmp_path / "page.png"), review.image(tmp_path / "bare.png")
    assert found.agreement.shape == page.shape and found.values["match"] == bare.values["match"]
    np.testing.assert_allclose(found.agreement[50:146, 10:106], bare.agreement, atol=0.05)
    outside = np.ones(page.shape, bool)
    outside[50:146, 10:106] = False
    assert not found.agreement[outside].any()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rotation": [0]}, "no setting rotation of an audit; did you mean rotations?"),
        ({"fdr": "abc"}, "'fdr' parameter must be a number between 0 and 1"),
        ({"redact": "maybe"}, "'redact' parameter must be true or false"),
        ({"holdout": "nowhere"}, "'holdout' parameter must be an existing folder"),
    ],
)
def test_a_wrong_setting_is_refused_when_the_review_is_made(folders, tmp_path, settings, words):
    with pytest.raises(InputError) as error:
        Review(folders["training"], tmp_path / "out", **settings)
    assert words in str(error.value)


def test_the_short_form_of_the_encoder_is_the_path_of_its_weights(folders, tmp_path, monkeypatch):
    """Not the id ``encoder`` of the config, which is the network that was made of them."""
    weights = shutil.copy(encoder_weights(), tmp_path / "own.pt")
    made = []

    def workflow(**overrides):
        made.append(overrides)
        raise RuntimeError("far enough")

    monkeypatch.setattr(run_module, "ConfigWorkflow", workflow)
    review = Review(folders["training"], tmp_path / "out", encoder=weights)
    image = folders["synthetic"] / "copy.png"
    for ask in (review.image, lambda path: review.audit([path])):
        with pytest.raises(RuntimeError, match="far enough"):
            ask(image)
    assert len(made) == 2 and all(one["ckpt_path"] == str(weights) and "encoder" not in one for one in made)


@pytest.fixture
def counted(folders, tmp_path, monkeypatch):
    """A review of one image whose audits are counted, not made; ``source`` gives its training set."""
    made = []

    def audit(**settings):
        made.append(settings)
        return SimpleNamespace(scores=[], conclusion=SimpleNamespace(verdict=SimpleNamespace(value="cannot conclude")))

    def scorer():
        made.append("fitted")
        return lambda source: pytest.fail("scored")

    workflow = SimpleNamespace(parser=SimpleNamespace(get_parsed_content=lambda name: SimpleNamespace(scorer=scorer)))
    monkeypatch.setattr(review_module, "audit", audit)
    monkeypatch.setattr(review_module, "audit_workflow", lambda **settings: workflow)

    def asked(source: Path = folders["training"]) -> tuple[list, Review]:
        return made, Review(source, tmp_path / "out", folders["holdout"])

    return asked


def added(folder: Path) -> None:
    shutil.copy(folder / "p00.png", folder / "new.png")


def removed(folder: Path) -> None:
    (folder / "p00.png").unlink()


def within_the_second(folder: Path) -> None:
    """Other bytes, as many, a moment later."""
    path = folder / "p00.png"
    status = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns // 10**9 * 10**9 + (status.st_mtime_ns + 1) % 10**9))


def with_its_time_set_back(folder: Path) -> None:
    path = folder / "p00.png"
    status = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def far_down(folder: Path) -> None:
    (folder / "more" / "patients").mkdir(parents=True)
    added(folder)
    (folder / "new.png").rename(folder / "more" / "patients" / "new.png")


@pytest.mark.parametrize("change", [added, removed, within_the_second, with_its_time_set_back, far_down])
@pytest.mark.parametrize("name", ["training", "holdout"])
def test_a_changed_folder_is_audited_anew(counted, folders, change, name):
    made, review = counted()
    (folders["holdout"] / "q20.png").rename(folders["holdout"] / "p00.png")
    images = [folders["synthetic"] / "copy.png"]
    review.audit(images)
    review.audit(images)
    assert len(made) == 1
    change(folders[name])
    review.audit(images)
    assert len(made) == 2
    review.audit(images)
    assert len(made) == 2


def test_files_that_a_table_lists_are_looked_at_too(counted, folders, tmp_path):
    (tmp_path / "training.csv").write_text("path\ntraining/p00.png\ntraining/p01.png\n")
    made, review = counted(tmp_path / "training.csv")
    images = [folders["synthetic"] / "copy.png"]
    review.audit(images)
    shutil.copy(folders["training"] / "p05.png", folders["training"] / "p06.png")  # which is not listed
    review.audit(images)
    assert len(made) == 1
    with_its_time_set_back(folders["training"])
    review.audit(images)
    assert len(made) == 2


def test_single_images_are_scored_against_the_training_set_as_it_is_now(counted, folders):
    made, review = counted()
    for change in (None, None, added):
        if change:
            change(folders["training"])
        with pytest.raises(pytest.fail.Exception, match="scored"):
            review.image(folders["synthetic"] / "copy.png")
    assert made == ["fitted", "fitted"]
