"""The Memorization Index: the paper's formulas written out, and the cases where the published form breaks."""

from __future__ import annotations

import time

import numpy as np
import pytest
from doppelscan.memorization import MemorizationIndex, Whitening, patient_folds, spread_over_patients, unit_length
from doppelscan.memorization import index as index_module
from doppelscan.memorization import rows as rows_module
from doppelscan.memorization.whitening import LeftOut

EPS = 1e-6


def features(count, widths=(6, 10), seed=0, shared=3.0):
    """Layer features with strong common directions, as brains have: covariance far from the identity."""
    rng = np.random.default_rng(seed)
    mixing = {k: np.random.default_rng(99 + k).normal(size=(w, w)) + shared * np.eye(w)[:1] for k, w in enumerate(widths)}
    return {f"layer{k}": (rng.normal(size=(count, w)) @ mixing[k] + 2).astype(np.float32) for k, w in enumerate(widths)}


def test_paper_mode_agrees_with_the_formulas():
    training, queries = features(2000), features(30, seed=1)
    index = MemorizationIndex("paper", draws=10, seed=3).fit(training)
    scores = index.score(queries)
    # Eq. 1: ZCA whitening of the training features, then unit length.
    white = {}
    for name, x in training.items():
        x = x.astype(np.float64)
        values, vectors = np.linalg.eigh(np.cov(x.T))
        w = vectors @ np.diag((values + EPS) ** -0.5) @ vectors.T
        f = (x - x.mean(0)) @ w
        g = (queries[name] - x.mean(0)) @ w
        white[name] = f / np.linalg.norm(f, axis=1, keepdims=True), g / np.linalg.norm(g, axis=1, keepdims=True)
    # Eq. 2, 3: best cosine of each layer, geometric mean over layers.
    layer = np.stack([(g @ f.T).max(1) for f, g in white.values()], 1)
    similarity = np.exp(np.log(np.clip(layer, 0, 1) + EPS).mean(1))
    np.testing.assert_allclose(scores.similarity, similarity, atol=1e-6)
    # Eq. 4: disjoint halves of the training set.
    rng, null = np.random.default_rng(3), []
    for _ in range(10):
        order = rng.permutation(2000)
        a, b = order[:1000], order[1000:]
        halves = np.stack([(f[a] @ f[b].T).max(1) for f, _ in white.values()], 1)
        null.append(np.exp(np.log(np.clip(halves, 0, 1) + EPS).mean(1)))
    null = np.concatenate(null)
    mi = (similarity - null.mean()) / np.sqrt(null.var() + 1e-8)
    np.testing.assert_allclose(scores.similarity, similarity, rtol=0, atol=1e-6)
    np.testing.assert_allclose(scores.mi, mi, rtol=0, atol=1e-6)
    np.testing.assert_allclose(scores.oni, -np.tanh(mi), rtol=0, atol=1e-6)


def test_paper_mode_warns_where_it_breaks():
    with pytest.warns(UserWarning, match="robust"):
        MemorizationIndex("paper").fit(features(20))


@pytest.mark.parametrize("count", [8, 12, 60, 300])
def test_fewer_images_than_features_give_no_nan(count):
    wide = features(count, widths=(64, 200))
    scores = MemorizationIndex().fit(wide).score(features(20, widths=(64, 200), seed=5))
    for name in ("similarity", "mi", "oni", "layer_similarity", "margin"):
        assert np.isfinite(getattr(scores, name)).all(), name


@pytest.mark.parametrize("count", [60, 250, 1000])
def test_novel_images_have_mi_around_zero(count):
    scores = MemorizationIndex().fit(features(count, widths=(48, 64))).score(features(400, widths=(48, 64), seed=7))
    assert abs(scores.mi.mean()) < 0.3 and 0.75 < scores.mi.std() < 1.3


def test_all_copies_score_one_and_name_themselves():
    training = features(40)
    scores = MemorizationIndex().fit(training).score(training)
    np.testing.assert_allclose(scores.similarity, 1, atol=1e-4)
    assert (scores.neighbour == np.arange(40)[:, None]).all() and (scores.consensus == 2).all() and (scores.oni < -0.99).all()


