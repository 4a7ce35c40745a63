"""The audit as its users run it: the sample's copies are found and named, and the three faces agree."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import doppelscan
import fsspec
import numpy as np
import pytest
import torch
from doppelscan.errors import InputError
from doppelscan.images import generate_cohort
from doppelscan.locations import REPORT_FILES
from doppelscan.report import SCORE_COLUMNS
from made_files import save_png
from PIL import Image
from warm import run_warm

ROOT = Path(__file__).parents[2]
PATTERN = r"(train\d+|other\d+|synthetic\d+)"
# What maps the source on the copy: flip, quarter turns, degrees, scale.
POSES = {
    "exact": (False, 0, 0.0, 1.0),
    "flip-x": (True, 0, 0.0, 1.0),
    "rotation 10": (False, 0, 10.0, 1.0),
    "quarter turn": (False, 1, 0.0, 1.0),
    "crop 15 %": (False, 0, 0.0, 1 / 0.85),
}


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def names(path: str) -> str:
    return os.path.basename(path)


@pytest.fixture(scope="module")
def audited(sample, tmp_path_factory):
    """The sample, audited once by the Python face."""
    output = tmp_path_factory.mktemp("audit") / "report"
    result = doppelscan.audit(
        training=sample / "training",
        synthetic=sample / "synthetic",
        holdout=sample / "holdout",
        output=output,
        patient_pattern=PATTERN,
        self_test=True,
    )
    return result, output, sample


@pytest.fixture(scope="module")
def truth(sample):
    return {names(row["image"]): row for row in read(sample / "truth.csv")}


def test_planted_copies_are_flagged_with_the_right_source(audited, truth):
    copies = [r for r in audited[0].scores if truth[names(r["image"])]["source"]]
    assert len(copies) == 16
    for row in copies:
        assert row["flagged"] and row["verdict"] == "duplicate"
        assert names(row["match"]) == names(truth[names(row["image"])]["source"])


def test_planted_copies_have_the_right_pose(audited, truth):
    for row in audited[0].scores:
        expected = POSES.get(truth[names(row["image"])]["transform"])
        if expected:
            words, flip, turns, rotation, scale = row["pose"].split(), *expected
            said = {name: float(value) for name, value in pairwise(words) if name in ("rot", "scale", "turn")}
            assert ("flip-x" in words, said.get("turn", 0)) == (flip, 90 * turns), row["pose"]
            assert abs(said.get("rot", 0.0) - rotation) <= 1 and abs(said.get("scale", 1.0) - scale) <= 0.02, row["pose"]


def test_novel_images_are_not_flagged(audited, truth):
    novel = [r for r in audited[0].scores if not truth[names(r["image"])]["source"]]
    assert len(novel) == 24 and not any(r["flagged"] for r in novel)


def test_the_settings_are_what_ran_and_not_what_was_left_to_be_chosen(audited):
    settings = audited[0].summary["settings"]
    assert settings["index"] == "exact"
    assert re.fullmatch(r"[1-9]\d* processes of [1-9]\d* threads", settings["workers"])


def test_the_audit_says_what_it_could_have_found(audited):
    summary = json.loads((audited[1] / "summary.json").read_text())
    copies = {one["name"]: one for one in summary["self_test"]["copies"]}
    assert len(copies) in (11, 12) and all(one["planted"] == 18 for one in copies.values())
    for name in ("rotation 10", "shift 6 %", "crop 15 %", "flip, rotation, noise"):
        one = copies[name]
        assert one["found"] == one["right_source"] == one["called_copy"] == 18 and one["power"]["lower"] == pytest.approx(
            0.025 ** (1 / 18)
        )
    negatives = {one["name"]: one for one in summary["self_test"]["negatives"]}
    names = {name.split()[0] if name.startswith("components") else name for name in negatives}
    assert names == {"noise 0.1", "blur 2", "half resolution", "spectrum", "components", "means"}
    assert sum(one["flagged"] for one in negatives.values()) == 0
    memorized = summary["self_test"]["memorized"]
    assert memorized["lower"] <= 16 / 40 <= memorized["upper"] <= 1 and summary["self_test"]["bound"] >= 16 / 40
    assert summary["competition"]["p_value"] < 0.05 and summary["competition"]["won_by_training"] >= 16
    page = (audited[1] / "report.html").read_text()
    assert "What this audit could have found" in page and "turned by 10 degrees" in page and "18 of 18" in page
    assert not [path for path in (audited[1] / "store").iterdir() if path.name.startswith("self-test")], (
        "the planted files are gone"
    )


def test_two_processes_score_as_one_does(audited, tmp_path):
    result, output, sample = audited
    for poses in output.glob("store/poses-*"):
        shutil.copytree(poses, tmp_path / "store" / poses.name)  # pairs are registered anew
    sets = {name: sample / name for name in ("training", "synthetic", "holdout")}
    again = doppelscan.audit(**sets, output=tmp_path, patient_pattern=PATTERN, workers=2)
    mine, theirs = (sorted(one.scores, key=lambda row: row["image"]) for one in (result, again))
    for row, other in zip(mine, theirs, strict=True):
        for name, value in row.items():
            if isinstance(value, float):
                assert other[name] == pytest.approx(value, abs=1e-5, nan_ok=True), name
            else:
                assert other[name] == value, name
    assert len(list((tmp_path / "store" / "verified").glob("*.parquet"))) > 3, "each block is on disk when it is done"


def test_summary_says_what_was_found(audited):
    summary = json.loads((audited[1] / "summary.json").read_text())
    assert summary["conclusion"] == "memorization found" and summary["flagged"]["count"] == 16
    assert summary["control"] == "holdout, topped up with 72 training images" and summary["images"]["control"] == 132
    assert summary["images"]["control_from_training"] == 72 and not summary["images"]["training_unnamed"]
    assert {kind: n for kind, n in summary["findings"].items() if n} == {"copy": 16}
    assert summary["flagged"]["lower"] < 16 / 40 < summary["flagged"]["upper"]
    # Three slices a patient are worth one; 72 of 132 images had a reference of four fifths.
    assert summary["smallest_p_value"] == summary["smallest_patient_p_value"] == pytest.approx((60 + 72 * 1.25) / 132 / 45)
    assert summary["effective_control"] == 44 and summary["control_against_training"]["auc"] < 0.9
    assert set(summary["seconds"]) >= {"embed training", "embed synthetic", "score synthetic", "score control", "decide"}
    assert len(summary["weights_sha256"]) == 64 and summary["versions"]["monai"]


def test_table_has_the_promised_columns_and_digits(audited):
    rows = read(audited[1] / "scores.csv")
    assert tuple(rows[0]) == SCORE_COLUMNS and len(rows) == 40
    # The same pixels agree by exactly 1.
    assert all(len(r["score"].replace(".", "").lstrip("0")) >= 4 or r["reason"] == "identical pixels" for r in rows)
    control = read(audited[1] / "control.csv")
    assert tuple(control[0]) == SCORE_COLUMNS and len(control) == 132 and {r["flagged"] for r in control} == {"false"}


def test_page_is_one_offline_file_with_its_pictures(audited):
    page = (audited[1] / "report.html").read_text()
    assert "memorization found" in page
    assert page.count("data:image/webp") >= 40 + 16, "one strip an image, and those that are flagged at the size of their files"
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


def test_second_run_embeds_and_verifies_nothing_again(audited, tmp_path, monkeypatch):
    _, output, sample = audited
    from doppelscan.verify import Registration
    from doppelscan.workflows import EmbeddingEvaluator, PoseInferer

    def fail(*args, **kwargs):
        raise AssertionError("computed again")

    monkeypatch.setattr(PoseInferer, "__call__", fail)
    monkeypatch.setattr(EmbeddingEvaluator, "view_differences", fail)
    monkeypatch.setattr(Registration, "__call__", fail)
    doppelscan.audit(
        training=sample / "training",
        synthetic=sample / "synthetic",
        holdout=sample / "holdout",
        output=tmp_path,
        store_dir=str(output / "store"),
        patient_pattern=PATTERN,
    )
    assert (tmp_path / "scores.csv").read_text() == (output / "scores.csv").read_text()


def test_more_training_images_pay_for_themselves_alone(audited, tmp_path, monkeypatch):
    """Their own registrations, and of the other pairs none again; the table is that of an audit that begins anew."""
    _, output, sample = audited
    from doppelscan.verify.coarse import CoarseSearch

    registered = []
    whole = CoarseSearch.__call__

    def counted(self, queries, visible, candidates, *rest):
        registered.append(len(candidates))
        return whole(self, queries, visible, candidates, *rest)

    monkeypatch.setattr(CoarseSearch, "__call__", counted)
    shutil.copytree(sample / "training", tmp_path / "training")
    for number, image in enumerate(generate_cohort(4, 1, 128, 77)[0][:, 0].numpy() / 255):
        save_png(tmp_path / "training" / f"train9{number}.png", image)
    counts, tables = [], []
    for name, kept in (("anew", []), ("added", ["verified", "registered"])):
        store = tmp_path / name / "store"
        for folder in ["poses-1", "poses-8", *kept]:
            shutil.copytree(output / "store" / folder, store / folder)
        registered.clear()
        doppelscan.audit(
            training=tmp_path / "training",
            synthetic=sample / "synthetic",
            holdout=sample / "holdout",
            output=tmp_path / name,
            patient_pattern=PATTERN,
            self_test=False,
        )
        counts.append(sum(registered))
        tables.append(read(tmp_path / name / "scores.csv"))
    for a, b in zip(*tables, strict=True):
        assert [a[column] for column in ("image", "match", "flagged")] == [b[column] for column in ("image", "match", "flagged")]
        assert float(a["score"]) == pytest.approx(float(b["score"]), abs=1e-5)
    assert 0 < counts[1] < 0.5 * counts[0], counts


def test_a_store_under_a_url_holds_the_embeddings_and_the_working_folder_nothing(folders, store, tmp_path, monkeypatch):
    expected = doppelscan.audit(**folders, output=tmp_path / "local", store=store)
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    url = f"memory://{tmp_path.name}/kept"
    found = doppelscan.audit(**folders, output=tmp_path / "out", store=url, workers=1)
    assert set(tmp_path.iterdir()) - before == {tmp_path / "out"}
    assert fsspec.filesystem("memory").ls(f"/{tmp_path.name}/kept/poses-8", detail=False)
    assert [(row["match"], row["flagged"]) for row in found.scores] == [(row["match"], row["flagged"]) for row in expected.scores]
    assert any(url in line for line in found.words)
    with pytest.raises(InputError, match="only a store may be a URL"):
        doppelscan.audit(**folders, output="s3://bucket/report")


def test_many_training_images_are_searched_in_clusters_and_the_copies_are_still_found(audited, truth, tmp_path, monkeypatch):
    _, output, sample = audited
    monkeypatch.setattr(sys.modules["doppelscan.workflows.audit"], "EXACT", 10)
    found = doppelscan.audit(
        training=sample / "training",
        synthetic=sample / "synthetic",
        holdout=sample / "holdout",
        output=tmp_path,
        store_dir=str(output / "store"),
        patient_pattern=PATTERN,
    )
    assert any("searched in clusters (--index exact compares with every one): " in note for note in found.summary["notes"])
    assert found.summary["settings"]["index"] == "ivf"
    named = {names(row["image"]): names(row["match"]) for row in found.scores if row["flagged"]}
    expected = {name: names(one["source"]) for name, one in truth.items() if one["source"]}
    assert named == expected


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "doppelscan.cli", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300
    )


def warm_audit(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    return run_warm(["-m", "doppelscan.cli", "audit", "--self-test=false", *arguments], cwd)


def test_the_three_faces_give_the_same_table(folders, store, tmp_path):
    sets = {"training": "training", "synthetic": "synthetic", "holdout": "holdout"}
    python = doppelscan.audit(**{k: tmp_path / v for k, v in sets.items()}, output=tmp_path / "python", store=store)
    shell = command(
        "audit",
        "--training",
        "training",
        "--synthetic",
        "synthetic",
        "--holdout",
        "holdout",
        "--output",
        "shell",
        "--store",
        store,
        "--self-test=false",
        cwd=tmp_path,
    )
    assert shell.returncode == 0, shell.stderr
    monai = run_warm([
        "-m", "monai.bundle", "run", "--config_file", ROOT / "configs" / "audit.json", "--training_dir", "training", "--synthetic_dir", "synthetic",
        "--holdout_dir", "holdout", "--output_dir", "monai", "--store_dir", store, "--self_test", "False",
    ], tmp_path)  # fmt: skip
    assert monai.returncode == 0 and "ERROR" not in monai.stderr, monai.stderr[-2000:]
    assert monai.stdout.splitlines()[-1].startswith("Report: ") and "memorization found: 1 of 4" in monai.stdout
    table = (tmp_path / "shell" / "scores.csv").read_text()
    assert table == (tmp_path / "monai" / "scores.csv").read_text()
    assert table == (tmp_path / "python" / "scores.csv").read_text().replace(f"{tmp_path}/", "")
    assert "Report: " in shell.stdout and names(python.scores[0]["match"]) == "p03.png" and "flip-x" in python.scores[0]["pose"]


def test_the_table_does_not_depend_on_batch_size_or_workers(folders, tmp_path):
    tables = []
    for number, settings in enumerate(({"batch_size": 16}, {"batch_size": 3, "num_workers": 1})):
        doppelscan.audit(**folders, output=tmp_path / str(number), **settings)
        tables.append(read(tmp_path / str(number) / "scores.csv"))
    for a, b in zip(*tables, strict=True):
        assert a["match"] == b["match"] and a["pose"] == b["pose"]
        for column in ("score", "deepssim", "embedding", "similarity", "ssim", "p_value"):
            assert abs(float(a[column]) - float(b[column])) < 1e-4, column


def test_a_killed_run_continues_to_the_same_table(folders, tmp_path):
    arguments = [f"--{k}={v}" for k, v in folders.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "doppelscan.cli", "audit", *arguments, "--output", str(tmp_path / "killed")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    killed = tmp_path / "killed" / "store"
    deadline = time.time() + 120
    while not list(killed.glob("poses-8/*.parquet")) and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(killed.glob("poses-1/*.parquet")), "killed before anything was stored: the test says nothing"
    assert warm_audit(*arguments, "--output", tmp_path / "killed", cwd=tmp_path).returncode == 0
    # Into a store of its own: pairs of the shared one were registered beside other tests' images, which the seventh digit can tell.
    assert warm_audit(*arguments, "--output", tmp_path / "whole", cwd=tmp_path).returncode == 0
    assert (tmp_path / "killed" / "scores.csv").read_text() == (tmp_path / "whole" / "scores.csv").read_text()


@pytest.mark.slow
def test_an_audit_that_is_killed_at_twenty_moments_goes_on_to_the_same_table(folders, tmp_path):
    moments = random.Random(0)
    command = [sys.executable, "-m", "doppelscan.cli", "audit", *(f"--{k}={v}" for k, v in folders.items()), "--workers=2"]

    def started(output: Path) -> subprocess.Popen:
        return subprocess.Popen([*command, "--output", str(output)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    begun = time.perf_counter()
    assert started(tmp_path / "whole").wait() == 0
    took, kills = time.perf_counter() - begun, 0
    while kills < 20:
        if kills % 5 == 0:
            shutil.rmtree(
                tmp_path / "killed", ignore_errors=True
            )  # four audits of five kills each: later ones would only find it finished
        process = started(tmp_path / "killed")
        time.sleep(moments.uniform(0.1, 0.9) * took)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert started(tmp_path / "killed").wait() == 0
    for name in ("scores.csv", "control.csv"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text(), name
    killed, whole = (json.loads((tmp_path / name / "summary.json").read_text())["self_test"] for name in ("killed", "whole"))
    assert killed == whole


def test_without_holdout_the_training_patients_are_the_control(tmp_path, cohort):
    for i in range(30):
        save_png(tmp_path / "training" / f"p{i:02d}.png", cohort[i])
    for i in range(6):
        save_png(tmp_path / "synthetic" / f"copy{i}.png", np.rot90(cohort[i]))
        save_png(tmp_path / "synthetic" / f"novel{i}.png", cohort[40 + i])
    result = doppelscan.audit(
        training=tmp_path / "training",
        synthetic=tmp_path / "synthetic",
        output=tmp_path / "out",
        patient_pattern=r"(p\d\d|copy\d|novel\d)",
    )
    assert result.summary["control"].startswith("training patients") and result.summary["images"]["control"] == 30
    assert result.summary["images"]["control_from_training"] == 30
    assert abs(result.summary["smallest_p_value"] - 1.25 / 31) < 1e-9
    copies = [r for r in result.scores if "copy" in r["image"]]
    assert all(names(r["match"])[1:3] == f"0{names(r['image'])[4]}" and r["pose"] == "turn 90" for r in copies)
    assert result.conclusion.verdict.value != "no memorization found"
    assert any("control is 30 training images" in note for note in result.summary["notes"])


def test_copies_on_a_page_between_bars_or_on_a_light_background_do_not_pass_unsaid(tmp_path, cohort):
    shown = {
        "page": lambda image: np.pad(image, ((20, 40), (20, 20)), constant_values=image.max()),
        "bars": lambda image: np.pad(image, ((30, 30), (0, 0)), constant_values=image.max()),
        "background": lambda image: np.where(image == 0, image.max(), image),
    }
    dark = np.stack([np.pad(image[8:-8, 8:-8], 8) for image in cohort])
    for i in range(24):
        save_png(tmp_path / "training" / f"p{i:02d}.png", dark[i])
        save_png(tmp_path / "holdout" / f"h{i:02d}.png", dark[24 + i])
    for i, kind in enumerate(sorted(shown) * 2):
        save_png(tmp_path / "synthetic" / f"copy{i}.png", shown[kind](dark[i]))
        save_png(tmp_path / "synthetic" / f"novel{i}.png", shown[kind](dark[48 + i]))
    result = doppelscan.audit(**{name: tmp_path / name for name in ("training", "holdout", "synthetic")}, output=tmp_path / "out")
    for row in result.scores:
        name = names(row["image"])
        assert bool(row["flagged"]) == name.startswith("copy"), row
        assert name.startswith("novel") or names(row["match"]) == f"p0{name[4]}.png"
    assert any("taken off 12 synthetic images" in note for note in result.summary["notes"])


def test_volumes_are_rolled_up_and_patients_exposed(tmp_path):
    import nibabel as nib
    from doppelscan.images import generate_cohort

    slices, _ = generate_cohort(26, 2, 64, seed=3)
    volumes = slices.view(26, 2, 64, 64).permute(0, 2, 3, 1).numpy()
    for i, volume in enumerate(volumes):
        part = "training" if i < 8 else "holdout" if i < 24 else "synthetic"
        (tmp_path / part).mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / part / f"v{i}.nii.gz")
    nib.save(nib.Nifti1Image(volumes[2][::-1].copy(), np.eye(4)), tmp_path / "synthetic" / "copy.nii.gz")
    result = doppelscan.audit(
        **{k: tmp_path / k for k in ("training", "synthetic", "holdout")},
        output=tmp_path / "out",
        volumes="as-slices",
        slice_range=[0, 1],
    )
    rolled = {names(r["volume"]): r for r in read(tmp_path / "out" / "volumes.csv")}
    assert set(rolled) == {"v24.nii.gz", "v25.nii.gz", "copy.nii.gz"} and rolled["copy.nii.gz"]["images"] == "2"
    assert names(rolled["copy.nii.gz"]["match_patient"]) == "v2.nii.gz" and rolled["copy.nii.gz"]["flagged_images"] == "2"
    exposure = read(tmp_path / "out" / "exposure.csv")
    assert names(exposure[0]["patient"]) == "v2.nii.gz" and exposure[0]["training_images"] == "2"
    assert "#slice=" in result.scores[0]["image"]


def test_nothing_in_a_redacted_folder_names_anybody_and_a_key_tells_who_is_who(folders, tmp_path):
    broken = folders["synthetic"] / "anna_broken.png"
    broken.write_bytes(b"\x89PNG cut short")
    result = doppelscan.audit(**folders, output=tmp_path / "out", redact=True, key=tmp_path / "key.csv")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.name for path in files} == set(REPORT_FILES) - {"patients.csv"}, "the store lies elsewhere"
    written = "".join(path.read_text() for path in files)
    for word in ("p03", "copy.png", "novel1", "anna", str(tmp_path), "data:image"):
        assert word not in written
    assert len(result.summary["skipped"]) == 1 and result.summary["settings"]["redact"]
    known = {row["pseudonym"]: names(row["name"]) for row in read(tmp_path / "key.csv")}
    assert {known[row["image"]] for row in result.scores} == {"copy.png", "novel10.png", "novel11.png", "novel12.png"}
    assert list((tmp_path / "out-store").glob("*/*.parquet"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"redact": True, "store": "out/store"}, "outside of the output folder"),
        ({"redact": True, "key": "out/key.csv"}, "outside of the output folder"),
        ({"redact": True, "output": "."}, "new or empty folder"),
        ({"key": "key.csv"}, "must come with --redact"),
    ],
)
def test_a_folder_that_would_name_somebody_is_not_called_redacted(folders, tmp_path, monkeypatch, settings, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        doppelscan.audit(**{**folders, "output": "out", **settings})


@pytest.mark.parametrize("gate", [True, False])
def test_gate_sets_the_exit_status(warm, tmp_path, gate):
    # Twenty controls give no p-value below 1/21: enough for a rate of 0.05, not for 0.01.
    flags = ["--gate"] if gate else []
    arguments = [f"--{k}={v}" for k, v in warm.items()]
    found = warm_audit(*arguments, "--output", tmp_path / "a", *flags, cwd=tmp_path)
    assert found.returncode == (3 if gate else 0) and "memorization found" in found.stdout
    # The same pixels need no control: they are found at any rate.
    warm["synthetic"].joinpath("copy.png").unlink()
    unsure = warm_audit(*arguments, "--fdr", "0.01", "--output", tmp_path / "b", *flags, cwd=tmp_path)
    assert unsure.returncode == (4 if gate else 0) and "cannot conclude" in unsure.stdout


def test_sample_is_the_same_for_the_same_seed(sample, tmp_path):
    from doppelscan.images.sample import write_sample

    write_sample(tmp_path, training=2, holdout=1, novel=1, copies=3, seed=5)
    first = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*.png")}
    shutil.rmtree(tmp_path)
    write_sample(tmp_path, training=2, holdout=1, novel=1, copies=3, seed=5)
    assert first == {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*.png")}
    assert len(list((sample / "volumes").glob("*.nii.gz"))) == 8
    assert np.asarray(Image.open(next((sample / "training").glob("*.png")))).shape == (160, 160)


class Released(torch.nn.Module):
    """Stands for the authors' TorchScript: [B, 3, H, W] -> [B, 64]."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(image.mean(1), [8, 8]).flatten(1)


def test_an_audit_runs_on_released_torchscript(folders, tmp_path):
    torch.jit.script(Released()).save(str(tmp_path / "best_model_jit.pt"))
    result = doppelscan.audit(**folders, output=tmp_path / "out", ckpt_path=f"torchscript:{tmp_path / 'best_model_jit.pt'}")
    first = max(result.scores, key=lambda row: row["score"])
    assert names(first["image"]) == "copy.png" and names(first["match"]) == "p03.png" and first["pose"] == "flip-x"
    assert np.isfinite(first["mi"]) and not any("No Memorization Index" in note for note in result.summary["notes"])


def test_the_commands_encoder_that_fits_nothing_is_one_line(folders, tmp_path):
    (tmp_path / "other.pt").write_bytes(b"no torchscript")
    done = warm_audit(
        "--training", "training", "--synthetic", "synthetic", "--output", "out", "--encoder", "torchscript:other.pt", cwd=tmp_path
    )
    assert done.returncode == 2 and "must be a TorchScript file" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
