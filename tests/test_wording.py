"""No number is told as known that is not."""

from __future__ import annotations

import pytest
from doppelscan.wording import of_whom


@pytest.mark.parametrize(
    ("images", "patients", "unnamed", "told"),
    [
        (90, 30, 0, "of 30 patients"),
        (2, 1, 0, "of 1 patient"),
        (90, 90, 90, "(patients not named: each counts as one)"),
        (90, 84, 90, "(patients not named: counted as 84)"),
        (90, 40, 12, "(patients of 12 not named: counted as 40)"),
    ],
)
def test_patients_whom_nobody_named_are_not_counted_as_if_known(images, patients, unnamed, told):
    assert of_whom(images, patients, unnamed) == told