@pytest.mark.parametrize("calibration", ["robust", "paper"])
@pytest.mark.filterwarnings("ignore:calibration='paper'")
@pytest.mark.parametrize("copies", [2, 5])
def test_duplicated_training_images_agree_on_one_neighbour(calibration, copies):
    once = features(20)
    training = {k: np.tile(v, (copies, 1)) for k, v in once.items()}
    scores = MemorizationIndex(calibration).fit(training, patients=list(range(20)) * copies).score(once)
    assert (scores.consensus == 2).all() and (scores.neighbour == np.arange(20)[:, None]).all()
    # A margin is what another image leaves, and a candidate is named once.
    assert (scores.margin > 0.01).all() and all(sorted(row) == [*range(20)] for row in scores.candidates[:, :20].tolist())


def test_files_of_one_picture_are_one_row_by_their_key():
    once, rng = features(20), np.random.default_rng(1)
    training = {k: np.concatenate([v, v + 1e-5 * rng.normal(size=v.shape).astype(np.float32)]) for k, v in once.items()}
    queries, keys = {k: v[20:] for k, v in training.items()}, [*range(20)] * 2
    apart = MemorizationIndex().fit(training, keys).score(queries)
    scores = MemorizationIndex().fit(training, keys, keys=keys).score(queries)
    assert (apart.margin < 1e-3).all()
    assert (scores.neighbour == np.arange(20)[:, None]).all() and (scores.margin > 0.01).all()


def test_a_patient_who_is_there_again_stays_in_the_null_of_the_others():
    """The first of equal rows is left out with its patient; the second stands for it."""
    once = features(20)
    training = {k: np.concatenate([v, v[:1]]) for k, v in once.items()}
    index = MemorizationIndex(folds=20).fit(training, patients=range(21))
    assert index.null[-1] > 0.999 and (index.null > 0.99).sum() == 2
    assert index.score({k: v[:1] for k, v in once.items()}).match.tolist() == [0]


def test_constant_features_are_no_nan():
    constant = {"a": np.ones((20, 5), np.float32), "b": features(20)["layer0"]}
    scores = MemorizationIndex().fit(constant).score(constant)
    assert np.isfinite(scores.mi).all()


@pytest.mark.parametrize("calibration", ["robust", "paper"])
@pytest.mark.filterwarnings("ignore:calibration='paper'")
@pytest.mark.parametrize(
    "kind", ["fewer than features", "constant", "one layer", "all the same image", "duplicated", "zero", "tiny", "huge"]
)
def test_nothing_is_nan_whatever_the_features_are(calibration, kind):
    base = features(21, widths=(30, 8))
    training = {
        "fewer than features": base,
        "constant": {k: np.ones_like(v) for k, v in base.items()},
        "one layer": {"layer0": base["layer0"]},
        "all the same image": {k: np.repeat(v[:1], 21, 0) for k, v in base.items()},
        "duplicated": {k: np.repeat(v[:7], 3, 0) for k, v in base.items()},
        "zero": {k: np.zeros_like(v) for k, v in base.items()},
        "tiny": {k: v * 1e-6 for k, v in base.items()},
        "huge": {k: v * 1e6 for k, v in base.items()},
    }[kind]
    index = MemorizationIndex(calibration).fit(training)
    for queries in (training, {k: v + np.float32(0.1) for k, v in training.items()}, {k: v[:1] for k, v in training.items()}):
        scores = index.score(queries)
        for name in ("similarity", "distance", "mi", "oni", "layer_similarity", "margin"):
            assert np.isfinite(getattr(scores, name)).all(), name
        assert (np.abs(scores.oni) <= 1).all() and (scores.consensus >= 1).all()
        assert np.isfinite(index.p_values(scores)).all() and 0 <= index.memorized_share(scores.mi) <= 1


def test_scale_of_the_features_does_not_matter():
    training, queries = features(40), features(10, seed=3)
    plain = MemorizationIndex().fit(training).score(queries)
    small = MemorizationIndex().fit({k: v * 1e-4 for k, v in training.items()}).score({k: v * 1e-4 for k, v in queries.items()})
    np.testing.assert_allclose(small.mi, plain.mi, atol=1e-2)


