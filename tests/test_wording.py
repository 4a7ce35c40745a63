"""No number is told as known that is not."""

from __future__ import annotations

import pytest
from doppelscan.wording import control_of, of_whom


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


@pytest.mark.parametrize(
    ("images", "from_training", "told"),
    [
        (120, 0, "all of the holdout"),
        (50, 30, "20 of the holdout, 30 training images"),
        (2, 1, "1 of the holdout, 1 training image"),
        (60, 60, "all training images, each held against the other patients"),
    ],
)
def test_it_is_said_how_much_of_the_control_is_no_holdout(images, from_training, told):
    assert control_of(images, from_training, "image") == told
