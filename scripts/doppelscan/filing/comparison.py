"""What a mitigation or a new checkpoint changed: two audits side by side, and what follows of the difference, which may be nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from doppelscan.calibrate import Difference, Share, chance_unseen, clustered_share, difference, share_p_value
from doppelscan.filing.audits import FinishedAudit, whole_sha256
from doppelscan.filing.statements import control_fitness
from doppelscan.wording import counted, one_of

__all__ = ["Comparison", "Contrast", "Fact", "KindChange", "PatientChange", "PowerChange", "Side", "compare_audits"]

NOBODY = "no single source"
LEVEL = 0.05
# Share of the smaller set that may be in both: beyond it the two are no independent samples.
SHARED = 0.05
FEWER, MORE = "fewer images show a patient", "more images show a patient"
FEWER_FOUND, MORE_FOUND = "fewer images are found", "more images are found"
NO_DIFFERENCE, NOT_COMPARABLE = "no difference shown", "not comparable"
# Columns that tell one image from another when both were measured against the same training set; each is told to a thousandth.
MEASURED = ("deepssim", "embedding", "detail", "agreement", "part", "ssim")


@dataclass(frozen=True)
class Side:
    """One of the two audits in short."""

    conclusion: str
    reason: str
    finished: str
    sha256: str
    images: int
    patients_shown: int
    memorized_lower: float | None
    memorized_upper: float | None
    bound: float | None


@dataclass(frozen=True)
class Fact:
    """Something that must be alike for the two to be compared, or that a reader should know.

    Attributes:
        name: what.
        before, after: as each audit has it, shortened.
        same: alike.
        needed: a difference of the results says nothing where it is not.
    """

    name: str
    before: str
    after: str
    same: bool
    needed: bool


@dataclass(frozen=True)
class Contrast:
    """A share before and after.

    Attributes:
        name: of what.
        before, after: with their 95 % intervals (Wilson), slices of one volume counted as far as they differ.
        change: after minus before, with its 95 % interval (Newcombe 1998).
        p_value: that both are one share (Fisher's exact test, a volume counted once); None where the two cannot be compared.
    """

    name: str
    before: Share
    after: Share
    change: Difference
    p_value: float | None


@dataclass(frozen=True)
class KindChange:
    """How many findings of a kind there were, and are."""

    kind: str
    before: int
    after: int


@dataclass(frozen=True)
class PatientChange:
    """A training patient who was or is shown.

    Attributes:
        patient: as the audits name them.
        status: gone, still or new.
        before, after: synthetic images that show them.
        before_score, after_score: the highest score of these, None of none.
        chance: of one who is gone or new: the chance that so many images are all in one of the two sets although nothing changed; None where the
            two cannot be compared.
    """

    patient: str
    status: str
    before: int
    after: int
    before_score: float | None
    after_score: float | None
    chance: float | None


@dataclass(frozen=True)
class PowerChange:
    """What was found of copies that were planted in either audit; None where they were not planted."""

    words: str
    before: Share | None
    after: Share | None


@dataclass(frozen=True)
class Comparison:
    """Two audits side by side.

    Attributes:
        verdict: fewer or more images show a patient, where that holds of what each audit may have missed, too; fewer or more images are found, where what is
            missed leaves it open; no difference shown; or not comparable.
        reason: in a sentence or two.
        obstacles: why no difference is claimed; empty where one could be.
        cautions: what a reader should know beside.
        before, after: the two audits.
        facts: what is alike and what is not.
        shared_images: synthetic images that are in both sets; None where that is not known.
        shares: the primary one first.
        kinds, patients, power: what changed of each.
        patients_matched: whether patients could be told by their names.
        of: what was audited, image or volume.
    """

    verdict: str
    reason: str
    obstacles: tuple[str, ...]
    cautions: tuple[str, ...]
    before: Side
    after: Side
    facts: tuple[Fact, ...]
    shared_images: int | None
    shares: tuple[Contrast, ...]
    kinds: tuple[KindChange, ...]
    patients: tuple[PatientChange, ...]
    power: tuple[PowerChange, ...]
    patients_matched: bool
    of: str = "image"

    @property
    def verdict_words(self) -> str:
        """The verdict as it is read: of volumes it speaks of volumes."""
        return self.verdict.replace("images", f"{self.of}s")

    @property
    def counts(self) -> dict[str, int]:
        """How many patients are gone, still shown and new."""
        return {status: sum(one.status == status for one in self.patients) for status in ("gone", "still", "new")}


def compare_audits(before: FinishedAudit, after: FinishedAudit) -> Comparison:
    """Compare two audits. Whether they can be compared comes first: a difference is claimed only where nothing else explains it.

    Args:
        before: the earlier audit.
        after: the audit of the new set.
    """
    facts = _facts(before.summary, after.summary)
    obstacles = [
        f"the {one.name} differ{'s' if not one.name.endswith('s') else ''} ({one.before} before, {one.after} after)"
        for one in facts
        if one.needed and not one.same
    ]
    same_images = before.summary["sets"]["synthetic"]["sha256"] == after.summary["sets"]["synthetic"]["sha256"]
    shared = None if obstacles else _shared(before, after)
    smaller = min(len(before.scores), len(after.scores))
    if same_images:
        obstacles.append(f"both audits are of the same synthetic {after.of}s")
    elif shared is not None and shared > SHARED * smaller:
        obstacles.append(
            f"{shared} of {counted(smaller, f'synthetic {after.of}')} {'is' if shared == 1 else 'are'} in both sets, so that they are no independent samples: what is left of a filtered set says what "
            "was taken out, and nothing of the generator"
        )
    for name, audit in (("before", before), ("after", after)):
        unfit = [one.topic.lower() for one in control_fitness(audit)[:2] if one.status == "no"]
        if unfit:
            obstacles.append(f"the control of the audit {name} is not {' and not '.join(unfit)}")
        if audit.redacted and len(audit.volumes) != len(audit.scores):
            obstacles.append(f"the audit {name} is redacted, and which slices are of one volume is not told")
    shares = _shares(before, after, not obstacles)
    sides, power = (_side(before), _side(after)), _power(before.summary["self_test"], after.summary["self_test"])
    verdict, reason = _verdict(shares[0], obstacles, *sides, after.of)
    return Comparison(
        verdict,
        reason,
        tuple(obstacles),
        tuple([*_cautions(before, after, facts), *_lost(power)]),
        *sides,
        tuple(facts),
        shared,
        tuple(shares),
        tuple(
            KindChange(kind, before.summary["findings"].get(kind, 0), number) for kind, number in after.summary["findings"].items()
        ),
        _patients(before, after, not obstacles),
        power,
        not (before.redacted or after.redacted),
        after.of,
    )


def _side(audit: FinishedAudit) -> Side:
    summary, test = audit.summary, audit.summary["self_test"]
    return Side(
        summary["conclusion"],
        summary["reason"],
        summary["finished"],
        whole_sha256(audit.files),
        len(audit.scores),
        len(audit.exposure),
        None if test is None else test["memorized"]["lower"],
        None if test is None else test["memorized"]["upper"],
        None if test is None else test["bound"],
    )


def _facts(before: Any, after: Any) -> list[Fact]:
    def of(name: str, first: Any, second: Any, needed: bool) -> Fact:
        same = first == second
        shown = (first, second) if same else _what_differs(first, second)
        return Fact(name, _short(shown[0]), _short(shown[1]), same, needed)

    def set_of(name: str, key: str, needed: bool) -> Fact:
        one, other = before["sets"][key], after["sets"][key]
        return Fact(
            name,
            _set_words(one, before.get("of", "image")),
            _set_words(other, after.get("of", "image")),
            one["sha256"] == other["sha256"],
            needed,
        )

    def settings(summary: Any, *names: str) -> dict[str, Any]:
        return {name: summary["settings"].get(name) for name in names}

    def fixed(rules: Any) -> dict[str, Any]:
        return {name: value for name, value in rules.items() if before["rules"].get(name) != after["rules"].get(name)}

    facts = [
        set_of("training set", "training", True),
        set_of("control", "control", True),
        of("encoder's weights", before["weights_sha256"], after["weights_sha256"], True),
        of("doppelscan's version", before["versions"].get("doppelscan"), after["versions"].get("doppelscan"), True),
        of("rules", fixed(before["rules"]) or "the same", fixed(after["rules"]) or "the same", True),
        *(
            of(f"setting {name}", settings(before, name)[name], settings(after, name)[name], True)
            for name in ("preprocessing", "candidates", "rotations", "index", "control_size")
        ),
        of("way patients were named", before["patient_source"], after["patient_source"], True),
        set_of("synthetic set", "synthetic", False),
        *(
            of(f"setting {name}", settings(before, name)[name], settings(after, name)[name], False)
            for name in ("seed", "device", "runtime")
        ),
    ]
    for name in sorted({*before["versions"], *after["versions"]} - {"doppelscan"}):
        facts.append(of(f"version of {name}", before["versions"].get(name), after["versions"].get(name), False))
    return facts


def _set_words(facts: Mapping[str, Any], of: str) -> str:
    """How many images and people, and which: two sets of one size may be other images."""
    return f"{of}s {facts['images']}, patients {facts['patients']}, sha256 {facts['sha256'][:8]}..."


def _what_differs(first: Any, second: Any) -> tuple[Any, Any]:
    """Of two records or lists the entries alone in which they differ."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        names = [name for name in dict.fromkeys([*first, *second]) if first.get(name) != second.get(name)]
        pairs = {name: _what_differs(first.get(name), second.get(name)) for name in names}
        return {name: one for name, (one, _) in pairs.items()}, {name: other for name, (_, other) in pairs.items()}
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        both = [_what_differs(one, other) for one, other in zip(first, second, strict=True) if one != other]
        return ([one for one, _ in both], [other for _, other in both]) if len(both) > 1 else both[0]
    return first, second


def _short(value: Any) -> str:
    text = str(value)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12] + "..."
    return text if len(text) <= 100 else f"sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]}..."