def test_best_of_poses_finds_the_posed_copy():
    training = features(30)
    posed = {k: np.stack([features(30, seed=50 + p)[k] for p in range(8)], 1) for k in training}
    for k in posed:
        posed[k][4, 5] = training[k][17]
    scores = MemorizationIndex().fit(training, null_features=posed, null_rows=range(30)).score(posed)
    assert (scores.neighbour[4] == 17).all() and scores.pose[4] == 5 and scores.similarity[4] > 0.99


def test_another_number_of_poses_than_the_null_has_is_told():
    posed = {k: np.stack([v, v], 1) for k, v in features(20).items()}
    with pytest.warns(UserWarning, match="in 1 poses and these come in 2"):
        MemorizationIndex().fit(features(20)).score(posed)


def test_too_few_patients_and_bad_features_are_refused():
    with pytest.raises(ValueError, match="5 patients"):
        MemorizationIndex().fit(features(20), patients=["one"] * 20)
    broken = features(20)
    broken["layer0"][2, 2] = np.nan
    with pytest.raises(ValueError, match="finite"):
        MemorizationIndex().fit(broken)
    with pytest.raises(ValueError, match="fit"):
        MemorizationIndex().score(features(2))
    with pytest.raises(ValueError, match="layers"):
        MemorizationIndex().fit(features(20)).score({"layer0": features(2)["layer0"]})


def test_fitting_again_forgets_the_first_training_set():
    index = MemorizationIndex().fit(features(30))
    index.fit({"layer0": features(20, seed=8)["layer0"]})
    fresh = MemorizationIndex().fit({"layer0": features(20, seed=8)["layer0"]})
    assert list(index.reference) == ["layer0"] and index.clipped_in_null == fresh.clipped_in_null
    np.testing.assert_array_equal(index.score(features(4)).mi, fresh.score(features(4)).mi)
    with pytest.raises(ValueError, match="at least one image"):
        index.score({"layer0": features(2)["layer0"][:0]})


def test_saved_index_scores_the_same_and_is_bound_to_its_weights(tmp_path):
    index = MemorizationIndex().fit({k: np.tile(v, (2, 1)) for k, v in features(30).items()})
    index.save(tmp_path / "reference.safetensors", "weights-1")
    again = MemorizationIndex.load(tmp_path / "reference.safetensors", "weights-1")
    for name in ("mi", "margin", "match", "candidates"):
        np.testing.assert_array_equal(*(getattr(one.score(features(5, seed=4)), name) for one in (index, again)))
    with pytest.raises(ValueError, match="other weights"):
        MemorizationIndex.load(tmp_path / "reference.safetensors", "weights-2")
    (tmp_path / "text").write_text("no reference")
    with pytest.raises(ValueError, match="train workflow"):
        MemorizationIndex.load(tmp_path / "text")


def test_folds_keep_a_patient_together():
    patients = [f"p{i // 3}" for i in range(30)]
    fold = patient_folds(patients, 5, seed=1)
    assert all(len({f for f, p in zip(fold, patients, strict=True) if p == q}) == 1 for q in set(patients))
    assert set(fold) == set(range(5))


def test_whitening_makes_the_covariance_the_identity():
    x = features(3000)["layer1"]
    white = (x - Whitening("zca").fit(x).mean) @ Whitening("zca").fit(x).matrix
    np.testing.assert_allclose(np.cov(white.T), np.eye(10), atol=1e-2)


