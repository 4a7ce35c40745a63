"""What may be signed of an audit, and what may not: of flags, shares and bounds only those that are there."""

from __future__ import annotations

from collections.abc import Sequence

from doppelscan.decide import AuditedImage, AuditSummary, Decision, Rule, Verdict
from doppelscan.wording import counted, noun_of, values_of

__all__ = ["may_sign", "to_quote"]


def may_sign(decision: Decision, summary: AuditSummary) -> tuple[str, str]:
    """How "You may sign" and "You may not sign" go on, each without its full stop.

    Args:
        decision: the finished audit.
        summary: what summary.json holds of it.
    """
    verdict = Verdict(summary.conclusion)
    if verdict is Verdict.CANNOT:
        return "nothing: the reason above says what is missing", "that the set was audited"
    bounded = summary.self_test is not None and summary.self_test.bound < 1
    if verdict is Verdict.FOUND:
        shown = [one for one in decision.images if one.shows_patient]
        return f"{_showing(shown, summary.of)}{_errors(shown, summary.of, summary.fdr)}", _others(decision, summary.of, bounded)
    changed = "in another way"
    again = "visit" if summary.of == "volume" else "slice or visit"
    other = f"; nor that no training patient is shown in another {again}, which is no copy"
    if summary.self_test is None:
        return (
            "that nothing was flagged",
            f"that the set is clean: nobody measured what would have been found of a copy that was changed {changed}{other}",
        )
    ways = "the ways" if all(one.declared for one in summary.self_test.copies) else "the declared ways"
    judged = sum(not one.unlike for one in decision.images)
    whole = judged == len(decision.images) and not any(one.set == "synthetic" for one in summary.skipped)
    which = "this set" if whole else f"the {counted(judged, summary.of)} that could be judged"
    share = f", and that at most {100 * summary.self_test.bound:.1f} % of {which} is such a copy (95 %)" if bounded else ""
    return (
        f"that copies changed in {ways} of the table “What this audit could have found” would be found with at least the probability that stands there{share}",
        f"that the generator has not memorized, that a next set is clean, or anything of a copy that was changed {changed}{other}",
    )


def to_quote(summary: AuditSummary) -> str:
    """The one share that is to be quoted, and in a few words what the other shares of the page are, without its full stop; empty where nothing may be
    signed."""
    verdict, test, flagged = Verdict(summary.conclusion), summary.self_test, summary.flagged
    if verdict is Verdict.CANNOT:
        return ""
    others = ["the residual risk takes off what the control explains"]
    if verdict is Verdict.NOT_FOUND and test is not None and test.bound < 1:
        share = f"at most {100 * test.bound:.1f} % of the set memorized (95 % upper bound)"
        others.insert(0, "the flagged share leaves out copies that were missed")
    else:
        interval = f"95 % interval {100 * flagged.lower:.1f} to {100 * flagged.upper:.1f} %"
        share = f"{flagged.count} of {counted(flagged.total, summary.of)} flagged, {100 * flagged.share:.1f} % ({interval})"
        if test is not None:
            others.insert(0, "what may be memorized adds copies that may have been missed")
    if summary.competition is not None:
        others.append("what is owed to training counts any nearness to its patients, copies or not")
    return f"{share}. Other shares answer other questions: {', '.join(others)}"


def _showing(shown: Sequence[AuditedImage], of: str) -> str:
    sources = [one.source for one in shown] + [one.second_match for one in shown if one.second_match is not None]
    patients, training = {one.patient for one in sources}, {one.id for one in sources}
    kinds = len({one.finding.kind for one in shown if one.finding is not None})
    images = f"this {of} shows" if len(shown) == 1 else f"these {counted(len(shown), of)} show"
    people = "this training patient" if len(patients) == 1 else f"these {counted(len(patients), 'training patient')}"
    if not all(one.patient_known for one in sources):
        # How many patients that are nobody knows.
        people = f"{counted(len(training), f'training {of}')}, whose patients are not named"
    kind = noun_of(kinds, "kind")
    return f"that {images} {people}, with the {kind} of finding{'' if len(shown) == 1 else 's'} below"


def _errors(shown: Sequence[AuditedImage], of: str, fdr: float) -> str:
    """How many of the flags may be false, by what flagged them."""
    rules = [one.finding.reason.rule for one in shown if one.finding is not None]
    rated, certain = sum(rule.by_rate for rule in rules), rules.count(Rule.PIXELS)
    stated = len(rules) - rated - certain
    told, same = [], values_of(of)
    if certain:
        which = "" if certain == len(rules) else f"{counted(certain, 'flag')} {'is' if certain == 1 else 'are'} of "
        told.append(f"{which}the same {same}{'' if certain == len(rules) else ', which'} leave no doubt")
    if rated:
        # What holds the same pixels is among what the rate counts: of the others alone more may be false.
        together = (
            f"of the {rated + certain} flags by rate or of the same {same} together"
            if certain
            else f"of flags by rate, {rated} here,"
        )
        which = "it is flagged by rate, and of such flags" if len(rules) == 1 else together
        told.append(f"{which} at most {100 * fdr:g} % are false on average")
    if stated:
        which = (
            "its flag"
            if len(rules) == 1
            else "each flag"
            if stated == len(rules)
            else "the other flag"
            if stated == 1
            else "each other flag"
        )
        told.append(f"{which} states its own error in its reason")
    return "".join(f"; {one}" for one in told)


def _others(decision: Decision, of: str, bounded: bool) -> str:
    others = sum(one.finding is None for one in decision.images)
    if not others:
        return f"anything of other {of}s of the same generator"
    which = f"the other {of} is" if others == 1 else f"the other {of}s are"
    return f"that {which} safe{': see the share that may be memorized' if bounded else ''}"
