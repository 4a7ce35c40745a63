"""Who is who among the real images: people whom nobody named are found by verified pairs and by the names of the files, not assumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binomtest

from doppelscan.decide.conclusion import counted
from doppelscan.decide.findings import NearDuplicate
from doppelscan.decide.pairs import PersonPair, registered_pairs
from doppelscan.decide.rules import Rules
from doppelscan.decide.scoring import StoredRegistration
from doppelscan.images import ImageRecord
from doppelscan.images.people import PatientProposal, agrees, people_of, propose_patients
from doppelscan.memorization import Nearest, nearest_rows, searched
from doppelscan.search import CandidateSearch, EmbeddedSet

__all__ = ["People", "find_people", "names_of_files", "person_pairs"]

NEAREST, BLOCK = 3, 64
# Pairs come by falling similarity; after so many in a row that are not of one person, none is expected any more.
PATIENCE = 128


@dataclass(frozen=True)
class People:
    """Who is who.

    Attributes:
        training: the training set with the person of each image.
        holdout: the holdout likewise, or None.
        known: all people of the training set are named, by the user or by names of files that agree with what was found.
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
    count = len(training)
    confirmed = [(p.first, p.second) for p in pairs if p.confirmed]
    named = [record.patient for record in records]
    notes: list[str] = []
    known = all(record.patient_known for record in records[:count])
    for label, part in (("training", range(count)), ("holdout", range(count, len(records)))):
        unknown = [i for i in part if not records[i].patient_known]
        if not unknown:
            continue
        if len(unknown) < len(part):
            notes.append(
                f"{len(unknown)} of {len(part)} {label} images have no patient, the others have: who they are was looked for."
            )
        words, chosen = names_of_files([records[i] for i in unknown], unknown, confirmed, nearest, rules)
        if chosen is not None:
            # The names of a holdout speak of its own people: p01 here need not be p01 there.
            for i, patient in zip(unknown, chosen.patients, strict=True):
                named[i] = patient if label == "training" else f"{label} {patient}"
            if label == "training":
                known, source = True, " and ".join(_sources(source, f"{chosen.kind} of the files ({chosen.words})"))
        notes += [f"Nobody named the patients of {len(unknown)} {label} images. {words}"] if words else []
    people = people_of(len(records), confirmed, named)
    unknown = [i for i in range(count) if not records[i].patient_known]
    if not known:
        notes.append(_unknown(unknown, people, {i for pair in confirmed for i in pair}))
    doubles = [
        NearDuplicate(p.second >= count, *_control_first(records, p, count), p.score)
        for p in pairs
        if records[p.first].patient_known
        and records[p.second].patient_known
        and records[p.first].patient != records[p.second].patient
    ]
    return People(
        _with_people(training, people[:count]),
        None if holdout is None else _with_people(holdout, people[count:]),
        known,
        source,
        tuple(sorted(doubles, key=lambda d: -d.score)),
        tuple(notes),
    )


def _control_first(records: Sequence[ImageRecord], pair: PersonPair, count: int) -> tuple[ImageRecord, ImageRecord]:
    first, second = records[pair.first], records[pair.second]
    return (second, first) if pair.second >= count else (first, second)


def _with_people(images: EmbeddedSet, people: Sequence[str]) -> EmbeddedSet:
    return replace(images, records=[replace(r, patient=p) for r, p in zip(images.records, people, strict=True)])


def _sources(source: str, names: str) -> list[str]:
    return [*(one for one in source.split(" and ") if one != "volume"), names]


def _unknown(unknown: Sequence[int], people: Sequence[str], confirmed: set[int]) -> str:
    """What is said of training images whose patient nothing names; ``confirmed`` are in pairs of one person."""
    several = len(confirmed.intersection(unknown))
    count = counted(len(unknown), "training image")
    if not several:
        return (
            f"Nothing names the patients of {count} and no two were found to be of one person: every file counts as a patient of its own. If "
            "several are of one person, p-values are wrong; pass --patient-pattern or a table with a column 'patient'."
        )
    return (
        f"Of {count} whose patient nothing names, {several} were found by registration to be of people who have several: they count as "
        f"{len({people[i] for i in unknown})} people. Other images of one person that look different would still count as different people: pass "
        "--patient-pattern or a table with a column 'patient'."
    )


def names_of_files(
    records: list[ImageRecord], rows: list[int], confirmed: Sequence[tuple[int, int]], nearest: np.ndarray, rules: Rules
) -> tuple[str, PatientProposal | None]:
    """What the names of files say of who is who, held against what was found.

    Args:
        records: of one set, whose patients nothing names.
        rows: of each record, in what ``confirmed`` and ``nearest`` speak of.
        confirmed: pairs of rows that are of one person.
        nearest: int, the nearest image of each row.
        rules: what the names must be borne out by.

    Returns:
        what is said of them, empty where they say nothing, and the proposal that agrees with what was found, or None.
    """
    proposals = propose_patients(records)
    if not proposals:
        return "", None
    place = {row: i for i, row in enumerate(rows)}
    pairs = [(place[a], place[b]) for a, b in confirmed if a in place and b in place]
    near = [place.get(int(n), -1) for n in nearest[rows]]
    for proposal in proposals:
        if agrees(proposal, pairs, rules.names_apart) and _borne_out(proposal, pairs, near, rules):
            return (
                f"{_words(proposal, 'are')}, which agrees with what registration and search found and was used.{_hint(proposal)}",
                proposal,
            )
    first = proposals[0]
    return f"{_words(first, 'would be')}, but too little that was found bears that out: it was not used.{_hint(first)}", None


def _words(proposal: PatientProposal, verb: str) -> str:
    return f"By their {'folders' if proposal.kind == 'folder' else 'names'} ({proposal.words}) they {verb} {proposal.count} people"


def _hint(proposal: PatientProposal) -> str:
    return "" if proposal.pattern is None else f" To choose it: --patient-pattern '{proposal.pattern}'"


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
    for block in _blocks(candidates):
        for pair in registered_pairs(block, training, holdout, registration, search.patches.descriptor, rules):
            if pair.score >= rules.close_pair:
                found.append(pair)
            misses = 0 if pair.confirmed else misses + 1
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
