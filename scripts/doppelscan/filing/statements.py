"""What a dossier says beside its numbers: the threat that was looked at, what was tested and what was not, and the criteria of others, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from doppelscan.filing.audits import FinishedAudit
from doppelscan.wording import counted, of_whom, one_of, values_of

__all__ = ["SOURCES", "Statement", "card", "control_fitness", "criteria", "tested", "threat_model"]

FOUND, CLEAR = "memorization found", "no memorization found"
TESTED, PARTLY, NOT_TESTED = "tested", "tested in part", "not tested"

SOURCES = {
    "WP29": "Article 29 Data Protection Working Party, Opinion 05/2014 on Anonymisation Techniques (WP 216), adopted on 10 April 2014",
    "EDPB": "European Data Protection Board, Opinion 28/2024 on certain data protection aspects related to the processing of personal data in the context of AI models",
    "SMD": "Zamzmi et al., Scorecards for Synthetic Medical Data Evaluation and Reporting, arXiv 2406.11143; Scorecard for synthetic medical data evaluation, Communications Engineering 4, 130 (2025), doi 10.1038/s44172-025-00450-1",
    "power": "Clopper and Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial, Biometrika 26 (1934)",
    "share": "Rogan and Gladen, Estimating prevalence from the results of a screening test, American Journal of Epidemiology 107 (1978)",
    "fdr": "Benjamini and Hochberg, Controlling the false discovery rate, Journal of the Royal Statistical Society B 57 (1995)",
    "change": "Fisher's exact test; Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine 17 (1998), method 10",
}


@dataclass(frozen=True)
class Statement:
    """One row of what is said.

    Attributes:
        topic: of what.
        status: in a few words.
        says: in a sentence or two.
    """

    topic: str
    status: str
    says: str


def threat_model(of: str) -> tuple[Statement, ...]:
    """Against whom the audit was made; ``of`` is what was audited, image or volume."""
    return (
        Statement("Who", "a recipient", f"Whoever receives the synthetic {of}s and holds, or can get at, {of}s of people who may have been trained on: their own, an archive's, a public data set's."),
        Statement("Can", "compare", f"Hold every synthetic {of} beside every {of} they have, in any pose, by eye or by software. They have neither the generator's weights nor the list of training {of}s."),
        Statement("Wants", "a person", f"To show that a synthetic {of}, or a part of one, is the {of} of a real person, and so that this person was in the training set, and whatever the {of} shows of them."),
        Statement("Not looked at", NOT_TESTED, "An attacker who has the generator: its weights, its gradients, or as many further samples as they like. That threat needs tests of its own, see what was not tested."),
    )  # fmt: skip


def _told_again(summary: Mapping[str, Any]) -> str:
    """What is known of how many other images of a training patient would be told."""
    measured = "how many of them would be found was not measured"
    recall = (summary.get("same_patient") or {}).get("recall")
    if recall is None:
        return measured
    share, lower, upper = (f"{100 * recall[name]:.0f}" for name in ("share", "lower", "upper"))
    return (
        f"{measured}. By the way they lie in the frame alone, which flags nothing, another image tells {share} % ({lower} to {upper} %) of "
        f"{recall['total']} training patients from strangers, at {100 * summary['same_patient']['rate']:g} % of strangers' pairs"
    )


def tested(audit: FinishedAudit) -> tuple[Statement, ...]:
    """What the audit looked for, and what nobody looked at."""
    summary, of = audit.summary, audit.of
    images, test, volumes = summary["images"], summary["self_test"], of == "volume"
    copies = [] if test is None else test["copies"]
    ways = ", ".join(one["words"] for one in copies if one["declared"])
    least = min((one["power"]["lower"] for one in copies if one["declared"]), default=0.0)
    sample = summary.get("sample")
    of_all = "" if sample is None else f" They are a random sample of {sample['total']}."
    planted = (
        "Nobody measured how many would be found: the self-test was switched off."
        if test is None
        else f"Of copies {ways}, planted in this cohort, at least {100 * least:.0f} % are found, whichever way they were changed."
    )
    in_3d = " They were compared whole and in 3D, in 48 axis poses and turned about any axis."
    pixels = values_of(of)
    regions = "Blends of two training images, and regions that stayed in their place or were mirrored. Small, moved or turned regions may go unseen."
    halves = "Blends of two training volumes, and halves that were copied, in the pose that they were found in. A copied region of less than half may go unseen."
    return (
        Statement(f"Copies of training {of}s", TESTED, f"{'The' if images['synthetic'] == 1 else 'Each of'} {counted(images['synthetic'], f'synthetic {of}')} against {'the' if images['training'] == 1 else 'all'} {counted(images['training'], f'training {of}')}.{in_3d if volumes else ''}{of_all} {planted}"),
        Statement(f"The same person in another {of}", PARTLY, f"Other {'visits' if volumes else 'slices and visits'} of a training patient are flagged where they agree as those of nobody else; {_told_again(summary)}."),
        Statement(f"Two patients in one {of}, parts of {one_of(of)}", PARTLY, halves if volumes else regions),
        Statement("Copies changed in other ways than those planted", NOT_TESTED, "They may go unseen; the bound does not speak of them."),
        Statement(f"Other {of}s of the same generator", NOT_TESTED, f"The audit speaks of the {of}s whose hash is given here, and of no others that the generator made or will make."),
        Statement("Membership inference", NOT_TESTED, f"Whether it can be told that somebody was trained on although no {of} shows them, from losses, distances or the generator's weights (shadow models, likelihood ratios)."),
        Statement("Attribute inference", NOT_TESTED, f"Whether something unknown of a person (a diagnosis, age, sex) can be inferred from the synthetic {of}s, their labels or the generator."),
        Statement("Extraction from the generator", NOT_TESTED, f"Whether prompts, seeds or the weights give training {of}s back that are not among these."),
        Statement(f"What is beside the {pixels}", NOT_TESTED, f"File names, headers, embedded text and labels of the synthetic files; text burned into {pixels} is only seen where it agrees with that of a training {of}."),
        Statement("Usefulness", NOT_TESTED, f"Whether the {of}s are realistic, diverse, correctly labelled or fit for training: no number here speaks of that."),
    )  # fmt: skip


def control_fitness(audit: FinishedAudit) -> tuple[Statement, ...]:
    """Whether the control is fit to calibrate by, as the audit's rules have it."""
    summary, of = audit.summary, audit.of
    images, rules = summary["images"], summary["rules"]
    needed, patients, smallest = rules["smallest_patients"], images["control_patients"], summary["smallest_p_value"]
    alike, close = summary["control_against_training"], summary["flagged_control"]
    twice, alikes = len(summary["near_duplicates"]), summary["look_alikes"]["images"]
    enough = patients >= needed and smallest <= summary["fdr"]
    kind = alike is not None and alike["auc"] >= rules["apart_auc"] and alike["p_value"] <= rules["apart_p"]
    return (
        Statement(
            "Large enough",
            "yes" if enough else "no",
            f"{counted(images['control'], of)} {of_whom(images['control'], patients, audit.unnamed('control'))}; the smallest p-value that counting can give is {smallest:.3g}, the false discovery rate {summary['fdr']:g}.",
        ),
        Statement(
            "Of the same kind as the training set",
            "not measured" if alike is None else "no" if kind else "yes",
            "The control was taken from the training set itself, in folds by patient."
            if alike is None
            else f"A classifier tells their patients apart with an AUC of {alike['auc']:.2f} (0.5: not at all), p {alike['p_value']:.2g}.",
        ),
        Statement(
            "Of other people",
            "yes" if not twice else "look at it",
            f"{counted(twice, 'pair')} of real {of}s under two names {'agrees' if twice == 1 else 'agree'} as copies do; {counted(alikes, f'control {of}')} {'is a look-alike' if alikes == 1 else 'are look-alikes'}.",
        ),
        Statement(
            "Not as close as what is flagged",
            "yes" if not close["count"] else "look at it",
            f"{close['count']} of {counted(close['total'], f'control {of}')} {'scores' if close['count'] == 1 else 'score'} as high as the lowest flagged {of}.",
        ),
    )


