"""A record as sections of texts, facts and tables, in the words that a board reads: what the page and the PDF print alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from doppelscan.calibrate import Share
from doppelscan.filing.comparison import Comparison, Contrast
from doppelscan.filing.details import ASKED
from doppelscan.filing.record import Dossier
from doppelscan.filing.statements import Statement
from doppelscan.scores import p_words
from doppelscan.wording import counted, noun_of, one_of

__all__ = ["Block", "Document", "Facts", "Section", "Table", "Text", "comparison_document", "dossier_document"]

NOT_GIVEN = "not given"
UNNAMED = (
    "Not all patients are named: what nobody named counts as a patient of its own. If several are of one person, p-values and intervals claim too much; name "
    "them and audit again before this is signed."
)
COLOURS = {"memorization found": "found", "no memorization found": "clear", "cannot conclude": "unsure"}
CHANGE_COLOURS = {"fewer images show a patient": "clear", "more images show a patient": "found", "more images are found": "found"}


@dataclass(frozen=True)
class Text:
    """A paragraph; ``soft`` is an explanation, ``warning`` is not to be overlooked."""

    text: str
    soft: bool = False
    warning: bool = False


@dataclass(frozen=True)
class Facts:
    """Names with their values."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        head: of the columns.
        rows: each as long as ``head``.
        widths: share of the width of each column; they sum to 1.
        numbers: columns that are set to the right.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    widths: tuple[float, ...]
    numbers: tuple[int, ...] = ()


Block = Text | Facts | Table


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    heading: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """What is printed: title, the words that come first with their colour, a few facts, sections; ``footer`` stands on every page of a PDF."""

    title: str
    words: str
    reason: str
    colour: str
    facts: tuple[tuple[str, str, str], ...]
    sections: tuple[Section, ...]
    footer: str


def percent(value: float | None) -> str:
    """For example 36.4 %."""
    return "none" if value is None or value != value else f"{100 * value:.1f} %"


def interval(share: Share) -> str:
    """For example 24 of 66: 36.4 % (25.8 to 48.4)."""
    return f"{share.count} of {share.total}: {percent(share.share)} ({100 * share.lower:.1f} to {100 * share.upper:.1f})"


def _small(value: float | None, floors: Sequence[float] = ()) -> str:
    return "" if value is None else p_words(value, floors)


def _statements(rows: Sequence[Statement], topic: str, status: str = "") -> Table:
    return Table((topic, status, ""), tuple((one.topic, one.status, one.says) for one in rows), (0.24, 0.16, 0.6))


def _of_whom(control: str, of: str) -> str:
    """Whose the control images are, in a few words."""
    return (
        f"real {of}s of other people"
        if "training" not in control
        else f"real {of}s, training patients held against the others among them"
    )


def dossier_document(dossier: Dossier) -> Document:
    """The sections of a dossier, in the order in which it is read."""
    results, of = dossier.results, dossier.of
    bound, close = results.bound, dossier.control.as_close
    listed = {0: "none is", 1: "listed below"}.get(results.patients_shown, "all are listed below")
    facts = (
        (f"{results.flagged.count} of {results.flagged.total}", f"synthetic {noun_of(results.flagged.total, of)} flagged", f"{percent(results.flagged.share)} (95 % Wilson interval {100 * results.flagged.lower:.1f} to {100 * results.flagged.upper:.1f})"),
        (str(results.patients_shown), f"{noun_of(results.patients_shown, 'training patient')} shown", listed) if dossier.named else _unnamed_shown(dossier),
        ("no bound" if bound is None or bound >= 1 else percent(bound), "may be memorized, at most", "95 % upper bound, for copies changed as those planted" if bound is not None else "there was no self-test"),
        (f"{close.count} of {close.total}", f"control {noun_of(close.total, of)} as close", _of_whom(dossier.control.words, of)),
    )  # fmt: skip
    sections = (
        _release(dossier),
        _sets(dossier),
        Section("Threat model", (_statements(dossier.threat, "attacker"),)),
        Section(
            "What was tested, and what was not",
            (
                _statements(dossier.tested, "attack or property"),
                Text("What was not tested may be so: nothing here speaks against it.", soft=True),
            ),
        ),
        _findings(dossier),
        _control(dossier),
        _power(dossier),
        _review(dossier),
        *((_mitigation(dossier),) if dossier.before is not None or dossier.details.mitigation else ()),
        _criteria(dossier),
        _run(dossier),
        _sources(dossier),
        _seal(dossier),
        _sign_off(dossier),
    )
    title = dossier.details.title or "Synthetic set without a title"
    redacted = ", redacted" if dossier.redacted else ", NOT redacted: names patients or files"
    footer = f"{title}{redacted} - {dossier.made[:10]} - sha256 {str(dossier.seal.get('content_sha256', ''))[:16]}"
    return Document(f"Dossier: {title}", dossier.conclusion, dossier.reason, COLOURS[dossier.conclusion], facts, sections, footer)


