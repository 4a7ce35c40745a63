"""Conditions, remedies and sizes of a study: a mistake is one line, before anything is trained."""

from __future__ import annotations

import pytest
from doppelscan.errors import InputError
from doppelscan.study import CaseStudy, Remedy, StudyCondition, StudySizes


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: StudyCondition(name="../none"), "letters, digits and hyphens"),
        (lambda: StudyCondition(name="filtered"), "and not filtered"),
        (lambda: StudyCondition(name="a", duplication="much"), "none, low, high or column"),
        (lambda: StudyCondition(name="a", stop="never"), "none, validation or audit"),
        (lambda: StudySizes(samples=0), "'samples' parameter must be an integer >= 1"),
        (lambda: StudySizes(stop_when=1.5), "'stop_when' parameter must be a number between 0 and 1"),
    ],
)
def test_a_setting_that_is_none_is_one_line(make, words):
    with pytest.raises(InputError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_conditional_training_without_columns_is_left_out_and_unknown_ones_are_refused():
    assert StudyCondition(name="v", conditioning="variables").left_out == "no column for variables was named"
    asked = StudyCondition(name="v", conditioning="variables", condition_columns="age")
    assert asked.left_out is None and asked.condition_columns == ("age",)
    asked.require_columns({"age"})
    with pytest.raises(InputError, match="Got 'age'; known are position, sex"):
        asked.require_columns({"sex", "position"})


def test_names_that_no_condition_has_are_refused(tmp_path):
    def study(**settings) -> CaseStudy:
        conditions = [StudyCondition(name="none"), StudyCondition(name="high")]
        given = {"conditions": conditions, "remedies": [], "sizes": StudySizes(), **settings}
        return CaseStudy(None, tmp_path / "study", **given)

    assert study(only="none").only == ["none"] and study(only=[]).only == []
    with pytest.raises(InputError, match="Got 'hihg'; did you mean high"):
        study(only=["hihg"])
    with pytest.raises(InputError, match="'remedies' parameter must name conditions"):
        study(remedies=[Remedy(name="stop", before="high", after="early")])
    with pytest.raises(InputError, match="different names"):
        study(conditions=[StudyCondition(name="none"), StudyCondition(name="none")])
