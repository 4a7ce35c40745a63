"""The words of the conclusion, by evidence made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from doppelscan.calibrate import TwoSampleResult
from doppelscan.decide import Evidence, Rules, Verdict, VolumeRules, conclude, count_kinds


def evidence(
    flagged=0,
    images=50,
    controls=100,
    close=0,
    control_close=0,
    patients=20,
    control_patients=20,
    p=0.5,
    kind=None,
    identical=0,
    unlike=0,
    above=0,
):
    highest = np.zeros(images, bool)
    flags, near, control_near = np.zeros(images, bool), np.zeros(images, bool), np.zeros(controls, bool)
    flags[:flagged], near[:close], control_near[:control_close] = True, True, True
    highest[:above] = True
    smallest = 1 / (controls + 1)
    return Evidence(
        np.full(images, p),
        unlike,
        identical,
        flags,
        near,
        highest,
        control_near,
        patients,
        control_patients,
        smallest,
        {"copy": flagged, "blend": 0},
        kind,
    )


@pytest.mark.parametrize(
    ("given", "verdict", "words"),
    [
        (evidence(flagged=3), Verdict.FOUND, "3 of 50"),
        (evidence(flagged=3), Verdict.FOUND, ": 3 copies"),
        (evidence(), Verdict.NOT_FOUND, "none of 50 synthetic images is closer"),
        (evidence(flagged=3, patients=1), Verdict.CANNOT, "1 patient and"),
        (evidence(flagged=3, control_patients=4), Verdict.CANNOT, "4 patients"),
        (evidence(controls=10), Verdict.CANNOT, "at least 19 holdout images"),
        (evidence(close=2, above=3, images=500), Verdict.CANNOT, "2 synthetic images would pass as a copy"),
        (evidence(close=0, above=3, images=500), Verdict.NOT_FOUND, "none of 500"),
        (evidence(unlike=50), Verdict.CANNOT, "all 50 synthetic images are unlike"),
        (evidence(unlike=24), Verdict.NOT_FOUND, "none of 26 synthetic images"),
        (evidence(unlike=44), Verdict.CANNOT, "44 of 50 synthetic images are unlike the training set"),
        (replace(evidence(), left_out=2), Verdict.NOT_FOUND, "none of 50"),
        (
            replace(evidence(), left_out=3),
            Verdict.CANNOT,
            "3 of 53 synthetic images were left out, and what is in them was not looked at",
        ),
        (replace(evidence(flagged=3), left_out=900), Verdict.FOUND, "3 of 50"),
        (evidence(control_close=20), Verdict.CANNOT, "too close"),
        (evidence(flagged=3, control_close=20), Verdict.CANNOT, "too close"),
        (evidence(flagged=3, identical=1), Verdict.FOUND, ": 3 copies"),
        (
            evidence(flagged=1, identical=1, control_patients=4),
            Verdict.FOUND,
            "1 of 50 synthetic images holds the pixels of a training image",
        ),
        (evidence(flagged=3, kind=TwoSampleResult(0.99, 1e-6)), Verdict.CANNOT, "another kind"),
        (evidence(flagged=3, kind=TwoSampleResult(0.6, 0.2)), Verdict.FOUND, "3 of 50"),
    ],
)
def test_conclusions_and_refusals(given, verdict, words):
    found = conclude(given, Rules())
    assert found.verdict is verdict and words in found.reason and "\n" not in found.reason


@pytest.mark.parametrize("given", [evidence(), evidence(unlike=44), replace(evidence(), left_out=3)])
def test_a_set_with_images_above_every_control_is_not_said_to_have_none_that_is_closer(given):
    """Four slices of training people scored above all 50 controls, and "none is closer than real images of other patients are" was said."""
    plain, told = (conclude(replace(given, highest=np.arange(50) < above), Rules()).reason for above in (0, 4))
    assert "is closer to a training image than real images of other patients are" in plain and "above" not in plain
    assert "closer" not in told
    assert told.endswith(
        "can be flagged at a false discovery rate of 0.05, but 4 score above every control image: look at them first"
    )


def test_a_set_of_volumes_most_of_which_is_unlike_is_not_called_clean():
    """Patches and noise were strangers that are not near."""
    given = replace(evidence(unlike=44), of="volume")
    found = conclude(given, VolumeRules())
    assert found.verdict is Verdict.CANNOT and found.reason.startswith(
        "44 of 50 synthetic volumes are unlike the training set (another modality, anatomy"
    )
    assert conclude(replace(given, unlike=25), VolumeRules()).verdict is Verdict.NOT_FOUND
    assert conclude(replace(given, unlike=50), VolumeRules()).reason.endswith("a wrong voxel size in the header, or noise)")


def test_a_generator_of_means_is_not_said_to_memorize():
    """All that is flagged is of no single source: derived from training, but no patient is shown; nor is that a clean set."""
    one, both = (replace(evidence(flagged=3), findings=f) for f in ({"no single source": 3}, {"copy": 1, "no single source": 2}))
    said = conclude(one, Rules())
    assert (
        said.verdict is Verdict.CANNOT
        and "3 of 50" in said.reason
        and "derived from training; of none of them can one patient be told" in said.reason
    )
    assert (
        conclude(both, Rules()).verdict is Verdict.FOUND
        and "1 of 50 synthetic images shows a training patient: 1 copy; 2 more are derived from training"
        in conclude(both, Rules()).reason
    )


def test_kinds_in_words():
    assert count_kinds({"copy": 1, "blend": 2, "part": 0, "same patient?": 3}) == "1 copy, 2 blends, 3 same patient?"


def test_a_reason_counts_no_patients_whom_nobody_named():
    few = replace(evidence(control_patients=4), control_named=False)
    assert "counts as 4 patients, who are not named, and at least" in conclude(few, Rules()).reason
    assert "10 images that count as" in conclude(replace(evidence(controls=10), control_named=False), Rules()).reason