@pytest.mark.parametrize("count", [12, 200])
def test_shrunk_whitening_is_the_inverse_root_of_the_shrunk_covariance(count):
    from sklearn.covariance import ledoit_wolf

    x = features(count, widths=(40,))["layer0"]
    covariance, _ = ledoit_wolf(x.astype(np.float64))
    values, vectors = np.linalg.eigh(covariance)
    expected = vectors @ np.diag((values + EPS) ** -0.5) @ vectors.T
    np.testing.assert_allclose(Whitening().fit(x).matrix, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("left", [3, 40])
def test_leaving_images_out_is_whitening_with_their_share_of_the_covariance_gone(left):
    x = features(90, widths=(12,))["layer0"].astype(np.float64)
    whole = Whitening(eps=0).fit(x)
    found = LeftOut(whole.whiten(x[:left]), len(x), whole.cohort_weight).transform(whole.whiten(x))
    kept, outside = len(x) - left, x[left:]
    identity = np.linalg.inv(whole.matrix.astype(np.float64) @ whole.matrix) - whole.cohort_weight * np.cov(x.T, ddof=0)
    covariance = whole.cohort_weight * kept / len(x) * np.cov(outside.T, ddof=0) + identity
    root = np.linalg.cholesky(np.linalg.inv(covariance))
    expected = unit_length((x - outside.mean(0)) @ root)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=2e-3)


def test_p_values_and_the_threshold_come_from_the_null():
    index = MemorizationIndex().fit(features(60))
    scores = index.score({k: np.concatenate([features(60)[k][:3], features(20, seed=9)[k]]) for k in features(2)})
    p = index.p_values(scores)
    assert len(index.null) == 60 and p[:3] == pytest.approx(1 / 61)
    for value, similarity in zip(p, scores.similarity, strict=True):
        assert value == pytest.approx((1 + (index.null >= similarity).sum()) / 61)
    assert index.copy_threshold == pytest.approx((index.null.max() - index.null.mean()) / index.null_std + 1)
    assert index.memorized_share(scores.mi) == pytest.approx((scores.mi > index.copy_threshold).mean())


def test_poses_on_the_reference_side_find_the_posed_copy():
    plain = features(30)
    posed = {k: np.stack([plain[k], *(features(30, seed=50 + p)[k] for p in range(3))], 1) for k in plain}
    index = MemorizationIndex().fit(posed, null_features=plain, null_rows=range(30))
    scores = index.score({k: v[[4, 9], 2] for k, v in posed.items()})
    assert scores.match.tolist() == [4, 9] and scores.pose.tolist() == [2, 2] and (scores.similarity > 0.99).all()


def test_features_larger_than_memory_give_the_same_scores(tmp_path, monkeypatch):
    training, queries = features(70), features(12, seed=4)
    expected = MemorizationIndex().fit(training)
    mapped = {}
    for name, value in training.items():
        mapped[name] = np.memmap(tmp_path / name, np.float32, "w+", shape=value.shape)
        mapped[name][:] = value
    for name in ("KEPT_VALUES", "HALF_VALUES"):
        monkeypatch.setattr(rows_module, name, 10)
    monkeypatch.setattr(index_module, "HALF_VALUES", 10)
    monkeypatch.setattr(index_module, "blocks_of", lambda rows: rows_module.blocks_of(rows, 64))
    streamed = MemorizationIndex().fit(mapped)
    assert not any(isinstance(value, np.ndarray) for value in streamed.reference.values())
    streamed.save(tmp_path / "reference")
    again = MemorizationIndex.load(tmp_path / "reference")
    assert not any(isinstance(value, np.ndarray) for value in again.reference.values())
    for index in (streamed, again):
        np.testing.assert_allclose(index.score(queries).mi, expected.score(queries).mi, atol=1e-3)


def test_many_features_are_kept_at_half_precision_and_copies_stay_nearest(monkeypatch):
    training, queries = features(70), features(12, seed=4)
    queries = {name: np.concatenate([value, training[name][[5, 60]]]) for name, value in queries.items()}
    expected = MemorizationIndex().fit(training)
    monkeypatch.setattr(rows_module, "KEPT_VALUES", 10)
    halved = MemorizationIndex().fit(training)
    assert all(value.values.dtype == np.float16 for value in halved.reference.values())
    found, wanted = halved.score(queries), expected.score(queries)
    np.testing.assert_allclose(found.similarity, wanted.similarity, atol=5e-4)
    assert found.match.tolist() == wanted.match.tolist() and found.match[-2:].tolist() == [5, 60]
    np.testing.assert_allclose(found.similarity[-2:], 1, atol=2e-6)