def _unnamed_shown(dossier: Dossier) -> tuple[str, str, str]:
    """How many training images are shown, where how many patients that are is not known."""
    sources = dossier.training_images_shown
    return str(sources), f"training {noun_of(sources, dossier.of)} shown", "how many patients is not known: they are not named"


def _release(dossier: Dossier) -> Section:
    details = dossier.details
    rows = tuple((heading, getattr(details, name) or NOT_GIVEN) for name, (heading, _) in ASKED.items() if name != "sign_off")
    blocks: list[Block] = [Facts(rows)]
    if dossier.not_given:
        blocks.append(
            Text(f"Nobody said: {', '.join(dossier.not_given)}. A board may not be able to decide without it.", warning=True)
        )
    if dossier.expired:
        blocks.append(Text(f"This release was to be judged anew on {details.expires}: it has expired.", warning=True))
    return Section("The release", tuple(blocks))


def _sets(dossier: Dossier) -> Section:
    of = dossier.of
    rows = tuple(
        (
            one.name,
            str(one.images),
            ("" if one.name == "synthetic" else "not named") if one.patients is None else str(one.patients),
            one.sha256,
        )
        for one in dossier.sets
    )
    blocks: list[Block] = [
        Table(("set", f"{of}s", "patients", f"sha256 of its {of}s"), rows, (0.15, 0.11, 0.11, 0.63), (1, 2)),
        Text(
            f"The sha256 of a set is that of the sorted sha256 of its {of}s (the bytes of the file{', and which slice' if of == 'image' else ''}): the same {of}s give the same, "
            "whatever their files are called. It names nobody.",
            soft=True,
        ),
    ]
    if not dossier.named:
        blocks.append(Text(UNNAMED, warning=True))
    if dossier.results.sample is not None:
        sample = dossier.results.sample
        blocks.append(
            Text(
                f"Only a random sample was audited: {sample['drawn']} of {sample['total']}. A sample releases nothing.",
                warning=True,
            )
        )
    made = dossier.generator
    if made is None:
        blocks.append(
            Text(
                f"No sampler's manifest was given, so which weights made the synthetic {of}s is only known from what is said above.",
                warning=True,
            )
        )
    else:
        same = {
            True: "yes, by their hash",
            False: f"NO: the manifest lists other {of}s than those that were audited",
            None: "not looked at",
        }
        blocks.append(
            Facts(
                (
                    ("Generator's weights", ", ".join(made.checkpoints) or NOT_GIVEN),
                    ("Training steps", ", ".join(made.steps) or NOT_GIVEN),
                    ("Sampling steps", ", ".join(made.sampling_steps) or NOT_GIVEN),
                    ("Samples", f"{made.samples}, of the seeds {made.first_seed} to {made.last_seed}"),
                    ("Conditions", f"{made.conditions} different" if made.conditions else "none"),
                    (f"The {of}s that were audited", same[made.same_images]),
                    ("Manifest", f"sha256 {made.manifest_sha256}"),
                )
            )
        )
    if dossier.left_out:
        blocks += [
            Text(f"{counted(len(dossier.left_out), of)} could not be audited:"),
            Table(("set", of, "reason"), tuple((one.set, one.image, one.reason) for one in dossier.left_out), (0.13, 0.37, 0.5)),
        ]
    return Section("Sets and generator", tuple(blocks))


def _whole_set(won: Mapping[str, float | None] | None, of: str) -> tuple[tuple[str, str], ...]:
    if won is None:
        return ()
    said = f"{won['won_by_training']:.0f} of {counted(int(won['images'] or 0), of)} {'is' if won['won_by_training'] == 1 else 'are'} nearer to a training patient than to other people, p {_small(won['p_value'])}"
    return (("Whole set", said),)