def _shared(before: FinishedAudit, after: FinishedAudit) -> int:
    """How many images of the smaller set are in the other: their measures against the same training set agree in every column."""

    def measured(audit: FinishedAudit) -> list[tuple[Any, ...]]:
        return [(row["match"] if not audit.redacted else "", *(row[name][:6] for name in MEASURED)) for row in audit.scores]

    if before.redacted != after.redacted:
        known = [[one[1:] for one in measured(audit)] for audit in (before, after)]
    else:
        known = [measured(before), measured(after)]
    small, large = sorted(known, key=len)
    there = set(large)
    return sum(one in there for one in small)


def _volume(audit: FinishedAudit, row: Any) -> str:
    return row["image"].split("#slice=")[0].split(",stack=")[0]


def _shares(before: FinishedAudit, after: FinishedAudit, comparable: bool) -> list[Contrast]:
    highest = max((float(row["score"]) for audit in (before, after) for row in audit.control), default=float("inf"))
    of = after.of
    measures = {
        f"{of}s that show a patient": lambda row: row["flagged"] == "true" and row["finding"] != NOBODY,
        f"{of}s derived from training, of no single source": lambda row: row["finding"] == NOBODY,
        f"{of}s that score above every control {of} of both audits": lambda row: float(row["score"]) > highest,
    }
    found = []
    for name, says in measures.items():
        like = [[row for row in audit.scores if row["unlike"] != "true"] for audit in (before, after)]
        hits = [[says(row) for row in rows] for rows in like]
        volumes = [[_volume(audit, row) for row in rows] for audit, rows in zip((before, after), like, strict=True)]
        first, second = (clustered_share(*one) for one in zip(hits, volumes, strict=True))
        p_value = share_p_value(hits[0], volumes[0], hits[1], volumes[1]) if comparable else None
        found.append(Contrast(name, first, second, difference(second, first), p_value))
    return found


