"""A benchmark out of any set: split by patient, copies of training only, the same transform for both."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.images import InputError, PlantedCopies


def test_no_patient_is_on_both_sides_and_sources_are_right(cohort):
    images = [(f"p{i // 2}", cohort[i]) for i in range(20)]
    planted = PlantedCopies(images, copies=5, seed=3)
    assert not {p for p, _ in planted.training} & {p for p, _ in planted.novel}
    exact = planted.queries("exact")
    assert (exact.sources >= 0).sum() == 5 and (exact.sources < 0).sum() == 5
    for pixels, patient, source in zip(exact.pixels, exact.patients, exact.sources, strict=True):
        if source >= 0:
            assert patient == planted.training[source][0]
            np.testing.assert_allclose(pixels, planted.training[source][1])
        else:
            assert patient in {p for p, _ in planted.novel}


def test_novel_images_go_through_the_same_transform(cohort):
    images = [(f"p{i}", cohort[i]) for i in range(10)]
    flipped = PlantedCopies(images, copies=10, seed=1).queries("flip-x")
    plain = PlantedCopies(images, copies=10, seed=1).queries("exact")
    for a, b in zip(flipped.pixels, plain.pixels, strict=True):
        np.testing.assert_allclose(a, b[:, ::-1])


def test_too_few_patients_are_refused(cohort):
    with pytest.raises(InputError, match=r"at least 5 patients.*Got 4"):
        PlantedCopies([(f"p{i}", cohort[i]) for i in range(4)])