def criteria(audit: FinishedAudit) -> tuple[Statement, ...]:
    """The three risks of WP 216, as far as this audit speaks of them. Whether a set is anonymous is a legal question that no audit answers."""
    summary, exposed, of = audit.summary, audit.exposure, audit.of
    # Where nobody named them, how many patients that are nobody knows.
    named = not audit.unnamed("training")
    shown = (
        counted(len(exposed), "training patient")
        if named
        else f"what counts as {counted(len(exposed), 'training patient')}, not named,"
    )
    twice = sum(int(row["flagged_images"]) > 1 for row in exposed)
    said = summary["conclusion"]
    bound = None if summary["self_test"] is None else summary["self_test"]["bound"]
    at_most = (
        "no bound can be given"
        if bound is None or bound >= 1
        else f"at most {100 * bound:.1f} % of the set can be such copies (95 % upper bound)"
    )
    single = {
        FOUND: f"{shown} {'is' if len(exposed) == 1 else 'are'} shown by synthetic {of}s: their records can be isolated by whoever holds {one_of(of)} of them; {at_most}.",
        CLEAR: f"No synthetic {of} was found to show a training patient; {at_most}.",
    }.get(said, f"The audit cannot conclude, so nothing can be said: {summary['reason']}.")
    link = f"No synthetic {of} was found that can be linked to a training record."
    if exposed:
        link = f"Whoever holds the real {of} of a patient who is shown can link the two."
        link += (
            f" {counted(twice, 'patient' if named else f'training {of}')} {'is' if twice == 1 else 'are'} shown by more than one synthetic {of}, which can be linked to each other, too."
            if twice
            else ""
        )
    return (
        Statement("Singling out", {FOUND: "shown", CLEAR: "none found"}.get(said, "not established"), single),
        Statement("Linkability", "shown" if exposed else {CLEAR: "none found"}.get(said, "not established"), f"{link} Links to other data sets (registries, faces, public images) were not tested."),
        Statement("Inference", "follows from copies" if exposed else NOT_TESTED, f"Of a patient who is shown, whatever the {of} shows is known. Attribute and membership inference beyond that were not tested."),
    )  # fmt: skip


