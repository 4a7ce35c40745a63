"""Scores of volumes: what verifies, what is kept, who is who, by registrations and embeddings made by hand."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from doppelscan.decide import (
    FittedVolumes,
    PosedPairs,
    Rules,
    ScoredVolume,
    StoredVolumes,
    VolumeRules,
    fitted_search,
    volume_pairs,
)
from doppelscan.decide.decision import _held
from doppelscan.decide.flags import Calibration, Reason, Rule
from doppelscan.decide.volume_scoring import VolumeBlockScorer
from doppelscan.images import CubeFrame, ImageRecord
from doppelscan.search import EmbeddedVolumes, EmbeddingStore, VolumeSearch, frame_row
from doppelscan.verify import IdenticalImage, VolumeAgreement, VolumePose, VolumeRegion
from doppelscan.verify.identical_volumes import IdenticalVolume

NONE = float("nan")
SIZE, SLOTS = 32, 3


class HandMade:
    """A registration that knows who is who: equal people agree. Counts its calls, and the pairs that it did not know."""

    refined, columns = 2, 3

    def __init__(self, at_once: int = 1) -> None:
        self.calls, self.pairs, self.at_once = 0, 0, at_once

    def __call__(self, queries, candidates, frames, candidate_frames, *, given=None, poses=None, known=None):
        self.calls += 1
        if known is not None:
            self.pairs += int((np.isnan(known[..., 0]) & given).sum())
            known[given] = 1
        return [self._found(*one) for one in zip(queries, candidates, given, poses, strict=True)]

    def _found(self, query, candidates, given, poses):
        found = []
        for place in np.flatnonzero(given).tolist():
            same = int(candidates[place, 0, 0, 0, 0]) == int(query[0, 0, 0, 0])
            half = 0.99 if same else 0.7 + 0.01 * place
            pose = VolumePose(int(poses[place, 0]), (1.0, 2.0, 3.0), (1.0, 1.0, 1.0, 0.0, 0.0, 0.0), (0.5, 0.0, -1.0))
            found.append(VolumeAgreement(place, pose, 0.9, half, 1.0, half, 1.0 if half > 0.9 else 0.4, half))
        return sorted(found, key=lambda one: -one.score)[: self.refined]


def embedded(store: EmbeddingStore, name: str, people: list[int], views: int) -> EmbeddedVolumes:
    """Volumes of ``people``, whose number is in their first voxel and their direction in the embedding."""
    records, keys = [], []
    for place, who in enumerate(people):
        key = f"{name}-{place}"
        rng = np.random.default_rng(who)
        direction = rng.standard_normal((1, 4 * SLOTS)).repeat(views, 0).astype(np.float32)
        cube = np.full((1, SIZE, SIZE, SIZE), who, np.uint8)
        frame = CubeFrame((0, 0, 0), 64.0, SIZE, (SIZE,) * 3, (2.0,) * 3)
        store.add(
            key,
            {"embedding": direction, "thumbnail": cube, "native_shape": np.full(3, SIZE, np.int32), "frame": frame_row(frame)},
        )
        records.append(ImageRecord(f"{name}/{place}.nii", (), f"{name}/{place}.nii", f"person{who}", whole=True))
        keys.append(key)
    store.flush()
    return EmbeddedVolumes(records, keys, store, {"embedding": slice(0, 4 * SLOTS)})


@pytest.fixture()
def made(tmp_path):
    posed = PosedPairs(EmbeddingStore(tmp_path / "registered", "v"), HandMade.columns)
    kept = StoredVolumes(HandMade(), EmbeddingStore(tmp_path / "verified", "v"), posed)  # type: ignore[arg-type]
    one, many = EmbeddingStore(tmp_path / "one", "f"), EmbeddingStore(tmp_path / "many", "f")
    training, posed = embedded(one, "t", list(range(8)), 1), embedded(many, "t", list(range(8)), 48)
    differences = np.random.default_rng(1).standard_normal((8, 4 * SLOTS)).astype(np.float32) / 10
    search = fitted_search(training, VolumeSearch(3, SLOTS), differences, (1.0,))
    return FittedVolumes(training, posed, search, differences, (1.0,), kept), embedded(many, "s", [2, 5, 20], 48)


def test_the_source_and_its_pose_are_named_and_the_next_patient_is_told(made):
    reference, images = made
    scored = reference.scored(images, "synthetic").scored
    assert [one.match for one in scored[:2]] == [2, 5] and scored[0].verified == pytest.approx(0.99)
    assert scored[0].pose.rotation == (1.0, 2.0, 3.0) and scored[0].pose.shift == (0.5, 0.0, -1.0)
    assert 0.6 < scored[0].runner_up < 0.8 and scored[0].runner_up_match not in (2, -1)
    assert scored[2].verified < 0.8 and np.isnan(scored[0].mi) and np.isnan(scored[0].deepssim)


def test_a_second_run_registers_nothing(made):
    reference, images = made
    first = reference.scored(images, "synthetic").scored
    calls = reference.registration.registration.calls
    assert reference.scored(images, "synthetic").scored == first and reference.registration.registration.calls == calls == 3


def test_a_further_candidate_is_registered_alone(made):
    """The name of a pair held all candidates of its volume: one more training volume, and all were registered anew."""
    reference, images = made
    kept, training = reference.registration, reference.training
    poses = [[[0, 1, 2]] * 3]
    kept.best(images, [0], training, [[1, 2, 3]], poses)
    kept.flush()
    before = kept.registration.pairs
    again = kept.best(images, [0], training, [[4, 2, 1]], poses)
    assert before == 3 and kept.registration.pairs == 4
    assert again == replace(kept, posed=None, verified=EmbeddingStore(kept.verified.directory / "none", "v")).best(
        images, [0], training, [[4, 2, 1]], poses
    )
    kept.best(images, [0], training, [[4, 2]], [[[0, 1, 3]] * 2])
    assert kept.registration.pairs == 6, "another pose is another registration"


def test_several_volumes_are_registered_at_once_whatever_number_of_candidates_each_has(made, tmp_path):
    reference, images = made
    one, three = (
        StoredVolumes(HandMade(at_once), EmbeddingStore(tmp_path / f"at-once-{at_once}", "v"))  # type: ignore[arg-type]
        for at_once in (1, 3)
    )
    candidates = [[1, 2, 3], [5], [4, 6]]
    poses = [[[0, 1, 2]] * len(own) for own in candidates]
    found = [kept.best(images, [0, 1, 2], reference.training, candidates, poses) for kept in (one, three)]
    assert found[0] == found[1] and one.registration.calls == 3 and three.registration.calls == 1
    assert [len(own) for own in found[0]] == [2, 1, 2]


def test_blocks_can_be_scored_in_another_process(made):
    reference, images = made
    block = VolumeBlockScorer(images, reference.training, reference.search, reference.registration, "combined")
    sent = pickle.loads(pickle.dumps(block))
    assert sent([0, 1]) == list(reference.scored(images, "synthetic").scored[:2])


def test_a_fold_is_scored_against_the_others_and_its_rows_lead_back(made):
    reference, images = made
    left_out = np.zeros(8, bool)
    left_out[2] = True
    fold, rows = reference.without(left_out)
    assert rows.tolist() == [0, 1, 3, 4, 5, 6, 7]
    (one, other, _) = fold.scored(images, "control").scored
    assert one.verified < 0.8 and rows[other.match] == 5


def test_the_best_of_other_people_leaves_the_excluded_out(made):
    reference, images = made
    (score, row), nobody = reference.best_among(images, [0, 0], [{"person2"}, {f"person{i}" for i in range(8)}], 2)
    assert row != 2 and 0.6 < score < 0.8 and np.isnan(nobody[0]) and nobody[1] == -1


def test_one_person_twice_is_found_among_training_and_holdout(made, tmp_path):
    reference, _ = made
    holdout = embedded(EmbeddingStore(tmp_path / "many2", "f"), "h", [30, 3], 48)
    holdout = replace(holdout, records=[replace(r, patient=f"h{i}") for i, r in enumerate(holdout.records)])
    pairs, nearest = volume_pairs(reference.training, holdout, reference.search, reference.registration, VolumeRules())
    assert [(p.first, p.second, p.confirmed) for p in pairs] == [(3, 9, True)] and nearest[9] == 3


def scored_volume(half: float, share: float = 0.4, row: int = 0, **values: Any) -> ScoredVolume:
    every = {
        "row": row, "match": row, "pose": VolumePose(), "score": half, "deepssim": NONE, "embedding": half, "similarity": NONE, "mi": NONE,
        "oni": NONE, "consensus": 0, "ssim": half, "detail": half, "agreement": half, "share": share, "part": half, "part_match": row,
        "part_share": share, "part_mirrored": False, "runner_up": 0.7, "half": half,
    }  # fmt: skip
    return ScoredVolume(**{**every, **values})


def test_the_same_voxels_verify_whatever_was_registered():
    place = VolumePose(1, shift=(3.0, 0.0, -2.0))
    same = IdenticalVolume(4, 1, False, 0.9999, 0.998, place)
    held = scored_volume(0.7).with_pixels_of(same)
    assert held.match == held.part_match == 4 and held.verified == 0.9999 and held.pose == place
    assert isinstance(held, ScoredVolume) and np.isnan(held.runner_up) and isinstance(same, IdenticalImage)


def test_the_pose_that_registration_found_of_the_same_voxels_is_kept(made):
    """It was overwritten by an axis pose without shift and scale, so that the page laid the pair wrongly."""
    reference, images = made
    found = reference.scored(images, "synthetic")
    registered = VolumePose(0, (0.0, 0.0, 0.1), (1.0, 1.0, 1.0, 0.0, 0.0, 0.0), (22.0, 0.0, -7.4))
    first = replace(found.scored[0], pose=registered, ssim=1.0)
    same = [IdenticalVolume(first.match, 0, False, 0.9999, 0.998, VolumePose(0, shift=(21.0, 0.0, -7.0))), None, None]
    held = _held(replace(found, scored=(first, *found.scored[1:])), same, VolumeRules())
    assert held[0] == first
    other = [replace(one, row=7) if one is not None else None for one in same]
    assert _held(found, other, VolumeRules())[0].pose == other[0].place


def test_the_reason_of_the_same_voxels_says_what_else_differs():
    assert Reason(Rule.PIXELS, 0.99996, 0.998, 0.0, "another voxel size in the header").words == (
        "identical pixels, another voxel size in the header"
    )


def test_without_a_share_of_the_rate_no_region_is_tested():
    """With all of the rate for whole volumes there is no p-value of a region, and none flags."""
    control = [scored_volume(0.6 + 0.002 * i, row=i) for i in range(60)]
    patients = [f"p{i}" for i in range(60)]
    whole = VolumeRules(whole_rate=1.0)
    rule = Calibration.on(control, patients, np.full(60, np.nan), 1.0, whole)
    copy, stranger = rule.flags([scored_volume(0.99, 1.0), scored_volume(0.65)], np.array([1.0, np.nan]))
    assert copy.reason is not None and copy.reason.rule is Rule.RATE and np.isnan(copy.part_q_value)
    assert stranger.reason is None and Rules().tests_regions and not whole.tests_regions
    beside = rule.flags_beside([scored_volume(0.99, 1.0)], np.array([1.0]), [copy, stranger])
    assert beside[0].reason is not None


def test_a_region_flags_a_volume_whose_better_half_does_not_agree():
    """Of a quarter that was set into a stranger the better half is the stranger's."""
    control = [scored_volume(0.6 + 0.002 * i, row=i, part=0.55 + 0.0025 * i) for i in range(60)]
    rule = Calibration.on(control, [f"p{i}" for i in range(60)], np.full(60, np.nan), 1.0, VolumeRules())
    of_region, of_nobody = (scored_volume(0.8, part=part, part_match=3, part_share=0.1) for part in (0.93, 0.77))
    told, silent = rule.flags([of_region, of_nobody], np.full(2, np.nan))
    assert told.reason is not None and told.reason.rule.of_region and silent.reason is None
    assert of_region.in_region.match == 3 and of_region.in_region.pose == VolumePose()