def _findings(dossier: Dossier) -> Section:
    results, of, shown = (
        dossier.results,
        dossier.of,
        ", patients by pseudonyms that are the same all through this dossier and nowhere else" if dossier.redacted else "",
    )
    kinds = tuple((kind, str(count)) for kind, count in results.findings.items())
    memorized = results.memorized
    blocks: list[Block] = [
        *([Text(results.extrapolated, warning=True)] if results.extrapolated else []),
        Table(("finding", f"{of}s"), kinds, (0.8, 0.2), (1,)),
        Facts(
            (
                ("Flagged", interval(results.flagged)),
                ("Residual risk", f"{percent(results.residual_risk['value'])} ({percent(results.residual_risk['lower'])} to {percent(results.residual_risk['upper'])}): showing a patient, beyond what the control explains"),
                ("Share memorized", "not known: no self-test" if memorized is None else f"{percent(memorized['value'])} ({percent(memorized['lower'])} to {percent(memorized['upper'])}), by what is flagged and what would be"),
                ("Upper bound", "none" if results.bound is None or results.bound >= 1 else f"{percent(results.bound)} (95 %)"),
                ("Unlike the training set", _unlike(results.unlike, of)),
                *_whole_set(results.competition, of),
            )
        ),
    ]  # fmt: skip
    if dossier.patients:
        kinds_known = [kind for kind in dossier.patients[0].kinds]
        blocks += [
            Text(
                f"{_all(len(dossier.patients), 'training patient')} who {'is' if len(dossier.patients) == 1 else 'are'} shown{shown}:"
                if dossier.named
                else f"Who is shown, {one_of(dossier.of)} that nobody named counting as one{shown}:"
            ),
            Table(
                ("patient", f"{of}s", *kinds_known, f"of training {of}s", "highest score", "smallest p"),
                tuple(
                    (
                        one.patient,
                        str(one.images),
                        *(str(one.kinds.get(kind, 0)) for kind in kinds_known),
                        str(one.training_images),
                        f"{one.highest_score:.3f}",
                        _small(one.smallest_p_value, results.p_value_floors),
                    )
                    for one in dossier.patients
                ),
                (0.17, 0.09, *(0.46 / len(kinds_known) for _ in kinds_known), 0.1, 0.09, 0.09),
                tuple(range(1, 5 + len(kinds_known))),
            ),
        ]
    if dossier.images:
        blocks += [
            Text(f"{_all(len(dossier.images), f'flagged {of}')}, highest score first:"),
            Table(
                (of, "finding", "match in training", "its patient", "score", "p", "why it is flagged"),
                tuple(
                    (
                        one.image,
                        one.finding,
                        one.match,
                        one.match_patient,
                        f"{one.score:.3f}",
                        _small(one.p_value, results.p_value_floors),
                        one.reason,
                    )
                    for one in dossier.images
                ),
                (0.19, 0.09, 0.19, 0.14, 0.07, 0.08, 0.24),
                (4, 5),
            ),
        ]
    else:
        blocks.append(Text(f"No {of} is flagged."))
    blocks.append(
        Text(
            f"copy: a training {of} came back. same patient?: the patient, perhaps in another {of}. blend: two training {of}s in one. part: a region. "
            f"unresolved: a patient, but the {'picture' if of == 'image' else of} does not tell as what. no single source: derived from several training {of}s, shows nobody alone.",
            soft=True,
        )
    )
    return Section("Findings", tuple(blocks))


def _all(number: int, noun: str) -> str:
    """For example ``All 3 flagged images``, ``The 1 flagged image``."""
    return f"{'The' if number == 1 else 'All'} {counted(number, noun)}"


def _unlike(number: int | None, of: str) -> str:
    """What is said of images of another domain."""
    return "not measured" if number is None else f"{counted(number, of)}, of which nothing is said"


