"""Images of another domain are counted and said; strangers of the same kind are not among them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from doppelscan.decide import FittedReference, Rules, other_modalities, same_kind, unlike_training
from doppelscan.search import CandidateSearch, EmbeddedSet
from made_records import made_reference, made_set

SIZE = 12
NAMES = ("deepssim", "embedding", "layer2", "layer3")
PARTS = {name: slice(i * SIZE, (i + 1) * SIZE) for i, name in enumerate(NAMES)}


class Features:
    """Stands for a store of embeddings in one pose."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values.astype(np.float32)

    def read(self, keys: Sequence[str], names: Sequence[str], keep: bool = False) -> dict[str, np.ndarray]:
        values = self.values[[int(key.rpartition("/")[2]) for key in keys], None]
        return {name: values[..., PARTS[name]] for name in names}


def drawn(name: str, count: int, seed: int, shift: float = 0.0, names: Sequence[str] = NAMES) -> EmbeddedSet:
    """Images of people of a cohort, or of another domain that lies ``shift`` standard deviations away."""
    store: Any = Features(np.random.default_rng(seed).normal(shift, 1, (count, len(NAMES) * SIZE)))
    return replace(made_set(name, count), store=store, outputs={name: PARTS[name] for name in names})


def fitted(training: EmbeddedSet) -> FittedReference:
    search = CandidateSearch(candidates=3).fit(training.single_pose(), training.patients)
    return replace(made_reference(training), search=search)


@pytest.fixture(scope="module")
def reference() -> FittedReference:
    return fitted(drawn("training", 120, 0))


def test_another_domain_is_told_and_strangers_are_not(reference):
    mixed = np.concatenate([np.random.default_rng(1).normal(shift, 1, (30, len(NAMES) * SIZE)) for shift in (0, 4)])
    store: Any = Features(mixed)
    unlike, notes = unlike_training(replace(drawn("synthetic", 60, 1), store=store), reference, Rules())
    assert not unlike[:30].any() and unlike[30:].all() and not notes


def test_of_many_training_images_some_of_every_person_are_compared(reference, monkeypatch):
    # All with all is 100,000 x 100,000 distances of a large training set.
    domain = importlib.import_module("doppelscan.decide.domain")
    compared: list[int] = []
    plain = domain.nearest_distances
    monkeypatch.setattr(
        domain, "nearest_distances", lambda asked, own, *groups: compared.append(len(own)) or plain(asked, own, *groups)
    )
    monkeypatch.setattr(domain, "MOST", 60)
    near, _ = unlike_training(drawn("synthetic", 30, 1), reference, Rules())
    far, _ = unlike_training(drawn("synthetic", 30, 1, shift=4), reference, Rules())
    assert set(compared) == {60} and not near.any() and far.all()


def test_a_holdout_that_lies_further_away_widens_what_is_usual(reference):
    images = drawn("synthetic", 30, 2, shift=1.9)
    alone, _ = unlike_training(images, reference, Rules())
    beside, _ = unlike_training(images, reference, Rules(), drawn("holdout", 40, 3, shift=2.1))
    few, _ = unlike_training(images, reference, Rules(), drawn("holdout", 10, 3, shift=2.1))
    assert alone.mean() > 0.5 and beside.mean() < 0.2 and (few == alone).all()


def test_few_training_images_call_nobody_unlike_and_that_is_said():
    unlike, notes = unlike_training(drawn("synthetic", 30, 1, shift=4), fitted(drawn("training", 40, 0)), Rules())
    assert unlike is None and "fewer than 80 training images do not tell" in notes[0]


def test_an_encoder_without_early_features_calls_nobody_unlike_and_that_is_said():
    pooled = ("deepssim", "embedding")
    training = drawn("training", 120, 0, names=pooled)
    unlike, notes = unlike_training(drawn("synthetic", 30, 1, shift=4, names=pooled), fitted(training), Rules())
    assert unlike is None and "an encoder without early features does not tell" in notes[0]


def with_modalities(name: str, modalities: Sequence[str]) -> EmbeddedSet:
    made = made_set(name, len(modalities))
    return replace(made, records=[replace(r, modality=m) for r, m in zip(made.records, modalities, strict=True)])


def test_dicom_files_of_another_modality_are_said_with_their_number():
    training = with_modalities("training", ["MR", "MR", ""])
    assert other_modalities(with_modalities("synthetic", ["MR", "", ""]), training) == []
    (said,) = other_modalities(with_modalities("synthetic", ["CT", "MR", "CT", "PT"]), training)
    assert said.startswith("3 of 4 synthetic images are DICOM files of another modality") and "(2 CT, 1 PT; training: MR)" in said
    assert other_modalities(with_modalities("synthetic", ["CT"]), with_modalities("training", ["", ""])) == [], "nothing is known"


def test_a_holdout_of_another_scanner_is_told_by_early_features_and_one_of_the_same_is_not(reference):
    assert same_kind(reference.training, drawn("holdout", 60, 4)).p_value > 0.01
    away = same_kind(reference.training, drawn("holdout", 60, 4, shift=1.0))
    assert away.auc > 0.95 and away.p_value < 1e-6