def card(audit: FinishedAudit, missing: tuple[str, ...]) -> tuple[Statement, ...]:
    """The seven criteria of the Synthetic Medical Data card, and what this dossier adds to each."""
    summary, of = audit.summary, audit.of
    left_out = summary["images"]["skipped"]
    given = "all details were given" if not missing else f"not given: {', '.join(missing)}"
    return (
        Statement("Congruence", NOT_TESTED, f"How like the real {of}s the set is as a whole. A set of copies would look perfect."),
        Statement("Coverage", PARTLY, f"Of diversity and novelty only this: {summary['flagged']['total'] - summary['flagged']['count']} of {counted(summary['flagged']['total'], of)} are not flagged as derived from a training {of}."),
        Statement("Constraint", NOT_TESTED, "Whether anatomy and physics are obeyed."),
        Statement("Completeness", PARTLY, f"{counted(left_out, of)} could not be read and {'was' if left_out == 1 else 'were'} left out; labels and metadata were not looked at."),
        Statement("Compliance", TESTED, "The privacy of the training patients, as far as copies go; licence, legal basis and access as given in this dossier."),
        Statement("Comprehension", PARTLY, f"This dossier; {given}."),
        Statement("Consistency", PARTLY, "Command, versions, settings and hashes are given, so that the audit can be repeated; how stable the generator is was not looked at."),
    )  # fmt: skip