def _control(dossier: Dossier) -> Section:
    control = dossier.control
    whose = ", patients not named" if control.patients is None else f" of {counted(control.patients, 'patient')}"
    blocks: list[Block] = [
        Facts((("Control", f"{control.words}: {counted(control.images, dossier.of)}{whose}"), ("As close as what is flagged", interval(control.as_close)))),
        _statements(control.fitness, "fit to calibrate by"),
    ]  # fmt: skip
    if dossier.near_duplicates:
        blocks.append(
            Text(
                f"{counted(dossier.near_duplicates, 'pair')} of real {dossier.of}s under two names {'agrees' if dossier.near_duplicates == 1 else 'agree'} as copies do; "
                "the audit's summary.json lists them.",
                warning=True,
            )
        )
    return Section("The control, and whether it is fit", tuple(blocks))


def _power(dossier: Dossier) -> Section:
    heading, of = "What the audit could have found", dossier.of
    if not dossier.planted:
        return Section(
            heading,
            (
                Text(
                    "There was no self-test: nobody knows what would have been found, and nothing can be called clean.",
                    warning=True,
                ),
            ),
        )
    rows = tuple(
        (
            one.words + ("" if one.declared else " (not declared)"), f"{one.found} of {one.planted}",
            f"{100 * one.power.lower:.0f} %" + (" (too few)" if one.power.lower < dossier.power_needed else ""), str(one.right_patient),
        )
        for one in dossier.planted
    )  # fmt: skip
    blocks: list[Block] = [
        Text(f"Copies of training {of}s, one a patient, were changed and judged by the same rules as the synthetic {of}s."),
        Table(("a copy", "found", "at least", "right patient"), rows, (0.55, 0.15, 0.17, 0.13), (1, 2, 3)),
    ]
    if dossier.negatives:
        nobody = tuple((one.words, f"{one.flagged} of {one.images}", str(one.accused)) for one in dossier.negatives)
        blocks += [
            Text(f"The same was done to {of}s that are a copy of nobody:"),
            Table((f"{of}s of nobody", "flagged", "said to show a patient"), nobody, (0.6, 0.2, 0.2), (1, 2)),
        ]
    blocks.append(
        Text(
            f'"At least" is the lower 95 % limit by patient (Clopper and Pearson 1934); {100 * dossier.power_needed:.0f} % are needed for every declared row to '
            "say that no memorization was found.",
            soft=True,
        )
    )
    return Section(heading, tuple(blocks))


def _review(dossier: Dossier) -> Section:
    review, of = dossier.review, dossier.of
    if review is None:
        return Section("Reviewers' decisions", (Text(f"None were given: no person is known to have looked at the {of}s."),))
    blocks: list[Block] = [
        Facts(
            (
                (f"{of.capitalize()}s that were looked at", str(review.images)),
                (f"Flagged {of}s among them", f"{review.flagged_seen} of {review.flagged}"),
                ("Decided differently by two reviewers", str(review.disputed)),
            )
        ),
        Table(
            ("decision", f"on flagged {of}s", "on others"),
            tuple((one.decision, str(one.flagged), str(one.not_flagged)) for one in review.counts),
            (0.5, 0.25, 0.25),
            (1, 2),
        ),
        Text("Decisions stand beside the statistics and change none of them.", soft=True),
    ]
    if review.images and not review.decisions:
        blocks.append(
            Text(
                f"Counted by the audit, by {of}; who decided what is in the table that the audit was given, which was not given for this dossier.",
                soft=True,
            )
        )
        return Section("Reviewers' decisions", tuple(blocks))
    blocks.append(
        Table(
            (of, "audit", "decision", "comment", "reviewer", "date"),
            tuple(
                (one.image, one.finding or "not flagged", one.decision, one.comment, one.reviewer, one.date)
                for one in review.decisions
            ),
            (0.24, 0.12, 0.15, 0.25, 0.13, 0.11),
        )
    )
    return Section("Reviewers' decisions", tuple(blocks))


def _mitigation(dossier: Dossier) -> Section:
    blocks: list[Block] = [Text(dossier.details.mitigation)] if dossier.details.mitigation else []
    if dossier.before is None:
        blocks.append(Text("No earlier audit was given (--before), so what the mitigation changed is not shown.", warning=True))
    else:
        words = dossier.before.verdict_words
        blocks.append(
            Text(
                f"{words[0].upper()}{words[1:]}: {dossier.before.reason}.",
                warning=bool(dossier.before.obstacles),
            )
        )
        for section in comparison_sections(dossier.before):
            blocks += [Text(f"{section.heading}:"), *section.blocks]
    return Section("Mitigation: audit before and after", tuple(blocks))