@pytest.mark.parametrize("clustered", [False, True])
def test_folds_of_many_images_share_their_whitening_and_still_never_meet_their_own_patient(monkeypatch, clustered):
    # Two images of each patient all but the same: a fold that met its own patient would put 1 into the null.
    single = features(600)
    training = {name: np.repeat(value, 2, 0) + np.float32(1e-3) * np.arange(1200)[:, None] % 2 for name, value in single.items()}
    patients = np.repeat(np.arange(600), 2).tolist()
    own = MemorizationIndex(clustered=clustered).fit(training, patients)
    monkeypatch.setattr(index_module, "SHARED", 100)
    monkeypatch.setattr(index_module, "LeftOut", None)  # no fold is whitened on its own
    shared = MemorizationIndex(clustered=clustered).fit(training, patients)
    assert shared.null.max() < 0.999
    np.testing.assert_allclose(shared.null, own.null, atol=0.01)
    assert abs(shared.null_mean - own.null_mean) < 0.1 * own.null_std


def test_the_layer_that_is_surest_names_the_match():
    training = {"a": np.eye(12, dtype=np.float32), "b": np.eye(12, dtype=np.float32)}
    query = {
        "a": np.eye(12, dtype=np.float32)[[3]] + 0.9 * np.eye(12, dtype=np.float32)[[5]],
        "b": np.eye(12, dtype=np.float32)[[7]],
    }
    scores = MemorizationIndex().fit(training).score(query)
    assert scores.neighbour.tolist() == [[3, 7]] and scores.consensus.tolist() == [1] and scores.match.tolist() == [7]


def test_features_that_do_not_fit_together_are_refused():
    index = MemorizationIndex()
    with pytest.raises(ValueError, match="as many images"):
        index.fit({"a": features(20)["layer0"], "b": features(21)["layer1"]})
    with pytest.raises(ValueError, match="'patients'"):
        index.fit(features(20), patients=range(19))
    with pytest.raises(ValueError, match="'keys'"):
        index.fit(features(20), keys=range(19))
    with pytest.raises(ValueError, match="null_rows"):
        index.fit(features(20), null_features=features(5), null_rows=range(4))
    index.fit(features(20))
    with pytest.raises(ValueError, match="10 channels"):
        index.score({"layer0": features(3)["layer0"], "layer1": features(3)["layer0"]})
    with pytest.raises(ValueError, match="folds"):
        MemorizationIndex(folds=1)


@pytest.mark.parametrize("count", [1000])
def test_a_thousand_images_are_fitted_and_scored_in_seconds(count):
    wide = {f"layer{k}": np.random.default_rng(k).normal(size=(count, 768)).astype(np.float32) for k in range(3)}
    start = time.perf_counter()
    MemorizationIndex().fit(wide).score(wide)
    assert time.perf_counter() - start < 20  # 2 s on 2 idle cores; tests share them


def test_a_spread_takes_every_patient_before_a_second_image():
    patients = [i // 4 for i in range(40)]
    rows = spread_over_patients(patients, 15, seed=0)
    assert rows == sorted(rows) and len(rows) == 15 and {patients[r] for r in rows} == set(range(10))


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="calibration"):
        MemorizationIndex("best")
    with pytest.raises(ValueError, match="estimator"):
        Whitening("magic")


def test_whitening_on_views_mutes_what_views_change():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 8))
    views = np.zeros((300, 8))
    views[:, 0] = 5 * rng.standard_normal(300)  # a rotation, say, moves the first direction only
    moved = features + np.eye(8)[0] * 3
    plain, on_views = Whitening().fit(features), Whitening().fit(features, views)
    own = lambda w: np.sum(w.transform(features) * w.transform(moved), 1)  # noqa: E731
    assert own(on_views).min() > 0.9 > own(plain).mean()
    values, directions = np.linalg.eigh(np.linalg.inv(on_views.matrix @ on_views.matrix))
    assert abs(directions[0, -1]) > 0.95 and values[-1] > 5 * values[-2]


def test_whitening_on_views_that_never_differ_is_finite():
    features = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)
    assert np.isfinite(Whitening().fit(features, np.zeros((10, 6))).transform(features)).all()