def _verdict(shown: Contrast, obstacles: Sequence[str], before: Side, after: Side, of: str) -> tuple[str, str]:
    told = (
        f"{shown.before.count} of {counted(shown.before.total, of)} showed a training patient before ({_percent(shown.before)}), "
        f"{shown.after.count} of {shown.after.total} after ({_percent(shown.after)})"
    )
    if obstacles:
        return NOT_COMPARABLE, f"{told}; no difference is claimed, since {'; '.join(obstacles)}"
    change = f"the share changed by {100 * shown.change.value:+.1f} percentage points (95 % interval {100 * shown.change.lower:+.1f} to {100 * shown.change.upper:+.1f}, p {shown.p_value:.2g})"
    if shown.p_value is None or shown.p_value > LEVEL:
        return NO_DIFFERENCE, f"{told}; {change}: chance alone explains it"
    more = shown.change.value > 0
    apart, words = _missed(before, after, more)
    return ((MORE if more else FEWER) if apart else MORE_FOUND if more else FEWER_FOUND), f"{told}; {change}. {words}"


def _missed(before: Side, after: Side, more: bool) -> tuple[bool, str]:
    """Whether more or fewer are memorized, too, when what each audit may have missed is allowed for."""
    ends = [one for side in (before, after) for one in (side.memorized_lower, side.memorized_upper)]
    known = [one for one in ends if one is not None]
    if len(known) < len(ends):
        return False, "An audit had no self-test, so whether others are memorized or others are found is not known"
    ranges = f"{100 * known[0]:.1f} to {100 * known[1]:.1f} % before, {100 * known[2]:.1f} to {100 * known[3]:.1f} % after"
    word = "more" if more else "fewer"
    if known[2] > known[1] if more else known[3] < known[0]:
        return True, f"{word.capitalize()} are memorized, too, when what each audit may have missed is allowed for: {ranges}"
    return False, f"What each audit may have missed leaves open whether {word} are memorized: {ranges}"


