"""What a dossier says beside its numbers: the threat that was looked at, what was tested and what was not, and the criteria of others, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from doppelscan.filing.audits import FinishedAudit

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


def threat_model() -> tuple[Statement, ...]:
    """Against whom the audit was made."""
    return (
        Statement("Who", "a recipient", "Whoever receives the synthetic images and holds, or can get at, images of people who may have been trained on: their own, an archive's, a public data set's."),
        Statement("Can", "compare", "Hold every synthetic image beside every image they have, in any pose, by eye or by software. They have neither the generator's weights nor the list of training images."),
        Statement("Wants", "a person", "To show that a synthetic image, or a part of one, is the image of a real person, and so that this person was in the training set, and whatever the image shows of them."),
        Statement("Not looked at", NOT_TESTED, "An attacker who has the generator: its weights, its gradients, or as many further samples as they like. That threat needs tests of its own, see what was not tested."),
    )  # fmt: skip


def tested(audit: FinishedAudit) -> tuple[Statement, ...]:
    """What the audit looked for, and what nobody looked at."""
    summary = audit.summary
    images, test, volumes = summary["images"], summary["self_test"], summary.get("of") == "volume"
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
    in_3d = " The images are volumes, compared whole and in 3D, in 48 axis poses and turned about any axis."
    regions = "Blends of two training images, and regions that stayed in their place or were mirrored. Small, moved or turned regions may go unseen."
    halves = "Blends of two training volumes, and halves that were copied, in the pose that they were found in. A copied region of less than half may go unseen."
    return (
        Statement("Copies of training images", TESTED, f"Each of {images['synthetic']} synthetic images against all {images['training']} training images.{in_3d if volumes else ''}{of_all} {planted}"),
        Statement("The same person in another image", PARTLY, f"Other {'visits' if volumes else 'slices and visits'} of a training patient are flagged where they agree as those of nobody else; how many of them would be found was not measured."),
        Statement("Two patients in one image, parts of an image", PARTLY, halves if volumes else regions),
        Statement("Copies changed in other ways than those planted", NOT_TESTED, "They may go unseen; the bound does not speak of them."),
        Statement("Other images of the same generator", NOT_TESTED, "The audit speaks of the images whose hash is given here, and of no others that the generator made or will make."),
        Statement("Membership inference", NOT_TESTED, "Whether it can be told that somebody was trained on although no image shows them, from losses, distances or the generator's weights (shadow models, likelihood ratios)."),
        Statement("Attribute inference", NOT_TESTED, "Whether something unknown of a person (a diagnosis, age, sex) can be inferred from the synthetic images, their labels or the generator."),
        Statement("Extraction from the generator", NOT_TESTED, "Whether prompts, seeds or the weights give training images back that are not among these."),
        Statement("What is beside the pixels", NOT_TESTED, "File names, headers, embedded text and labels of the synthetic files; text burned into pixels is only seen where it agrees with that of a training image."),
        Statement("Usefulness", NOT_TESTED, "Whether the images are realistic, diverse, correctly labelled or fit for training: no number here speaks of that."),
    )  # fmt: skip


def control_fitness(summary: Mapping[str, Any]) -> tuple[Statement, ...]:
    """Whether the control is fit to calibrate by, as the audit's rules have it."""
    images, rules = summary["images"], summary["rules"]
    needed, patients, smallest = rules["smallest_patients"], images["control_patients"], summary["smallest_p_value"]
    alike, close = summary["control_against_training"], summary["flagged_control"]
    enough = patients >= needed and smallest <= summary["fdr"]
    kind = alike is not None and alike["auc"] >= rules["apart_auc"] and alike["p_value"] <= rules["apart_p"]
    return (
        Statement(
            "Large enough",
            "yes" if enough else "no",
            f"{images['control']} images of {patients} patients; the smallest p-value that counting can give is {smallest:.3g}, the false discovery rate {summary['fdr']:g}.",
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
            "yes" if not summary["near_duplicates"] else "look at it",
            f"{len(summary['near_duplicates'])} pairs of real images under two names agree as copies do; {summary['look_alikes']['images']} control images are look-alikes.",
        ),
        Statement(
            "Not as close as what is flagged",
            "yes" if not close["count"] else "look at it",
            f"{close['count']} of {close['total']} control images score as high as the lowest flagged image.",
        ),
    )


def criteria(audit: FinishedAudit) -> tuple[Statement, ...]:
    """The three risks of WP 216, as far as this audit speaks of them. Whether a set is anonymous is a legal question that no audit answers."""
    summary, exposed = audit.summary, audit.exposure
    twice = sum(int(row["flagged_images"]) > 1 for row in exposed)
    said = summary["conclusion"]
    bound = None if summary["self_test"] is None else summary["self_test"]["bound"]
    at_most = (
        "no bound can be given"
        if bound is None or bound >= 1
        else f"at most {100 * bound:.1f} % of the set can be such copies (95 % upper bound)"
    )
    single = {
        FOUND: f"{len(exposed)} training patients are shown by synthetic images: their records can be isolated by whoever holds an image of them; {at_most}.",
        CLEAR: f"No synthetic image was found to show a training patient; {at_most}.",
    }.get(said, f"The audit cannot conclude, so nothing can be said: {summary['reason']}.")
    link = "No synthetic image was found that can be linked to a training record."
    if exposed:
        link = "Whoever holds the real image of a patient who is shown can link the two."
        link += (
            f" {twice} patients are shown by more than one synthetic image, which can be linked to each other, too."
            if twice
            else ""
        )
    return (
        Statement("Singling out", {FOUND: "shown", CLEAR: "none found"}.get(said, "not established"), single),
        Statement("Linkability", "shown" if exposed else {CLEAR: "none found"}.get(said, "not established"), f"{link} Links to other data sets (registries, faces, public images) were not tested."),
        Statement("Inference", "follows from copies" if exposed else NOT_TESTED, "Of a patient who is shown, whatever the image shows is known. Attribute and membership inference beyond that were not tested."),
    )  # fmt: skip


def card(audit: FinishedAudit, missing: tuple[str, ...]) -> tuple[Statement, ...]:
    """The seven criteria of the Synthetic Medical Data card, and what this dossier adds to each."""
    summary = audit.summary
    given = "all details were given" if not missing else f"not given: {', '.join(missing)}"
    return (
        Statement("Congruence", NOT_TESTED, "How like the real images the set is as a whole. A set of copies would look perfect."),
        Statement("Coverage", PARTLY, f"Of diversity and novelty only this: {summary['flagged']['total'] - summary['flagged']['count']} of {summary['flagged']['total']} images are not flagged as derived from a training image."),
        Statement("Constraint", NOT_TESTED, "Whether anatomy and physics are obeyed."),
        Statement("Completeness", PARTLY, f"{summary['images']['skipped']} images could not be read and were left out; labels and metadata were not looked at."),
        Statement("Compliance", TESTED, "The privacy of the training patients, as far as copies go; licence, legal basis and access as given in this dossier."),
        Statement("Comprehension", PARTLY, f"This dossier; {given}."),
        Statement("Consistency", PARTLY, "Command, versions, settings and hashes are given, so that the audit can be repeated; how stable the generator is was not looked at."),
    )  # fmt: skip
