"""Who is a stranger to the training set, and which of them spoil the calibration."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from doppelscan.decide import ControlScorer, FittedReference, Rules, ScoredControl, without_leaks
from doppelscan.decide import reference as reference_module
from doppelscan.images import ImageRecord
from doppelscan.search import EmbeddedSet
from doppelscan.verify import IdenticalImage, Pose
from made_records import made_reference, made_score, made_set


def embedded(patients: list[str], keys: list[str]) -> EmbeddedSet:
    records = [ImageRecord(f"{i}.png", (f"{i}.png",), f"{i}.png", patient) for i, patient in enumerate(patients)]
    return EmbeddedSet(records, keys, store=None, outputs={})


def test_training_images_by_bytes_or_pixels_and_training_patients_are_no_control():
    training = embedded(["anna", "ben"], ["k1", "k2"])
    control = embedded(["carl", "anna", "dora", "emil", "fred"], ["k3", "k4", "k2", "k5", "k6"])
    same = IdenticalImage(0, 4, False, 0.999, 0.998)
    kept, found = without_leaks(control, training, [None, None, None, same, None])
    assert found == [1, 2, 3] and kept == [0, 4]


class Pairs:
    """Stands for the registration: how much of the fine structure each pair explains, by the pose's shift."""

    def aligned(self, queries, rows, training, matches, poses, descriptor) -> list[SimpleNamespace]:
        return [SimpleNamespace(explained=1.0, fine=pose.shift_x) for pose in poses]


def fitted() -> FittedReference:
    patches: Any = SimpleNamespace(patches=SimpleNamespace(descriptor=None))
    registration: Any = Pairs()
    return replace(made_reference(made_set("training", 40)), search=patches, registration=registration)


def control(high: dict[int, tuple[float, float]]) -> ScoredControl:
    """40 strangers; of some the verified score and what the match explains."""
    scored = [made_score(i, high.get(i, (0.4, 0))[0], pose=Pose(shift_x=high.get(i, (0.4, 0))[1])) for i in range(40)]
    return ScoredControl(made_set("control", 40), tuple(scored), 1.0, notes=("first",))


def test_a_training_person_in_the_control_is_left_out_and_listed():
    kept = control({7: (0.8, 0.93), 9: (0.9, 0.95)}).with_doubles_merged(fitted(), Rules())
    assert [s.row for s in kept.scored] == [i for i in range(40) if i not in (7, 9)]
    assert [(n.control, n.first.id, n.second.id) for n in kept.doubles] == [
        (True, "control/9.png", "training/9.png"),
        (True, "control/7.png", "training/7.png"),
    ]
    assert kept.notes[0] == "first" and kept.notes[1].startswith("2 control images are of people of the training set")


def test_look_alikes_that_are_not_shown_to_be_one_person_stay_in_the_control():
    """Trimmed, they would be missed by the p-values: their like among the synthetic images would be flagged."""
    given = control({7: (0.8, 0.7)})
    kept = given.with_doubles_merged(fitted(), Rules())
    assert kept.scored == given.scored and kept.notes == ("first",) and len(kept.doubles) == len(kept.look_alikes(Rules())) == 1


def test_a_control_that_is_full_of_near_duplicates_is_kept_so_that_the_conclusion_refuses():
    """3 of 40 are more than 5 %: leaving them out would make the control look clean."""
    full = control({0: (0.9, 0.95), 1: (0.9, 0.95), 2: (0.9, 0.95)})
    kept = full.with_doubles_merged(fitted(), Rules())
    assert kept.scored == full.scored and kept.notes == full.notes and len(kept.doubles) == 3


class InFolds(FittedReference):
    """Names the training images that may be found, as the match the first and as the region the last of them."""

    def scored(self, images, label):
        left: Any = self.search.allowed  # type: ignore[attr-defined]
        scores = [made_score(i, match=left[0], part_match=left[-1], runner_up_match=left[1]) for i in range(len(images))]
        return SimpleNamespace(scored=scores)


def test_folds_of_a_large_set_share_its_search_and_leave_their_patients_out(monkeypatch):
    monkeypatch.setattr(reference_module, "SHARED", 40)
    training = made_set("training", 40, patients=[f"p{i // 2}" for i in range(40)])
    asked: list[np.ndarray] = []

    def without(out: np.ndarray) -> SimpleNamespace:
        asked.append(out)
        return SimpleNamespace(allowed=np.flatnonzero(~out).tolist())

    search: Any = SimpleNamespace(without=without)
    base = made_reference(training)
    reference = InFolds(training, training, search, {}, base.registration)
    scored = ControlScorer(reference, True, 40, 0)(None).scored
    assert [s.row for s in scored] == list(range(40)) and len(asked) == 5 and sum(out.sum() for out in asked) == 40
    for one in scored:
        assert training.patients[one.row] not in {
            training.patients[row] for row in (one.match, one.part_match, one.runner_up_match)
        }