def _percent(share: Share) -> str:
    return f"{100 * share.share:.1f} %, {100 * share.lower:.1f} to {100 * share.upper:.1f}"


def _patients(before: FinishedAudit, after: FinishedAudit, comparable: bool) -> tuple[PatientChange, ...]:
    """Patients who were or are shown; of a redacted audit they cannot be matched, as pseudonyms are new in each."""
    if before.redacted or after.redacted:
        return ()
    known = [{row["patient"]: row for row in audit.exposure} for audit in (before, after)]
    sizes = [len({_volume(audit, row) for row in audit.scores}) for audit in (before, after)]
    found = []
    for patient in dict.fromkeys([*known[0], *known[1]]):
        rows = [one.get(patient) for one in known]
        counts = [0 if row is None else int(row["flagged_images"]) for row in rows]
        scores = [None if row is None else float(row["highest_score"]) for row in rows]
        status = "still" if all(counts) else "gone" if counts[0] else "new"
        # Slices of one volume are one hit.
        seen = [
            min(count, size) if len(audit.scores) == size else min(count, 1)
            for count, size, audit in zip(counts, sizes, (before, after), strict=True)
        ]
        chance = (
            None if status == "still" or not comparable else chance_unseen(max(seen), *(sizes if status == "gone" else sizes[::-1]))
        )
        found.append(PatientChange(patient, status, counts[0], counts[1], scores[0], scores[1], chance))
    order = {"new": 0, "still": 1, "gone": 2}
    return tuple(sorted(found, key=lambda one: (order[one.status], -one.after, -one.before, one.patient)))


def _power(before: Any, after: Any) -> tuple[PowerChange, ...]:
    tests = [{} if test is None else {one["words"]: Share(**one["power"]) for one in test["copies"]} for test in (before, after)]
    return tuple(PowerChange(words, tests[0].get(words), tests[1].get(words)) for words in dict.fromkeys([*tests[0], *tests[1]]))


def _cautions(before: FinishedAudit, after: FinishedAudit, facts: Sequence[Fact]) -> list[str]:
    found = []
    if before.redacted or after.redacted:
        found.append(
            "A redacted audit carries pseudonyms that are new in each: patients cannot be matched; compare the audits that name them."
        )
    elif not (len(before.scores) and len(after.scores)):
        found.append("One of the sets is empty.")
    different = [one.name for one in facts if not one.needed and not one.same and one.name != "synthetic set"]
    if different:
        found.append(f"These differ, too, and should not matter: {', '.join(different)}.")
    sizes = len(before.scores), len(after.scores)
    if max(sizes) > 1.5 * min(sizes):
        found.append(
            f"The sets are of different size ({sizes[0]} and {counted(sizes[1], after.of)}): a rate flags more easily where there are many findings, and fewer {after.of}s show "
            "fewer patients; shares are compared, numbers are not."
        )
    for name, audit in (("before", before), ("after", after)):
        sample = audit.summary.get("sample")
        if sample is not None:
            found.append(f"The audit {name} is of a random sample of {sample['drawn']} of {sample['total']}.")
        if audit.unnamed("training"):
            found.append(
                f"The audit {name} counts {one_of(audit.of)} that nobody named as a patient of its own: how many patients are shown is not known."
            )
        if audit.unnamed("control"):
            found.append(
                f"The audit {name} counts a control {audit.of} that nobody named as a patient of its own: where several are of one person, its p-values claim too much."
            )
    found.append(
        f"A patient who is gone is shown by none of the {after.of}s of the new set; another set of the same generator may show them."
    )
    return found


def _lost(power: Sequence[PowerChange]) -> list[str]:
    """Planted copies that one of the audits found less often than the other, beyond chance (Fisher's exact test, Bonferroni over the rows)."""
    both = [(one.words, one.before, one.after) for one in power if one.before is not None and one.after is not None]
    told = []
    for words, first, second in both:
        hits = [[i < one.count for i in range(one.total)] for one in (first, second)]
        if share_p_value(hits[0], range(first.total), hits[1], range(second.total)) * len(both) <= LEVEL:
            told.append(f"{words} ({first.count} of {first.total} before, {second.count} of {second.total} after)")
    if not told:
        return []
    return [
        f"The audits do not find alike: planted copies {', '.join(told)}. Part of a change may be that. A rate flags the more easily the more there is to find, and a "
        "blurred or noisy set hides its copies."
    ]
