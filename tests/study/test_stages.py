"""Which weights are sampled when an audit ended a training, and what a condition that was begun refuses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from doppelscan.calibrate import wilson
from doppelscan.errors import InputError
from doppelscan.study import StudyCondition, StudySizes
from doppelscan.study.stages import Bench, TrainedGenerator, _released, require_same_condition

AUDITED = StudyCondition(name="audited", stop="audit")


def bench(folder, **sizes) -> Bench:
    return Bench(SimpleNamespace(some=folder, all=folder), folder, StudySizes(**sizes), ["a.json"], ["diffusion.json"], "cpu")


def curve(*flagged: int) -> list:
    return [SimpleNamespace(step=1000 * number, flagged=wilson(count, 50)) for number, count in enumerate(flagged, 1)]


def test_the_weights_before_the_audit_that_ended_a_training_are_sampled(tmp_path):
    made = bench(tmp_path)
    folder = made.place(AUDITED) / "generator"
    folder.mkdir(parents=True)
    for epoch in (10, 20, 30):
        (folder / f"generator_{epoch:04d}.pt").touch()
    trained = TrainedGenerator("generator.pt", 3000, 30, 1.0, "")
    kept = _released(made, AUDITED, trained, curve(0, 1, 6))  # 1 of 50 is up to 10.5 %, 6 of 50 up to 23.8 %
    assert (kept.weights, kept.step) == ("generator_0020.pt", 2000) and "step 3000" in kept.note
    first = _released(made, AUDITED, trained, curve(6))
    assert first.weights == "generator_0010.pt" and "no earlier checkpoint" in first.note
    assert _released(made, AUDITED, trained, curve(0, 0, 0)).weights == "generator.pt"
    assert _released(made, StudyCondition(name="high"), trained, curve(0, 1, 6)) is trained


def test_a_condition_goes_on_with_what_it_was_begun_with_alone(tmp_path):
    require_same_condition(bench(tmp_path), AUDITED)
    require_same_condition(bench(tmp_path, self_test=False), AUDITED)  # what is done with samples may be asked for later
    with pytest.raises(InputError, match="whose condition 'audited' has batches 100, not 50; pass another --output_dir"):
        require_same_condition(bench(tmp_path, batches=50), AUDITED)