class OneRegion:
    """Regions that know one source."""

    def __init__(self, training, agreement=0.9):
        self.patients, self.agreement = list(training.patients), agreement

    def best(self, cubes, frames):
        return [VolumeRegion(self.agreement, len(self.patients) - 1 if self.agreement > 0 else -1, 0.2) for _ in cubes]

    @classmethod
    def fitted(cls, training):
        return cls(training)


def test_the_source_of_a_region_need_not_be_the_match_and_folds_leave_people_out(made, monkeypatch):
    """Regions of a fold were whitened by all of the training set: its own volumes looked less alike than strangers do, and p-values came out too small."""
    monkeypatch.setattr("doppelscan.decide.volume_reference.VolumeRegions", OneRegion)
    reference, images = made
    looking = replace(reference, regions=OneRegion(reference.training))
    one = looking.scored(images, "synthetic").scored[0]
    assert (one.match, one.part_match, one.part, one.part_share) == (2, 7, 0.9, 0.2)
    assert one.verified == reference.scored(images, "synthetic").scored[0].verified
    fold, rows = looking.without(np.arange(8) == 7)
    assert fold.regions.patients == [f"person{row}" for row in rows] and len(rows) == 7
    assert looking.of(images).regions is None, "the competition asks for no region"


def test_a_region_is_shown_as_it_was_compared_which_is_cube_on_cube(made):
    """Two heads of other places and sizes in mm lay side by side where their cells had agreed."""
    reference, images = made
    known = reference.training
    apart = replace(known.frames([7])[0], centre=(5.0, 0.0, 0.0), side=80.0)
    elsewhere = type("Elsewhere", (EmbeddedVolumes,), {"frames": lambda self, rows: [apart for _ in rows]})
    training = elsewhere(known.records, known.keys, known.store, known.outputs)
    looking = replace(reference, training=training, regions=OneRegion(training))
    block = VolumeBlockScorer(images, training, looking.search, looking.registration, "combined", looking.regions)
    shown = block([0])[0].in_region
    own = images.frames([0])[0]
    assert shown.match == 7 and shown.pose != VolumePose()
    np.testing.assert_allclose(shown.pose.sampling_matrix(own, apart), np.eye(3, 4), atol=1e-5)


def test_a_volume_without_cells_to_compare_has_no_region(made):
    """It had the first training volume as the source of its region, at -1."""
    reference, images = made
    one = replace(reference, regions=OneRegion(reference.training, -1.0)).scored(images, "synthetic").scored[0]
    assert (one.match, one.part, one.part_match) == (2, -1.0, -1)


def test_half_of_a_volume_is_told_by_its_cells(made):
    reference, images = made
    cells = torch.full((SIZE, SIZE, SIZE), 0.98)
    cells[SIZE // 2 :] = 0.1
    still = np.ones((SIZE,) * 3, np.float32)  # of constant cubes nothing is left
    pair: Any = type("Pair", (), {"agreement_map": cells.numpy(), "moved": still, "inside": still})
    evidence = reference._evidence(images, scored_volume(0.97, 0.5), pair, pair, VolumeRules())
    assert evidence.agreeing == pytest.approx(0.5) and evidence.disagreeing == pytest.approx(0.5) and evidence.explained == 0.5
