"""What kept an image that is near to a training image from being flagged: the rules of flags.py, told of the others."""

from __future__ import annotations

from doppelscan.decide.conclusion import unlike_words
from doppelscan.decide.decision import AuditedImage, Decision
from doppelscan.images import unit_of
from doppelscan.wording import one_of

__all__ = ["kept_from_flag"]


def kept_from_flag(one: AuditedImage, decision: Decision) -> str:
    """In words, which rule would have flagged ``one`` had it been met; empty where it is flagged.

    Of the rules the one by rate comes first, since it can flag every image; what a plain pair or a region lacks is told where either comes near.
    """
    if one.finding is not None:
        return ""
    rules, scored, flag = decision.calibrations[0].rules, one.scored, one.flag
    of = unit_of([one.record])
    if one.unlike:
        return f"unlike the training set: {unlike_words(of)}"
    told = []
    if flag.q_value > rules.fdr:
        told.append(f"q {flag.q_value:.2g} is above the rate of {rules.fdr:g}")
    elif scored.verified < rules.least_verified:
        told.append(
            f"q {flag.q_value:.2g} is within the rate, but its verified score {scored.verified:.2f} is below {rules.least_verified:g}"
        )
    else:
        told.append(f"with the look-alikes in the control, or beside {of}s of no single source, the rate does not hold")
    if scored.verified >= rules.close_pair:
        alike = any(one.plain_explained for one in decision.calibrations)
        told.append(
            f"it agrees as copies do (verified {scored.verified:.2f}), but "
            + (
                f"so does {one_of(of)} of the control, which it is not far beyond"
                if alike
                else "its match explains less than that of a copy"
            )
        )
    if rules.tests_regions and scored.part >= rules.least_part:
        told.append(f"its best region agrees ({scored.part:.2f}), but so do regions of the control (q {flag.part_q_value:.2g})")
    return "; ".join(told)
