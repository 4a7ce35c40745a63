"""A difference is claimed only where nothing else explains it; what must be alike is looked at first."""

from __future__ import annotations

import csv
import json
import shutil

import jsonschema
import pytest
from doppelscan.calibrate import wilson
from doppelscan.errors import InputError
from doppelscan.filing import compare, read_audit
from doppelscan.filing.comparison import compare_audits
from doppelscan.locations import PACKAGE
from made_audits import made_audit, made_test

SCHEMA = json.loads((PACKAGE / "filing" / "schemas" / "compare.schema.json").read_text())


def other_images(content) -> None:
    """As a new set of the same generator: other files."""
    content["sets"]["synthetic"]["sha256"] = "b" * 64


def moved(folder):
    """Other images: what is measured of each is another."""
    path = folder / "scores.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for i, row in enumerate(rows):
        row["deepssim"] = f"{0.9 - 0.001 * i:.7g}"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """20 of 60 flagged before, 2 of 60 others after."""
    tmp_path = tmp_path_factory.mktemp("pair")
    before = made_audit(tmp_path / "before", 20, 60, test=made_test(lower=0.2, upper=0.5))
    after = moved(made_audit(tmp_path / "after", 2, 60, change=other_images, test=made_test(lower=0.0, upper=0.12)))
    return before, after


def result(before, after):
    return compare_audits(read_audit(before, "before"), read_audit(after, "after"))


def test_fewer_images_of_the_same_training_set_are_told_with_interval_and_p(pair):
    found = result(*pair)
    assert found.verdict == "fewer images show a patient" and not found.obstacles and found.shared_images == 0
    shown = found.shares[0]
    assert (shown.before.count, shown.after.count) == (17, 2), "of no single source shows nobody"
    assert shown.p_value < 0.001 and shown.change.upper < 0 < shown.before.lower
    assert "Fewer are memorized, too, when what each audit may have missed is allowed for: 20.0 to 50.0 % before" in found.reason
    assert found.counts["gone"] > found.counts["new"] == 0 and {one.status for one in found.patients} == {"gone", "still"}


def test_what_the_audits_may_have_missed_is_allowed_for(pair, tmp_path):
    blurred = moved(made_audit(tmp_path / "blurred", 2, 60, change=other_images, test=made_test(found=9, lower=0.0, upper=0.4)))
    found = result(pair[0], blurred)
    assert found.verdict == "fewer images are found" and "leaves open whether fewer are memorized" in found.reason
    assert any("changed by noise (18 of 18 before, 9 of 18 after)" in one for one in found.cautions)
    untested = moved(made_audit(tmp_path / "untested", 2, 60, change=lambda c: (other_images(c), c.update(self_test=None))))
    assert "had no self-test" in result(pair[0], untested).reason


def test_more_images_are_told_as_well(pair):
    assert result(pair[1], pair[0]).verdict == "more images show a patient"


def test_a_small_difference_is_no_claim(pair, tmp_path):
    after = moved(made_audit(tmp_path / "same", 18, 60, change=other_images))
    found = result(pair[0], after)
    assert found.verdict == "no difference shown" and "chance alone explains it" in found.reason and found.shares[0].p_value > 0.05


def test_patients_seen_once_may_be_gone_by_chance(pair):
    gone = [one for one in result(*pair).patients if one.status == "gone"]
    assert all(one.chance == pytest.approx(0.5) for one in gone if one.before == 1)


CHANGES = {
    "training": (lambda c: c["sets"]["training"].update(sha256="c" * 64), "the training set differs"),
    "control": (lambda c: c["sets"]["control"].update(sha256="c" * 64), "the control differs"),
    "weights": (lambda c: c.update(weights_sha256="c" * 64), "the encoder's weights differ"),
    "version": (lambda c: c["versions"].update(doppelscan="9"), "the doppelscan's version differs"),
    "rules": (lambda c: c["rules"].update(close_pair=0.5), "the rules differ"),
    "preprocessing": (lambda c: c["settings"].update(preprocessing=["other"]), "the setting preprocessing differs"),
    "control too small": (lambda c: c.update(smallest_p_value=0.2), "the control of the audit after is not large enough"),
    "control of another kind": (
        lambda c: c.update(control_against_training={"auc": 0.99, "p_value": 1e-6}),
        "the control of the audit after is not of the same kind as the training set",
    ),
}


def test_what_differs_is_told_with_its_numbers_before_and_after(pair, tmp_path):
    """That the rules or the training set differ tells nobody which number, nor by how much."""

    def change(summary):
        other_images(summary)
        summary["sets"]["training"].update(sha256="c" * 64, images=999)
        summary["rules"].update(close_pair=0.5)
        summary["settings"]["preprocessing"] = [*summary["settings"]["preprocessing"][:-1], {"window": [1, 99]}]

    found = result(pair[0], moved(made_audit(tmp_path / "changed", 2, 60, change=change)))
    told = " ".join(found.obstacles)
    images = read_audit(pair[0], "before").summary["sets"]["training"]["images"]
    assert (
        f"the training set differs (images {images}, patients" in told
        and "before, images 999, patients" in told
        and "sha256 cccccccc" in told
    )
    rules = read_audit(pair[0], "before").summary["rules"]["close_pair"]
    assert f"the rules differ ({{'close_pair': {rules}}} before, {{'close_pair': 0.5}} after)" in told
    assert "{'window': [1, 99]} after" in told, "of a long list what differs"


