"""The head that says whether two images are of one patient, and its training on features that were made."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from doppelscan.calibrate import area_under_curve
from doppelscan.deepssim import DeepSSIMEncoder
from doppelscan.deepssim.same_patient import PATIENT_OUTPUTS, SamePatientHead, patient_columns, patient_loss
from doppelscan.errors import InputError

sys.path.insert(0, str(Path(__file__).parents[1] / "real"))

from reid_head import Cohort, train

SIZE, PLACES = 48, 9


def made_cohort(people: int, seed: int) -> Cohort:
    """What a person gives to features is small beside what the place of the slice gives."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randn(PLACES, SIZE, generator=torch.Generator().manual_seed(1)) * 3
    who = torch.zeros(people, 1, SIZE)
    who[..., :6] = torch.randn(people, 1, 6, generator=generator)
    plain = (who + places + 0.3 * torch.randn(people, PLACES, SIZE, generator=generator)).flatten(0, 1)
    views = plain + 0.1 * torch.randn(plain.shape, generator=generator)
    rows = [np.arange(k * PLACES, (k + 1) * PLACES) for k in range(people)]
    alike = np.stack([np.roll(np.arange(people), -k) for k in range(people)])
    return Cohort(torch.stack([plain, views]), np.tile(4.0 * np.arange(PLACES), people), rows, alike)


def test_the_order_of_a_pair_does_not_matter():
    torch.manual_seed(0)
    head = SamePatientHead(SIZE).eval()
    first, second = torch.randn(3, 1, SIZE), torch.randn(1, 5, SIZE)
    logits = head(first, second)
    assert logits.shape == (3, 5)
    assert torch.allclose(logits, head(second, first), atol=1e-6)
    assert torch.allclose(logits[2, 4], head(first[2, 0], second[0, 4]), atol=1e-5)


def test_features_of_another_source_are_bounded():
    head = SamePatientHead(SIZE).standardise(torch.randn(50, SIZE)).eval()
    assert torch.equal(head.project(torch.full((1, SIZE), 1e3)), head.project(torch.full((1, SIZE), 1e6)))


def test_features_of_another_size_are_refused():
    with pytest.raises(InputError, match=f"must be {SIZE} values.*Got 12"):
        SamePatientHead(SIZE).project(torch.zeros(2, 12))


def test_columns_are_those_of_the_outputs_in_order():
    encoder = DeepSSIMEncoder(outputs=["embedding", "layer2", "deepssim", "layer4", "layer3"])
    columns = patient_columns(encoder.output_slices)
    assert len(columns) == len(SamePatientHead().mean) == 2048
    at = 0
    for name in PATIENT_OUTPUTS:
        part = encoder.output_slices[name]
        assert columns[at : at + part.stop - part.start].tolist() == list(range(part.start, part.stop))
        at += part.stop - part.start
    with pytest.raises(InputError, match="without layer3, layer4"):
        patient_columns(DeepSSIMEncoder().output_slices)


def test_the_loss_is_that_of_ranking_against_others_of_both_places():
    between = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    first, second = torch.tensor([[9.0, -1.0], [-1.0, 9.0]]), torch.tensor([[9.0, 0.5], [0.5, 9.0]])
    rows = [2.0 - np.log(np.exp([2.0, 0.0, -1.0]).sum()), 3.0 - np.log(np.exp([1.0, 3.0, -1.0]).sum())]
    columns = [2.0 - np.log(np.exp([2.0, 1.0, 0.5]).sum()), 3.0 - np.log(np.exp([0.0, 3.0, 0.5]).sum())]
    assert float(patient_loss(between, first, second, 0.0)) == pytest.approx(-(np.mean(rows) + np.mean(columns)) / 2, abs=1e-6)


def test_a_batch_is_of_different_people_all_at_one_place_and_all_at_another():
    cohort, rng = made_cohort(12, 0), np.random.default_rng(0)
    for _ in range(20):
        first, second = cohort.draw(rng, 8)
        assert (first // PLACES == second // PLACES).all() and len(set((first // PLACES).tolist())) == 8 and (first != second).all()
        assert len(set((first % PLACES).tolist())) == 1 == len(set((second % PLACES).tolist()))


def test_without_positions_a_batch_is_of_people_who_look_alike():
    cohort = made_cohort(30, 0)
    unplaced = Cohort(cohort.features, np.full(len(cohort.positions), np.nan), cohort.people, cohort.alike)
    first, second = unplaced.draw(np.random.default_rng(0), 4)
    people = first // PLACES
    assert (people == second // PLACES).all() and (first != second).all()
    # Of twelve in a row, round the end: 30 people in a ring.
    assert min(int(np.ptp(np.sort((people - k) % 30))) for k in range(30)) < 12


def test_a_short_training_tells_people_apart_that_it_never_saw():
    head, unseen = train([made_cohort(100, 0)], steps=300, learning_rate=5e-3), made_cohort(20, 7)
    with torch.no_grad():
        shown = unseen.features[0].view(20, PLACES, SIZE)
        logits = head(shown[:, None, 2], shown[None, :, 6])
        cosine = torch.nn.functional.cosine_similarity(shown[:, None, 2], shown[None, :, 6], dim=-1)
    same = np.eye(20, dtype=bool).ravel()
    told, plain = (area_under_curve(one.numpy().ravel(), same).share for one in (logits, cosine))
    assert told > 0.8 and told > plain + 0.15
