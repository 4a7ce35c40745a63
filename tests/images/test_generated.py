"""Generated patients: repeatable, alike within a cohort, different between patients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.images import COPY_TRANSFORMS, generate_cohort, plant_copy


def test_same_seed_same_images_other_seed_other_images():
    first, again, other = (generate_cohort(3, 2, 64, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_slices_of_a_patient_are_nearer_than_patients():
    images, patients = generate_cohort(12, 2, 96, 5)
    flat = images.float().flatten(1)
    similarity = torch.corrcoef(flat)
    same = [similarity[i, j] for i in range(24) for j in range(24) if i != j and patients[i] == patients[j]]
    different = [similarity[i, j] for i in range(24) for j in range(24) if patients[i] != patients[j]]
    assert np.mean(same) > np.mean(different) + 0.1


@pytest.mark.parametrize("name", list(COPY_TRANSFORMS))
def test_planted_copies_stay_in_range_and_keep_their_size(cohort, name):
    copy = plant_copy(cohort[0], name, np.random.default_rng(0), cohort[1])
    assert copy.shape == cohort[0].shape and copy.dtype == np.float32
    assert copy.min() >= 0 and copy.max() <= 1 and copy.std() > 0.01


def test_unknown_transform_and_blend_without_partner_are_refused(cohort):
    with pytest.raises(ValueError, match="must be one of"):
        plant_copy(cohort[0], "melt", np.random.default_rng(0))
    with pytest.raises(ValueError, match="partner"):
        plant_copy(cohort[0], "blend 75/25", np.random.default_rng(0))
