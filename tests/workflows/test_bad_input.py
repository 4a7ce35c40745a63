"""Bad input loses nothing: it is listed with its reason and the rest goes on, or it is one clear line."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
import warnings
from types import SimpleNamespace

import doppelscan
import nibabel as nib
import numpy as np
import pytest
import torch
from doppelscan.deepssim import WeightsError
from doppelscan.images import InputError
from doppelscan.report import ReportError
from doppelscan.report import write as report_write
from doppelscan.search import StoreError
from made_files import dicom, save_png
from PIL import Image
from warm import run_warm


@pytest.fixture
def folders(folders, store):
    """With the store of all tests."""
    return {**folders, "store": store}


def run(folders, tmp_path, **settings):
    return doppelscan.audit(**folders, output=tmp_path / "out", **settings)


def test_unreadable_files_among_good_ones_are_listed_and_the_rest_goes_on(folders, tmp_path, cohort):
    bad = folders["synthetic"]
    whole = (bad / "copy.png").read_bytes()
    (bad / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (bad / "text.png").write_text("no image")
    save_png(bad / "constant.png", np.full((50, 50), 0.5))
    save_png(bad / "pixel.png", np.ones((1, 1)))
    np.save(bad / "nan.npy", np.where(cohort[0] > 0.5, np.nan, cohort[0]))
    volume = np.random.default_rng(0).random((20, 20, 8)).astype(np.float32)
    volume[:, :, 4] = np.inf
    nib.save(nib.Nifti1Image(volume, np.eye(4)), bad / "inf.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9, 2), np.float32), np.eye(4)), bad / "bold.nii")
    result = run(folders, tmp_path, volumes="as-slices", slice_step=1)
    reasons = {os.path.basename(s["path"]): s["reason"] for s in result.summary["skipped"]}
    assert "pixels" in reasons["truncated.png"] and "content" in reasons["text.png"] and "constant" in reasons["constant.png"]
    assert "at least 8" in reasons["pixel.png"] and "NaN" in reasons["nan.npy"] and "Inf" in reasons["inf.nii.gz#slice=4"]
    assert "--channel" in reasons["bold.nii"] and len(reasons) == 7
    assert len(result.scores) == 4 + 3  # the four good images and the three good slices of the volume with Inf
    assert "truncated<span" in (tmp_path / "out" / "report.html").read_text()


def test_rgb_wrong_extension_spaces_and_other_scripts_are_read(folders, tmp_path, cohort):
    grey = np.round(cohort[4] * 255).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, -1)).save(folders["synthetic"] / "Kopie mit Farbe 複製.png")
    (folders["synthetic"] / "copy.png").rename(folders["synthetic"] / "copy.jpg")
    result = run(folders, tmp_path)
    rows = {os.path.basename(r["image"]): r for r in result.scores}
    assert os.path.basename(rows["Kopie mit Farbe 複製.png"]["match"]) == "p04.png"
    assert os.path.basename(rows["copy.jpg"]["match"]) == "p03.png" and not result.summary["skipped"]


def test_synthetic_names_that_tell_no_patient_are_scored_too_and_real_ones_are_counted(folders, tmp_path):
    (folders["training"] / "p09.png").rename(folders["training"] / "somebody.png")
    result = run(folders, tmp_path, patient_pattern=r"([pq]\d+)")
    assert len(result.scores) == 4 and not result.summary["skipped"] and result.summary["images"]["training_patients"] == 10
    assert [note for note in result.summary["notes"] if "does not match 1 name of the training set" in note]


def test_two_dicom_series_in_one_folder_are_both_scored(folders, tmp_path):
    rng = np.random.default_rng(0)
    for series in ("1.2.3", "1.2.4"):
        for i in range(8):
            pixels = rng.integers(0, 500, (24, 24)) + np.add.outer(np.arange(24), np.arange(24)) * i
            dicom(folders["synthetic"] / f"{series}-{i}.dcm", pixels, series, i, (0, 0, 2.0 * i))
    result = run(folders, tmp_path, volumes="as-slices", slice_step=1)
    series = [r["image"] for r in result.scores if "series=" in r["image"]]
    assert len(series) == 8 and len({s.split("#slice")[0] for s in series}) == 2


@pytest.mark.parametrize("name", ["training", "synthetic", "holdout"])
def test_missing_empty_and_wholly_unreadable_folders_are_errors(folders, tmp_path, name):
    with pytest.raises(InputError, match=rf"'{name}'.*does not exist"):
        run({**folders, name: tmp_path / "nowhere"}, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=rf"'{name}'.*holds none"):
        run({**folders, name: tmp_path / "empty"}, tmp_path)
    (tmp_path / "bad").mkdir()
    save_png(tmp_path / "bad" / "flat.png", np.full((40, 40), 0.3))
    with pytest.raises(InputError, match=rf"'{name}'.*readable image.*constant"):
        run({**folders, name: tmp_path / "bad"}, tmp_path)


def test_the_same_folder_twice_is_an_error(folders, tmp_path):
    with pytest.raises(InputError, match="same 10 files twice"):
        run({**folders, "synthetic": folders["training"]}, tmp_path)
    with pytest.raises(InputError, match="'training' and 'holdout'"):
        run({**folders, "holdout": folders["training"]}, tmp_path)


def test_sets_cannot_be_swapped_by_position(folders, tmp_path):
    with pytest.raises(TypeError):
        doppelscan.audit(folders["training"], folders["synthetic"], tmp_path / "out")


def test_one_image_a_set_refuses_to_conclude(tmp_path, cohort):
    for name, i in (("training", 0), ("synthetic", 1), ("holdout", 2)):
        save_png(tmp_path / name / "a.png", cohort[i])
    result = run({n: tmp_path / n for n in ("training", "synthetic", "holdout")}, tmp_path)
    assert result.conclusion.verdict.value == "cannot conclude" and len(result.scores) == 1
    assert result.scores[0]["consensus"] == 0 and np.isnan(result.scores[0]["mi"])


def test_one_patient_only_refuses_to_conclude(folders, tmp_path):
    result = run(
        {"training": folders["training"], "synthetic": folders["synthetic"]},
        tmp_path,
        patient_pattern=r"([pcn])",
    )
    assert result.conclusion.verdict.value == "memorization found", "the mirrored copy needs no control"
    assert "nothing can be said" in result.conclusion.reason and "1 patient" in result.conclusion.reason
    (folders["synthetic"] / "copy.png").unlink()
    result = run({"training": folders["training"], "synthetic": folders["synthetic"]}, tmp_path, patient_pattern=r"([pcn])")
    assert result.conclusion.verdict.value == "cannot conclude" and "1 patient" in result.conclusion.reason


def test_all_synthetic_are_copies(folders, tmp_path, cohort):
    for path in folders["synthetic"].iterdir():
        path.unlink()
    for i in range(8):
        save_png(folders["synthetic"] / f"c{i}.png", cohort[i][::-1])
    result = run(folders, tmp_path)
    assert result.conclusion.verdict.value == "memorization found" and result.summary["flagged"]["share"] == 1.0
    assert result.summary["residual_risk"]["value"] == 1.0


def test_duplicates_inside_training_do_not_hide_a_copy(folders, tmp_path):
    whole = Image.open(folders["training"] / "p03.png")
    for i in range(3):  # the same pixels in other bytes
        whole.save(folders["training"] / f"again{i}.png", compress_level=2 * i)
    result = run(folders, tmp_path)
    row = next(r for r in result.scores if "copy" in r["image"])
    assert os.path.basename(row["match"]) == "again0.png" and row["verdict"] == "duplicate", "of equal images the first is named"
    assert row["consensus"] > 1, "equal images are one row: they do not outvote each other in the layers"


def test_holdout_that_holds_training_images_is_cleaned_and_said(folders, tmp_path):
    (folders["holdout"] / "leak.png").write_bytes((folders["training"] / "p01.png").read_bytes())
    result = run(folders, tmp_path)
    assert result.summary["images"]["control"] == 20 and any("left out of the control" in n for n in result.summary["notes"])


def test_output_that_cannot_be_written_is_an_error_before_any_work(folders, tmp_path):
    (tmp_path / "out").write_text("a file, not a folder")
    with pytest.raises(InputError, match=r"'output'.*can be written"):
        run(folders, tmp_path)


def test_full_disk_while_the_report_is_written_leaves_no_half_file(folders, tmp_path, monkeypatch):
    run(folders, tmp_path)
    before = (tmp_path / "out" / "control.csv").read_text()
    real = report_write.write_atomic

    def full(path, content):
        if path.name == "control.csv":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    monkeypatch.setattr(report_write, "write_atomic", full)
    with pytest.raises(ReportError, match="No space left"):
        run(folders, tmp_path)
    assert (tmp_path / "out" / "control.csv").read_text() == before and not list((tmp_path / "out").glob("*.tmp"))


def test_changed_weights_are_refused(folders, tmp_path):
    import json
    import shutil

    from doppelscan.workflows import bundle_root

    shutil.copytree(os.path.join(bundle_root("deepssim_encoder"), "models"), tmp_path / "models")
    changed = bytearray((tmp_path / "models" / "model.pt").read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "models" / "model.pt").write_bytes(changed)
    assert "model.pt" in json.loads((tmp_path / "models" / "checksums.json").read_text())
    with pytest.raises(WeightsError, match="sha256"):
        run(folders, tmp_path, ckpt_path=str(tmp_path / "models" / "model.pt"))


def test_store_of_other_weights_is_refused(folders, tmp_path):
    from doppelscan.search import EmbeddingStore

    store = EmbeddingStore(tmp_path / "out" / "store" / "poses-1", "other weights")
    store.add("k", {"embedding": np.zeros(3, np.float32)})
    store.flush()
    with pytest.raises(StoreError, match="other weights"):
        run({**folders, "store": tmp_path / "out" / "store"}, tmp_path)


def test_what_only_the_audit_finds_is_one_line_and_status_2_too(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    done = run_warm(
        ["-m", "doppelscan.cli", "audit", "--training", "empty", "--synthetic", "synthetic", "--output", "out"], tmp_path
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("doppelscan:")]
    assert done.returncode == 2 and len(lines) == 1 and "which holds none" in lines[0], done.stderr[-1500:]
    assert "Traceback" not in done.stderr


def of_the_process() -> dict:
    """What belongs to whoever calls: levels and filters of loggers, filters of warnings, threads, hooks."""
    loggers = {name: logger for name, logger in logging.root.manager.loggerDict.items() if isinstance(logger, logging.Logger)}
    return {
        "levels": {name: (logger.level, logger.disabled, list(logger.filters)) for name, logger in loggers.items()},
        "records": logging.getLogRecordFactory(),
        "warnings": list(warnings.filters),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "hooks": (sys.excepthook, threading.excepthook, signal.getsignal(signal.SIGINT)),
        "environment": dict(os.environ),
    }


def test_an_audit_leaves_the_callers_process_as_it_was(tmp_path, cohort):
    for name, i in (("training", 0), ("synthetic", 1), ("holdout", 2)):
        save_png(tmp_path / name / "a.png", cohort[i])
    sets = {name: tmp_path / name for name in ("training", "synthetic", "holdout")}
    logging.getLogger("monai.bundle.workflows").setLevel(logging.INFO)
    before = of_the_process()
    run(sets, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds none"):
        run({**sets, "holdout": tmp_path / "empty"}, tmp_path)
    after = of_the_process()
    after["levels"] = {name: after["levels"][name] for name in before["levels"]}  # what was imported meanwhile has loggers too
    assert after == before


def test_nothing_is_logged_of_an_audit_that_names_a_patient(folders, caplog, monkeypatch):
    from doppelscan.workflows import run as run_module

    workflows = logging.getLogger("monai.bundle.workflows")

    class Logs:
        def __init__(self, **overrides):
            workflows.info(overrides["training_dir"])
            self.parser = SimpleNamespace(get_parsed_content=lambda name: SimpleNamespace())

        def initialize(self):
            workflows.warning("initialize")

        def run(self):
            workflows.info("run")
            workflows.error("what went wrong")
            return ["result"]

    monkeypatch.setattr(run_module, "ConfigWorkflow", Logs)
    with caplog.at_level(logging.INFO):
        workflows.setLevel(logging.INFO)
        assert doppelscan.audit(**folders, output=folders["training"] / "out") == "result"
        workflows.info("of the caller")
    assert caplog.messages == ["what went wrong", "of the caller"]


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        ("configs/audit.json", ["--training_dir", "nowhere", "--synthetic_dir", "nowhere"], "which does not exist"),
        ("configs/audit.json", ["--fdr", "abc"], "'fdr' parameter must be a number between 0 and 1. Got 'abc'"),
        ("configs/audit.json", ["--device", "gpu"], "'device' parameter must be cpu, cuda, cuda:N or mps. Got 'gpu'"),
        ("configs/audit.json", ["--rules::close_pair", "abc"], "'close_pair' parameter must be a number from 0 to 1. Got 'abc'"),
        ("configs/audit.json", ["--network_def::chanels", "8"], "'chanels'"),
        ("bundles/deepssim_encoder/configs/inference.json", ["--dataset_dir", "nowhere"], "which does not exist"),
        ("bundles/mi_scorer/configs/train.json", ["--dataset_dir", "nowhere"], "which does not exist"),
    ],
)
def test_a_mistake_in_a_bundle_run_is_one_line_too(tmp_path, folders, config, options, words):
    from doppelscan.workflows import audit_root

    sets = ["--training_dir", folders["training"], "--synthetic_dir", folders["synthetic"]] if "audit" in config else []
    done = run_warm(
        ["-m", "monai.bundle", "run", "--config_file", os.path.join(audit_root(), config), *map(str, sets), *options], tmp_path
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("doppelscan:")]
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr[-1500:]
    assert len(lines) == 1 and words in lines[0], done.stderr[-1500:]