def test_audits_of_one_folder_name_are_told_apart(pair, tmp_path):
    for name, source in (("a", pair[0]), ("b", pair[1])):
        (tmp_path / name).mkdir()
        shutil.copytree(source, tmp_path / name / "report")
    compare(before=tmp_path / "a" / "report", after=tmp_path / "b" / "report", output=tmp_path / "c")
    page = (tmp_path / "c" / "compare.html").read_text()
    assert "Before: a/report, after: b/report" in page


def test_a_share_has_the_interval_that_its_audit_gives(pair):
    """One of 25 images had 30.0 to 66.5 % in its audit and 29.7 to 66.8 % in a comparison."""
    shown = result(*pair).shares[0].before
    assert (shown.lower, shown.upper) == (wilson(17, 60).lower, wilson(17, 60).upper)


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_not_alike_is_said_first_and_no_difference_is_claimed(pair, tmp_path, what):
    change, words = CHANGES[what]
    after = moved(made_audit(tmp_path / "changed", 2, 60, change=lambda c: (other_images(c), change(c))))
    found = result(pair[0], after)
    assert (
        found.verdict == "not comparable"
        and words in found.reason
        and found.reason.startswith("17 of 60 images showed a training patient before")
    )
    assert found.shares[0].p_value is None and all(one.chance is None for one in found.patients)


def test_a_seed_or_a_machine_that_differs_is_a_caution(pair, tmp_path):
    after = moved(
        made_audit(
            tmp_path / "other",
            2,
            60,
            change=lambda c: (other_images(c), c["settings"].update(seed=7)),
            test=made_test(lower=0, upper=0.1),
        )
    )
    found = result(pair[0], after)
    assert found.verdict == "fewer images show a patient" and any("setting seed" in one for one in found.cautions)


def test_a_filtered_set_says_nothing_of_the_generator(tmp_path):
    before, after = made_audit(tmp_path / "before", 20, 60), made_audit(tmp_path / "after", 2, 60, change=other_images)
    found = result(before, after)
    assert (
        found.shared_images >= 40
        and found.verdict == "not comparable"
        and "in both sets, so that they are no independent samples" in found.reason
    )


def test_the_same_images_twice_are_no_before_and_after(tmp_path):
    found = result(made_audit(tmp_path / "before", 3), made_audit(tmp_path / "after", 3))
    assert found.verdict == "not comparable" and "both audits are of the same synthetic images" in found.reason


def test_patients_of_redacted_audits_are_not_matched_and_that_is_said(tmp_path, pair):
    after = moved(made_audit(tmp_path / "redacted", 2, 60, redact=True, change=other_images, test=made_test(lower=0.0, upper=0.1)))
    found = result(pair[0], after)
    assert (
        not found.patients_matched
        and found.patients == ()
        and any("pseudonyms that are new in each" in one for one in found.cautions)
    )
    assert found.verdict == "fewer images show a patient"


@pytest.mark.parametrize("redact", [False, True])
def test_the_three_files_say_the_same(pair, tmp_path, redact):
    found = compare(before=pair[0], after=pair[1], output=tmp_path / "out", redact=redact)
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    jsonschema.validate(content, SCHEMA)
    page = (tmp_path / "out" / "compare.html").read_text()
    with open(tmp_path / "out" / "compare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert content["verdict"] == found.verdict and f"<h1>{found.verdict}</h1>" in page
    assert [row["patient"] for row in rows] == [one.patient for one in found.patients] and all(
        row["patient"] in page for row in rows
    )
    assert ("training-patient" in page) is not redact and ("training-patient" in json.dumps(content)) is not redact
    assert page.index("Can they be compared") < page.index("Shares</h2>") and "src=" not in page


def test_one_audit_twice_and_a_folder_of_an_audit_as_output_are_refused(pair, tmp_path):
    with pytest.raises(InputError, match="must be different audits"):
        compare(before=pair[0], after=pair[0], output=tmp_path / "out")
    with pytest.raises(InputError, match="another folder than the audits"):
        compare(before=pair[0], after=pair[1], output=pair[1])


def test_an_audit_that_nobody_named_counts_no_patients(pair, tmp_path):
    unnamed = made_audit(tmp_path / "unnamed", 2, 60, named=False, change=other_images)
    told = result(pair[0], unnamed).cautions
    assert any("audit after counts an image that nobody named" in one for one in told)
    assert not any("nobody named" in one for one in result(*pair).cautions)