def _criteria(dossier: Dossier) -> Section:
    return Section(
        "In the words of others",
        (
            Text("The three risks of WP 216. Whether a set is anonymous is a legal question that no audit answers."),
            _statements(dossier.criteria, "risk", "in this audit"),
            Text(
                "For a generator to be called anonymous, the EDPB (Opinion 28/2024) asks that extracting training data from it, or obtaining them by queries, be insignificantly "
                f"likely by all means reasonably likely to be used. This audit speaks of a set of {dossier.of}s, not of the generator.",
                soft=True,
            ),
            Text("The seven criteria of the Synthetic Medical Data (SMD) card:"),
            _statements(dossier.card, "criterion", "in this audit"),
        ),
    )  # fmt: skip


def _run(dossier: Dossier) -> Section:
    run = dossier.run
    rules = ", ".join(f"{name} {value}" for name, value in run.rules.items() if not isinstance(value, Mapping))
    settings = ", ".join(f"{name} {value}" for name, value in run.settings.items() if name != "preprocessing")
    rows = (
        ("Audit finished", run.finished or NOT_GIVEN),
        ("Command", run.command or NOT_GIVEN),
        ("Encoder's weights", f"sha256 {run.weights_sha256}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
        ("Settings", settings),
        ("Rules", rules),
        ("Patients known by", run.patient_source),
    )
    notes = tuple(Text(note) for note in run.notes)
    return Section("How the audit was made", (Facts(rows), *notes))


def _sources(dossier: Dossier) -> Section:
    return Section("Sources", tuple(Text(f"{name}: {source}.") for name, source in dossier.sources.items()))


def _seal(dossier: Dossier) -> Section:
    inputs = dossier.inputs
    rows = [(name, sha256) for name, sha256 in inputs.files.items()]
    rows += [(f"all {len(inputs.files)} files of the audit", inputs.sha256)]
    rows += [
        (words, sha256)
        for words, sha256 in (
            ("details", inputs.details), ("reviewers' decisions", inputs.decisions), ("manifest", inputs.manifest), ("earlier audit", inputs.before),
        )
        if sha256 is not None
    ]  # fmt: skip
    rows.append(("this dossier's content", str(dossier.seal.get("content_sha256"))))
    if dossier.seal.get("hmac_sha256"):
        rows.append(("HMAC-SHA256 of that", str(dossier.seal["hmac_sha256"])))
    return Section(
        "What it was made of",
        (
            Table(("file", "sha256"), tuple(rows), (0.32, 0.68)),
            Text(
                "doppelscan dossier --check FILE AUDIT tells whether these files are still the same. A hash shows that nothing was changed since; it is no "
                "signature of a person, since whoever changes a file can compute its hash anew. An HMAC can be made and checked by whoever holds the secret, "
                "and by nobody else. Only the signatures below are those of people.",
                soft=True,
            ),
        ),
    )


def _sign_off(dossier: Dossier) -> Section:
    rows = tuple((role, "", "", "") for role in dossier.details.signers)
    expires = dossier.details.expires or NOT_GIVEN
    return Section(
        "Sign-off",
        (
            *(() if dossier.named else (Text(UNNAMED, warning=True),)),
            Table(("role", "name", "release: yes / no", "date and signature"), rows, (0.34, 0.24, 0.16, 0.26)),
            Text(
                f"Made {dossier.made} by {dossier.made_by}. Expires: {expires}. A clean audit is evidence, not proof. Not a medical device.",
                soft=True,
            ),
        ),
    )


def comparison_document(comparison: Comparison, title: str, footer: str = "") -> Document:
    """The sections of a comparison by itself."""
    counts, shown, of = comparison.counts, comparison.shares[0], comparison.of
    facts = (
        (percent(shown.before.share), "showed a patient before", f"{shown.before.count} of {counted(shown.before.total, of)}"),
        (percent(shown.after.share), "show a patient after", f"{shown.after.count} of {counted(shown.after.total, of)}"),
        *(((f"{counts['gone']}, {counts['still']}, {counts['new']}", "patients gone, still shown, new", "by their names"),) if comparison.patients_matched else ()),
        ("no" if comparison.obstacles else "yes", "comparable", "what must be alike stands below"),
    )  # fmt: skip
    colour = CHANGE_COLOURS.get(comparison.verdict, "unsure")
    return Document(
        title, comparison.verdict_words, comparison.reason, colour, facts, tuple(comparison_sections(comparison)), footer
    )


def comparison_sections(comparison: Comparison) -> list[Section]:
    """Whether the two can be compared comes first."""
    facts = tuple(
        (one.name, one.before, one.after, "same" if one.same else "DIFFERENT" if one.needed else "different")
        for one in comparison.facts
    )
    blocks: list[Block] = [Text(f"No difference is claimed: {one}.", warning=True) for one in comparison.obstacles]
    blocks += [Text(one) for one in comparison.cautions]
    shared = "not looked at" if comparison.shared_images is None else str(comparison.shared_images)
    sides, of = (comparison.before, comparison.after), comparison.of
    memorized = [
        "not known: no self-test"
        if one.memorized_lower is None or one.memorized_upper is None
        else f"{percent(one.memorized_lower)} to {percent(one.memorized_upper)}"
        for one in sides
    ]
    both = (
        ("conclusion", *(one.conclusion for one in sides)),
        ("finished", *(one.finished for one in sides)),
        (f"synthetic {of}s", *(str(one.images) for one in sides)),
        ("training patients shown", *(str(one.patients_shown) for one in sides)),
        ("share memorized, with what is missed", *memorized),
        ("upper bound", *("none" if one.bound is None or one.bound >= 1 else percent(one.bound) for one in sides)),
        ("sha256 of the audit", *(f"{one.sha256[:16]}..." for one in sides)),
    )
    sections = [
        Section("Can they be compared", (*blocks, Table(("what", "before", "after", ""), facts, (0.28, 0.28, 0.28, 0.16)), Text(f"Synthetic {of}s that are in both sets: {shared}."))),
        Section("Both audits", (Table(("", "before", "after"), both, (0.34, 0.33, 0.33)),)),
        Section(
            "Shares",
            (
                Table((f"of {of}s", "before", "after", "change in points", "p"), tuple(_contrast(one) for one in comparison.shares), (0.3, 0.21, 0.21, 0.2, 0.08), (1, 2, 3, 4)),
                Text("Intervals are 95 % (Wilson 1927, as in the audits themselves, slices of one volume counting as far as they differ; of the change Newcombe 1998), p by Fisher's exact test, a volume counted once. The first row decides; an empty p is not claimed.", soft=True),
            ),
        ),
        Section("Findings by kind", (Table(("finding", "before", "after"), tuple((one.kind, str(one.before), str(one.after)) for one in comparison.kinds), (0.6, 0.2, 0.2), (1, 2)),)),
    ]  # fmt: skip
    if comparison.patients:
        rows = tuple(
            (
                one.patient,
                one.status,
                str(one.before),
                str(one.after),
                _score(one.before_score),
                _score(one.after_score),
                _small(one.chance),
            )
            for one in comparison.patients
        )
        counts = comparison.counts
        sections.append(
            Section(
                "Training patients",
                (
                    Text(f"{counts['new']} new, {counts['still']} still shown, {counts['gone']} gone."),
                    Table(("patient", "", f"{of}s before", f"{of}s after", "score before", "score after", "by chance"), rows, (0.28, 0.1, 0.12, 0.12, 0.13, 0.13, 0.12), (2, 3, 4, 5, 6)),
                    Text(f"By chance: how probably so many {of}s would all be in one of the two sets although nothing changed. Above 0.05 a patient who is gone, or new, may only be unseen in the other set.", soft=True),
                ),
            )
        )  # fmt: skip
    if comparison.power:
        power = tuple(
            (one.words, *("not planted" if side is None else f"{interval(side)}" for side in (one.before, one.after)))
            for one in comparison.power
        )
        sections.append(
            Section("What each could have found", (Table(("a copy", "before", "after"), power, (0.4, 0.3, 0.3), (1, 2)),))
        )
    return sections


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _contrast(one: Contrast) -> tuple[str, ...]:
    change = one.change
    points = f"{100 * change.value:+.1f} ({100 * change.lower:+.1f} to {100 * change.upper:+.1f})"
    return one.name, interval(one.before), interval(one.after), points, "" if one.p_value is None else _small(one.p_value)
