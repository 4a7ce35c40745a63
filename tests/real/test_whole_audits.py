"""What simulated whole audits are drawn by: scores made by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from doppelscan.calibrate import TwoSampleResult
from doppelscan.decide import Rules, Verdict
from scipy import ndimage


@pytest.fixture(scope="module")
def whole() -> ModuleType:
    spec = importlib.util.spec_from_file_location("whole_audits", Path(__file__).with_name("whole_audits.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["whole_audits"] = module
    spec.loader.exec_module(module)
    return module


def images(whole: ModuleType, scores: np.ndarray, patients: np.ndarray):
    n = len(scores)
    return whole.Images(
        scores, scores.copy(), np.full(n, 0.5), np.full(n, 0.7), np.full(n, 0.05), np.full(n, 0.5), np.zeros(n, bool),
        np.full(n, "copy"), np.asarray(patients),
    )  # fmt: skip


def pool(whole: ModuleType, copies: float):
    """40 strangers of two images about 0.3; 30 training patients whose copies score ``copies``, whatever was done to them."""
    rng = np.random.default_rng(0)
    made = [("plain", "clean", f"s{i // 2}", 0.3 + 0.05 * rng.normal(), 0.5) for i in range(80)]
    for name, kind in [*((one, "copy") for one in whole.TESTED), ("plain", "test"), ("plain", "copy")]:
        made += [(name, kind, f"t{i}", copies + 0.01 * rng.normal(), 0.9) for i in range(30)]
    generator, kind, patient, score, explained = (np.array(column) for column in zip(*made, strict=True))
    flat = {"part": np.full(len(made), 0.7), "part_share": np.full(len(made), 0.05), "unlike": np.zeros(len(made), bool)}
    flat |= {"margin": np.full(len(made), 0.5), "called": np.full(len(made), "copy")}
    return whole.Pool(
        "made", 30, TwoSampleResult(0.5, 0.5), generator=generator, made=kind, patient=patient, score=score, verified=score,
        explained=explained, **flat,
    )  # fmt: skip


def test_patients_are_drawn_with_all_their_images_and_look_alikes_have_more(whole):
    people = images(whole, np.arange(6.0), np.array([0, 1, 0, 1, 0, 2]))
    rows, place, high = whole.by_patient(np.random.default_rng(0), people, 500, 0.0, 3)
    assert len(rows) == len(place) == 500 and not high.any()
    for one in range(int(place[-1])):
        own = rows[place == one]
        assert sorted(own) == sorted(np.flatnonzero(people.patients == people.patients[own[0]])), "each image once"
    rows, place, high = whole.by_patient(np.random.default_rng(1), people, 3000, 0.2, 3)
    sizes = np.bincount(place)[:-1]
    tall = np.array([high[place == one][0] for one in range(len(sizes))])
    kinds = np.bincount(people.patients)[[people.patients[rows[place == one][0]] for one in range(len(sizes))]]
    assert (sizes == kinds * np.where(tall, 3, 1)).all() and 0.1 < tall.mean() < 0.3


def test_strangers_keep_their_spread_and_look_alikes_lie_at_the_top(whole):
    rng = np.random.default_rng(0)
    people = images(whole, 0.3 + 0.05 * rng.normal(size=200), np.arange(200) // 4)
    drawn = whole.strangers(rng, people, 20_000, 0.0, 0.5)
    assert abs(drawn.score.mean() - 0.3) < 0.01 and 0.045 < drawn.score.std() < 0.075
    assert drawn.part.max() < 0.8, "smoothing makes no region that nobody has"
    high = whole.strangers(rng, people, 2_000, 1.0, 0.5)
    assert high.score.min() > 0.35 and 0.5 < high.score.mean() < 0.55 and high.score.max() < 0.7
    assert len(np.unique(high.patients)) == high.patients[-1] + 1 and (np.diff(high.patients) >= 0).all()


def test_the_self_test_plants_one_copy_of_each_drawn_patient(whole):
    groups = dict(whole.planted(np.random.default_rng(0), pool(whole, 0.9), "plain", 18))
    assert list(groups) == [*whole.TESTED, "spectrum"]
    assert all(one.patients.tolist() == list(range(18)) for one in groups.values())


@pytest.mark.parametrize(
    ("copies", "share", "verdict"), [(0.9, 0.0, Verdict.NOT_FOUND), (0.3, 0.0, Verdict.CANNOT), (0.9, 0.3, Verdict.FOUND)]
)
def test_an_audit_says_what_the_truth_allows(whole, copies, share, verdict):
    setting = whole.Setting("plain", 200, share, 300, 0.0)
    said = whole.audited(np.random.default_rng(0), pool(whole, copies), setting, Rules(), 0)
    assert said.verdict is verdict and said.truth == share and said.bound >= share
    if share:
        assert said.found == 1.0 and said.lower <= share <= said.upper and said.false_share <= 0.1
    else:
        assert said.flagged == 0 and np.isnan(said.found)
    assert said.told == (verdict is Verdict.CANNOT)


def test_an_aim_is_missed_only_where_the_interval_says_so(whole):
    assert str(whole.Measured.of([1.0] * 60)) == "1.000 [0.94, 1.00]"
    assert whole.Measured.of([0.0] * 60).misses(0.05, True) == ""
    assert whole.Measured.of([1.0, 0.0, 0.0]).misses(0.05, True) == "perhaps"
    assert whole.Measured.of([1.0] * 10).misses(0.05, True) == "missed"
    assert whole.Measured.of([float("nan")]).misses(0.05, True) == "" and str(whole.Measured.of([])) == "-"
    parts = whole.Measured.of([0.25, 0.5, 0.75])
    assert parts.share == 0.5 and (parts.lower, parts.upper) == pytest.approx((0.0084, 0.9916), abs=1e-3), "1 and 2 of 3"


def test_a_pool_comes_back_from_its_file(whole, tmp_path):
    first = pool(whole, 0.9)
    first.save(tmp_path / "pools" / "made.npz")
    again = whole.Pool.load(tmp_path / "pools" / "made.npz")
    assert (again.name, again.people, again.kind) == (first.name, first.people, first.kind)
    assert all((getattr(again, name) == getattr(first, name)).all() for name in whole.COLUMNS)
    assert again.generators == ["plain"] and again.copies("PCA 40") and not again.copies("mean of 3")
    with pytest.raises(KeyError, match="made has no clean PCA 40"):
        again.images("PCA 40", "clean")


def test_what_was_simulated_is_summed_up(whole, tmp_path):
    made = pool(whole, 0.9)
    settings = [whole.Setting("plain", 100, share, 300, 0.0) for share in (0.0, 0.3)]
    kept = whole.audits(made, settings, 5, tmp_path / "audits.csv", 0)
    rows = whole.read([tmp_path / "audits.csv"])
    assert [(setting, outcome.flagged) for _, setting, outcome in rows] == [(s, o.flagged) for s in settings for o in kept[s]]
    lines = "\n".join(whole.short(rows)).splitlines()
    assert lines[0] == "Cohorts: made" and lines[-1].startswith("| 100 | 300 | 0 % | 0.00 | 1.00 | ")
    assert all(line.count("|") == lines[2].count("|") for line in lines[2:5])
    assert whole.marked([1.0] * 60, 0.05) == "1.00 (!)" and whole.marked([1.0, 0.0], 0.05) == "0.50 (?)" and whole.marked([]) == "-"


def test_samples_are_labelled_by_pixels(cohort):
    """Of 20 people: copies, blurred and shifted by a pixel; other people; and halfway between, which nobody knows."""
    spec = importlib.util.spec_from_file_location("labelled_samples", Path(__file__).with_name("labelled_samples.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    training, strangers = cohort[:20], cohort[20:]
    copies = np.roll([ndimage.gaussian_filter(image, 1) for image in training[:6]], 1, axis=1)
    between = 0.5 * (training[6:9] + strangers[:3])
    labels = module.labelled(np.concatenate([copies, strangers[3:23], between]), training, [f"p{i}" for i in range(20)], strangers)
    assert labels[:6] == ["copy"] * 6 and "clean" not in labels[26:]
    assert labels[6:26].count("clean") >= 15 and "copy" not in labels[6:26], "5 % of these are above what is usual in each"
