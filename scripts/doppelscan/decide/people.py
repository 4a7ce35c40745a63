"""Who is who among the real images: people whom nobody named are found by verified pairs and by the names of the files, not assumed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binomtest

from doppelscan.decide.findings import NearDuplicate
from doppelscan.decide.pairs import PersonPair, registered_pairs
from doppelscan.decide.rules import Rules
from doppelscan.decide.scoring import StoredRegistration
from doppelscan.images import ImageRecord, unit_of
from doppelscan.images.people import (
    BIDS_PATTERN,
    BIDS_WORDS,
    PatientProposal,
    agrees,
    bids_subjects,
    people_of,
    propose_patients,
)
from doppelscan.memorization import Nearest, nearest_rows, searched
from doppelscan.progress import progress
from doppelscan.search import CandidateSearch, EmbeddedSet
from doppelscan.wording import counted

__all__ = ["People", "UnnamedImages", "find_people", "names_of_files", "person_pairs", "same_people"]

NEAREST, BLOCK = 3, 64
# Where a patient is known from whom nothing names.
NOTHING = "nothing (each image or volume counts as a patient of its own, but for those that were found to be of one person)"
# Pairs come by falling similarity; after so many in a row that are not of one person, none is expected any more.
PATIENCE = 128


@dataclass(frozen=True)
class UnnamedImages:
    """Images of a set whose patients nothing names.

    Attributes:
        label: of the set, such as training.
        rows: of each, in what pairs and nearest images speak of.
        records: of each.
    """

    label: str
    rows: Sequence[int]
    records: Sequence[ImageRecord]


@dataclass(frozen=True)
class People:
    """Who is who.

    Attributes:
        training: the training set with the person of each image.
        holdout: the holdout likewise, or None.
        known: all people of the training set are named, by the user or by names of files: of a standard, or such as agree with what was found.
        source: where they are known from.
        doubles: images of two named patients that agree as copies do.
        notes: what the reader of the audit must know.
    """

    training: EmbeddedSet
    holdout: EmbeddedSet | None
    known: bool
    source: str
    doubles: tuple[NearDuplicate, ...]
    notes: tuple[str, ...]


def find_people(
    training: EmbeddedSet,
    holdout: EmbeddedSet | None,
    pairs: Sequence[PersonPair],
    nearest: np.ndarray,
    source: str,
    rules: Rules,
) -> People:
    """Merge who is one person, and name people by the names of the files where those agree with it.

    Args:
        training: the training set.
        holdout: real images of other patients, or None.
        pairs: see :func:`person_pairs`.
        nearest: int [N + H], the nearest image of each.
        source: where named patients are named, for the report.
        rules: what names of files must be borne out by.
    """
    records = [*training.records, *([] if holdout is None else holdout.records)]
    count, of = len(training), unit_of(records)
    confirmed = [(p.first, p.second) for p in pairs if p.confirmed]
    named = [record.patient for record in records]
    told = {i for i, record in enumerate(records) if record.patient_known}
    notes: list[str] = []
    unnamed: list[UnnamedImages] = []
    for label, part in (("training", range(count)), ("holdout", range(count, len(records)))):
        unknown = [i for i in part if i not in told]
        if not unknown:
            continue
        if len(unknown) < len(part):
            notes.append(
                f"{len(unknown)} of {counted(len(part), f'{label} {of}')} {'has' if len(unknown) == 1 else 'have'} no patient, the others have: who they are was looked for."
            )
        unnamed.append(UnnamedImages(label, tuple(unknown), tuple(records[i] for i in unknown)))
    for images, (words, chosen) in zip(unnamed, names_of_files(unnamed, confirmed, nearest, rules), strict=True):
        if words:
            notes.append(f"Nobody named the patients of {counted(len(images.rows), f'{images.label} {of}')}. {words}")
        if chosen is None:
            continue
        patients: Sequence[str] = chosen.patients
        if images.label == "holdout":
            patients, said = _as_other_people(images, chosen, named[:count], nearest, rules)
            notes += said
        else:
            source = " and ".join(_sources(source, chosen.source))
        for i, patient, own, record in zip(images.rows, patients, chosen.patients, images.records, strict=True):
            named[i] = patient
            if own != record.volume:
                told.add(i)
    unknown = [i for i in range(count) if i not in told]
    people = people_of(len(records), confirmed, named)
    if unknown:
        notes.append(_unknown(unknown, people, {i for pair in confirmed for i in pair}, of))
    as_named = [replace(record, patient=name) for record, name in zip(records, named, strict=True)]
    doubles = [
        NearDuplicate(p.second >= count, *_control_first(as_named, p, count), p.score)
        for p in pairs
        if {p.first, p.second} <= told and named[p.first] != named[p.second]
    ]
    return People(
        _with_people(training, people[:count], told),
        None if holdout is None else _with_people(holdout, people[count:], {i - count for i in told}),
        not unknown,
        _source_words(source, bool(unknown)),
        tuple(sorted(doubles, key=lambda d: -d.score)),
        tuple(notes),
    )


def _control_first(records: Sequence[ImageRecord], pair: PersonPair, count: int) -> tuple[ImageRecord, ImageRecord]:
    first, second = records[pair.first], records[pair.second]
    return (second, first) if pair.second >= count else (first, second)


def _with_people(images: EmbeddedSet, people: Sequence[str], told: Collection[int]) -> EmbeddedSet:
    """``images`` with the person of each, and whether anything names that person: rows of ``told``."""
    named = [replace(r, patient=p, patient_known=i in told) for i, (r, p) in enumerate(zip(images.records, people, strict=True))]
    return replace(images, records=named)


def _sources(source: str, names: str) -> list[str]:
    return [*(one for one in source.split(" and ") if one != "volume"), names]


def _source_words(source: str, unknown: bool) -> str:
    """Where patients are known from, in words for the page: nobody knows what "volume" is to say of single images."""
    known = [one for one in source.split(" and ") if one != "volume"]
    return " and ".join([*known, NOTHING] if unknown or not known else known)


def _as_other_people(
    holdout: UnnamedImages, chosen: PatientProposal, training: Sequence[str], nearest: np.ndarray, rules: Rules
) -> tuple[Sequence[str], list[str]]:
    """Names of the holdout that are names of the training set, too: of the same people where their images are each other's nearest, else of others.

    ``sub-01`` of one data set is not ``sub-01`` of another.
    """
    sizes = Counter(training)
    shared = [(row, who) for row, who in zip(holdout.rows, chosen.patients, strict=True) if who in sizes]
    if not shared:
        return chosen.patients, []
    count = f"{len({who for _, who in shared})} of these names are names of the training set, too"
    near = [int(nearest[row]) if nearest[row] < len(training) else -1 for row, _ in shared]
    if same_people([who for _, who in shared], near, training, rules):
        return chosen.patients, [f"{count}, and by what search found they are the same people: they are no control."]
    told = f"{count}; nothing that was found shows them to be the same people, so they count as others. If they are the same, pass a table with a column"
    return [f"holdout {who}" for who in chosen.patients], [f"{told} 'patient' or --patient-pattern."]


def same_people(names: Sequence[str], nearest: Sequence[int], others: Sequence[str], rules: Rules) -> bool:
    """Whether names that two sets share are of the same people: their images are nearest to images of that name more often than chance has it.

    Args:
        names: of images of one set, each a name of the other set, too.
        nearest: of each the nearest image of the other set, -1 where that is not known or nearer images are of its own set.
        others: the name of each image of the other set.
        rules: ``names_p`` is how probably chance may say so.
    """
    sizes = Counter(others)
    near = [(place, who) for place, who in zip(nearest, names, strict=True) if place >= 0]
    hits = sum(others[place] == who for place, who in near)
    if not hits:
        return False
    chance = float(np.mean([sizes[who] for _, who in near])) / len(others)
    return bool(binomtest(hits, len(near), min(1.0, chance), alternative="greater").pvalue <= rules.names_p)


def _unknown(unknown: Sequence[int], people: Sequence[str], confirmed: set[int], of: str) -> str:
    """What is said of training images whose patient nothing names; ``confirmed`` are in pairs of one person."""
    several = len(confirmed.intersection(unknown))
    count = counted(len(unknown), f"training {of}")
    if not several:
        return (
            f"Nothing names the patients of {count} and no two were found to be of one person: every file counts as a patient of its own. If "
            "several are of one person, p-values are wrong; pass --patient-pattern or a table with a column 'patient'."
        )
    return (
        f"Of {count} whose patient nothing names, {several} were found by registration to be of people who have several: they count as "
        f"{len({people[i] for i in unknown})} people. Other {of}s of one person that look different would still count as different people: pass "
        "--patient-pattern or a table with a column 'patient'."
    )


def names_of_files(
    unnamed: Sequence[UnnamedImages], confirmed: Sequence[tuple[int, int]], nearest: np.ndarray, rules: Rules
) -> list[tuple[str, PatientProposal | None]]:
    """What the names of files say of who is who: by a standard, else by what agrees with what was found.

    Sets that are named alike are judged together: one rule of names is believed of all of them or of none.

    Args:
        unnamed: of each set, what nothing else names.
        confirmed: pairs of rows that are of one person.
        nearest: int, the nearest image of each row.
        rules: what the names must be borne out by, or may be refuted by.

    Returns:
        of each set what is said of its names, empty where they say nothing, and the proposal that was taken, or None. What a proposal does not match
        has its volume for a patient.
    """
    standard = _by_standard(unnamed, confirmed, rules)
    guessed = [
        () if chosen is not None else propose_patients(images.records)
        for images, (_, chosen) in zip(unnamed, standard, strict=True)
    ]
    believed: dict[tuple[str, str | None, str], bool] = {}

    def believes(proposal: PatientProposal) -> bool:
        key = proposal.rule
        if key not in believed:
            alike = [(images, one) for images, own in zip(unnamed, guessed, strict=True) for one in own if one.rule == key]
            believed[key] = _agreed(alike, confirmed, nearest, rules)
        return believed[key]

    result: list[tuple[str, PatientProposal | None]] = []
    for images, (words, chosen), proposals in zip(unnamed, standard, guessed, strict=True):
        taken = next((one for one in proposals if believes(one)), None)
        if taken is not None:
            who, others = _words(images, taken, "are")
            told = f"{who}, which agrees with what registration and search found and was used.{others}{_hint(taken)}"
            result.append((f"{words} {told}".strip(), taken))
        elif proposals and not words:
            who, _ = _words(images, proposals[0], "would be")
            told = f"{who}, but too little that was found bears that out: it was not used.{_hint(proposals[0])}"
            result.append((told, None))
        else:
            result.append((words, chosen))
    return result


def _by_standard(
    unnamed: Sequence[UnnamedImages], confirmed: Sequence[tuple[int, int]], rules: Rules
) -> list[tuple[str, PatientProposal | None]]:
    """Subjects by BIDS, which need no bearing out: that is what the names mean. Only where most pairs of all sets say otherwise they are not believed."""
    proposals = [_bids(images) for images in unnamed]
    subject = {
        row: (images.label, who)
        for images, one in zip(unnamed, proposals, strict=True)
        if one is not None
        for row, who in zip(images.rows, one.patients, strict=True)
    }
    pairs = [(subject[a], subject[b]) for a, b in confirmed if a in subject and b in subject and subject[a][0] == subject[b][0]]
    apart = sum(first != second for first, second in pairs)
    refuted = apart >= rules.names_refuted and 2 * apart > len(pairs)
    result: list[tuple[str, PatientProposal | None]] = []
    for images, one in zip(unnamed, proposals, strict=True):
        if one is None:
            result.append(("", None))
            continue
        own = [(first, second) for first, second in pairs if first[0] == images.label]
        of_two = sum(first != second for first, second in own)
        told, others = _words(images, one, "are")
        if refuted:
            why = f"{apart} of {len(pairs)} pairs that show one person are of two of these"
            result.append((f"{told}, but {why}: it was not used.{_hint(one)}", None))
        else:
            also = f" Of {len(own)} pairs that show one person {of_two} are of two of these, who count as one." if of_two else ""
            result.append((f"{told}, as that standard has it.{others}{also}{_hint(one)}", one))
    return result


def _bids(images: UnnamedImages) -> PatientProposal | None:
    """The subjects of a set where at least half of it has one."""
    subjects = bids_subjects(images.records)
    matched = sum(who is not None for who in subjects)
    if not matched or 2 * matched < len(subjects):
        return None
    patients = tuple(who or record.volume for who, record in zip(subjects, images.records, strict=True))
    by_file = all(
        who is None or os.path.basename(r.paths[0]).startswith(who) for who, r in zip(subjects, images.records, strict=True)
    )
    pattern = BIDS_PATTERN if by_file else None
    return PatientProposal("name" if by_file else "folder", pattern, BIDS_WORDS, patients, len(set(patients)), True)


def _agreed(
    alike: Sequence[tuple[UnnamedImages, PatientProposal]], confirmed: Sequence[tuple[int, int]], nearest: np.ndarray, rules: Rules
) -> bool:
    """Whether what was found bears a rule of names out, in all sets together that it names."""
    rows = [row for images, _ in alike for row in images.rows]
    patients = [f"{images.label} {who}" for images, one in alike for who in one.patients]
    whole = replace(alike[0][1], patients=tuple(patients), count=sum(one.count for _, one in alike))
    place = {row: i for i, row in enumerate(rows)}
    of = {row: images.label for images, _ in alike for row in images.rows}
    pairs = [(place[a], place[b]) for a, b in confirmed if a in place and b in place and of[a] == of[b]]
    near = [place.get(int(n), -1) for n in nearest[rows]]
    return agrees(whole, pairs, rules.names_apart) and _borne_out(whole, pairs, near, rules)


def _words(images: UnnamedImages, proposal: PatientProposal, verb: str) -> tuple[str, str]:
    """How many people the names make of those that they match, without its full stop, and a sentence on the others, if there are any."""
    named = [who for who, record in zip(proposal.patients, images.records, strict=True) if who != record.volume]
    people, rest = len(set(named)), len(images.rows) - len(named)
    read = "names" if proposal.kind == "name" else "folders and names" if proposal.words == BIDS_WORDS else "folders"
    if not rest:
        return f"By their {read} ({proposal.words}) they {verb} {counted(people, 'person')}", ""
    told = f"By the {read} of {len(named)} of them ({proposal.words}) these {verb} {counted(people, 'person')}"
    of, own = unit_of(images.records), len(set(proposal.patients)) - people
    if rest == 1:
        return told, f" The other {of} counts as a person of its own."
    return told, f" The other {counted(rest, of)} count as {counted(own, 'person')} more, as nothing says who they are."


def _hint(proposal: PatientProposal) -> str:
    """The option that would say so."""
    if proposal.pattern is None:
        return " To choose it, pass a table with a column 'patient' that names the folder of each file."
    return f" To choose it: --patient-pattern '{proposal.pattern}'"


def _borne_out(proposal: PatientProposal, pairs: Sequence[tuple[int, int]], nearest: Sequence[int], rules: Rules) -> bool:
    """Images of one proposed person are each other's nearest more often than chance has it, and pairs were found in it.

    Images of one site or scanner are each other's nearest, too: without pairs only names are believed that say that they name a person, or that
    make many people of few images each.
    """
    patients = proposal.patients
    sizes = Counter(patients)
    asked = [i for i, patient in enumerate(patients) if sizes[patient] > 1]
    paired = {i for a, b in pairs if patients[a] == patients[b] for i in (a, b)}
    many_and_small = proposal.count >= rules.names_people and max(sizes.values()) <= rules.names_most
    if not asked or not (proposal.explicit or many_and_small or len(paired) >= rules.names_found * len(asked)):
        return False
    hits = sum(nearest[i] >= 0 and patients[nearest[i]] == patients[i] for i in asked)
    chance = sum(sizes[patients[i]] - 1 for i in asked) / len(asked) / max(1, len(patients) - 1)
    return hits > 0 and binomtest(hits, len(asked), min(1.0, chance), alternative="greater").pvalue <= rules.names_p


def person_pairs(
    training: EmbeddedSet,
    holdout: EmbeddedSet | None,
    search: CandidateSearch,
    registration: StoredRegistration,
    rules: Rules,
) -> tuple[list[PersonPair], np.ndarray]:
    """Pairs of real images that agree as copies do, of different patients as far as they are known; and the nearest image of each.

    Each image's three nearest by the whitened embedding are registered, the most similar first, until no more pairs agree.
    """
    assert search.patches is not None
    sets = [training] if holdout is None else [training, holdout]
    records = [record for one in sets for record in one.records]
    embedding = search.whitened(np.concatenate([one.single_pose(["embedding"])["embedding"] for one in sets]))
    codes = np.unique([record.patient for record in records], return_inverse=True)[1].reshape(-1)
    others, nearest = _neighbours(embedding, codes, search.clustered)
    near: dict[tuple[int, int], float] = {}
    for i, (values, found_rows) in enumerate(zip(others.similarity.tolist(), others.rows.tolist(), strict=True)):
        near |= {(min(i, j), max(i, j)): round(value, 4) for value, j in zip(values, found_rows, strict=True) if j >= 0}
    candidates = sorted(near, key=lambda pair: (-near[pair], pair))
    found: list[PersonPair] = []
    misses = 0
    with progress(None, "people", "pair", total=min(len(candidates), PATIENCE + len(records) // 8)) as bar:
        for block in _blocks(candidates):
            for pair in registered_pairs(block, training, holdout, registration, search.patches.descriptor, rules):
                if pair.score >= rules.close_pair:
                    found.append(pair)
                misses = 0 if pair.confirmed else misses + 1
            bar.update(len(block))
            if misses >= PATIENCE:
                break
    registration.flush()
    return found, nearest


def _blocks(pairs: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(pairs), BLOCK):
        yield pairs[start : start + BLOCK]


def _neighbours(embedding: np.ndarray, patients: np.ndarray, clustered: bool) -> tuple[Nearest, np.ndarray]:
    """The nearest images of other patients, and the nearest image of any patient but itself, int64 [N]; of all, or of the nearest clusters."""
    itself, reference = np.arange(len(embedding)), searched(embedding, clustered)
    others = nearest_rows(embedding, reference, NEAREST, groups=(patients, patients))
    return others, nearest_rows(embedding, reference, 1, groups=(itself, itself)).rows[:, 0]
