"""A search for who and what is there twice, in two sets of real images or in one, stage by stage.

Images are prepared, embedded and registered as the audit does it, by the same config, and share its store.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from monai.bundle import ConfigParser

from doppelscan.decide import LeftOut, Rules, people_at_most
from doppelscan.deepssim import encoder_file, file_sha256
from doppelscan.errors import InputError, ReportError
from doppelscan.files import to_csv, write_atomic
from doppelscan.images import evenly_chosen
from doppelscan.locations import OVERLAP_FILES
from doppelscan.overlap import (
    FOUND,
    PEOPLE,
    UNSURE,
    Link,
    LinkSearch,
    Overlap,
    OverlapRules,
    OverlapSummary,
    Pool,
    PoolSearch,
    Removal,
    SearchedPool,
    Split,
    compare_names,
    conclude_overlap,
    counted_relations,
    grouped,
    people_apart,
    removable,
    require_people,
    same_pixels,
    split_people,
    with_names_of_files,
)
from doppelscan.progress import OTHER, RunProgress, Work
from doppelscan.report import (
    SPLIT_COLUMNS,
    ResultTable,
    closing_lines,
    overlap_facts,
    split_rows,
    strongest_pair,
    surest_words,
    write_overlap,
)
from doppelscan.search import CandidateSearch, EmbeddedSet, EmbeddingStore, StoredFeatures, StoredThumbnails
from doppelscan.settings import OverlapSettings
from doppelscan.threads import team
from doppelscan.wording import counted
from doppelscan.workers import Workers
from doppelscan.workflows.audit import in_clusters
from doppelscan.workflows.early import COMPARE, FIT, HASH, READ, VIEW
from doppelscan.workflows.embed import EmbeddingEvaluator, RecordDataset
from doppelscan.workflows.stored import (
    chosen_workers,
    embedding_store,
    made_folder,
    missing_in,
    stored_registration,
    stored_set,
    stored_view_differences,
    versions,
)

__all__ = ["OverlapResult", "OverlapRun", "joined"]

# Seconds on two cores, beside those of an audit; measured costs take their place.
REGISTER = 0.02
VIEWS_OF = 300


@dataclass(frozen=True, repr=False)
class OverlapResult(ResultTable):
    """What :func:`doppelscan.leak` and :func:`doppelscan.duplicates` return; a notebook shows the conclusion, the numbers and the first groups.

    Attributes:
        conclusion: ``leak found`` or ``no leak found``; ``duplicates found``, ``several images of one person`` or ``no duplicates found``; or
            ``cannot conclude``.
        reason: why, in one line.
        summary: what summary.json holds.
        groups: one dictionary an image, the rows of groups.csv.
        output: the folder of the files.
        exit_status: 0; with ``gate`` 3 when something was found, 4 when nothing can be concluded.
        store: the folder of the embeddings.
        split: the table that ``--split`` asked for.
    """

    shown: ClassVar[Mapping[str, str]] = {
        "group": "group", "image": "image", "set": "set", "relation": "found", "match": "nearest", "match_set": "of set", "score": "score", "pose": "pose",
    }  # fmt: skip
    written: ClassVar[tuple[str, ...]] = OVERLAP_FILES

    conclusion: str
    reason: str
    summary: dict[str, Any]
    groups: list[dict[str, Any]]
    output: Path
    exit_status: int
    store: Path | str | None = None
    split: Path | None = None

    @property
    def elsewhere(self) -> Sequence[tuple[Path, str]]:
        return () if self.split is None else ((self.split, "the split, people apart"),)

    @property
    def headline(self) -> tuple[str, str]:
        """What was concluded, and why, with the surest pair by its names."""
        surest = surest_words(self.summary.get("strongest"), self.of)
        return self.conclusion, f"{self.reason}; {surest}" if surest else self.reason

    @property
    def facts(self) -> Mapping[str, str]:
        """The numbers in words."""
        return overlap_facts(self.summary)

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """All images, in the order of the sets."""
        return self.groups

    @property
    def ranked(self) -> Sequence[Mapping[str, Any]]:
        """The images that are in a group, by the number of the group and then the highest score."""
        return sorted(
            (row for row in self.groups if row["group"]), key=lambda row: (int(row["group"]), -row["score"], row["image"])
        )

    @property
    def words(self) -> tuple[str, ...]:
        """What a terminal is told, a line each: the conclusion, what names say, the numbers, what was left out, where everything lies."""
        return closing_lines(self, self.summary["notes"], self.store or self.output / "store")


class OverlapRun:
    """One search, stage by stage.

    Args:
        command: leak or duplicates.
        own: its settings.
        datasets: the sets.
        config: configs/audit.json with these settings.
        keep: ``one`` lists files that can go.

    Attributes:
        poses: in which what is looked for is embedded.
        weight: images that take as long as one of what is compared.
        own_rules: thresholds beside those of the audit.

    Raises:
        InputError: the same set twice, a pattern that matches nothing, or a folder that cannot be written.
    """

    poses: ClassVar[int] = 8
    weight: ClassVar[int] = 1
    own_rules: ClassVar[type[OverlapRules]] = OverlapRules

    def __init__(
        self, command: str, own: OverlapSettings, datasets: Sequence[RecordDataset], config: ConfigParser, keep: str | None
    ) -> None:
        self.command, self.own, self.keep, self.datasets = command, own, keep, list(datasets)
        self.said: list[str] = []
        self.evaluator: EmbeddingEvaluator = config.get_parsed_content("evaluator")
        named = encoder_file(config.get_parsed_content("ckpt_path"))
        self.weights_sha256 = "none" if named is None else file_sha256(named)
        self.overlap_rules = self.own_rules()
        self.rules: Rules = self._configured(config)
        self._refuse_same_set()
        self._refuse_pattern()
        self._refuse_split()
        self.output = Path(own.output)
        made_folder(self.output)
        images = sum(len(one.image_set.records) for one in self.datasets)
        self.workers = self._workers(self.weight * images)
        self.clock = RunProgress(self._expected(images))

    def _configured(self, config: ConfigParser) -> Rules:
        """Take from ``config`` what registers; the audit's rules."""
        self.registration = config.get_parsed_content("registration")
        return config.get_parsed_content("rules")

    def _workers(self, images: int) -> Workers:
        return chosen_workers(images, self.evaluator.state.device, self.own.workers, self.own.threads)

    def _refuse_same_set(self) -> None:
        files = [{os.path.realpath(p) for r in one.image_set.records for p in r.paths} for one in self.datasets]
        if len(files) == 2 and files[0] == files[1]:
            raise InputError(
                f"The 'a' and 'b' parameters must be different sets. Got the same {len(files[0])} files twice; for one set: doppelscan duplicates DIR."
            )

    def _refuse_pattern(self) -> None:
        sets = [one.image_set for one in self.datasets]
        if all(one.unmatched and one.patient_source == "volume" for one in sets):
            raise InputError(
                f"The 'patient_pattern' parameter must match the names of images of one set at least. Got {self.own.patient_pattern!r}, which matches "
                f"none of {sum(one.unmatched for one in sets)}, the first {os.path.basename(sets[0].records[0].paths[0])!r}."
            )

    def _refuse_split(self) -> None:
        """Refuse before anything is embedded a table that could not be written, and more parts than there can be people; what it would overwrite the
        settings have refused."""
        if self.own.split is None:
            return
        people = sum(people_at_most(one.image_set.records)[0] for one in self.datasets)
        require_people(people, self.own.folds, self.own.parts)
        made_folder(Path(os.path.realpath(self.own.split)).parent, "split")

    def __call__(self) -> OverlapResult:
        """Run every stage and write the report."""
        with team(self.own.threads), self.clock.shown():
            with self.clock.stage("embed"):
                self._expect_stored()
                pool = self._pool()
            with self.clock.stage("identical pixels"):
                same = self._same(pool)
            with self.clock.stage("fit"):
                find = self._search(pool)
            with self.clock.stage("verify"):
                found = find(same)
            with self.clock.stage("group"):
                overlap = self._grouped(found)
                split, removals = self._split(overlap), self._removals(overlap)
            summary = self._summary(overlap, split, removals)
            with self.clock.stage("report"):
                key = None if self.own.key is None else Path(self.own.key)
                rows = write_overlap(self.output, overlap, summary, removals, self.own.redact, key)
                self._write_split(overlap, split)
        status = {FOUND[self.command]: 3, PEOPLE: 3, UNSURE: 4}.get(overlap.verdict, 0) if self.own.gate else 0
        return OverlapResult(
            overlap.verdict,
            overlap.reason,
            summary.as_dict(),
            rows,
            self.output,
            status,
            self.own.store_folder,
            None if self.own.split is None else Path(self.own.split),
        )

    def _expect_stored(self) -> None:
        """What an earlier run stored is not to come, which the end that is shown is to know from the beginning."""
        missing = sum(missing_in(self._store_of(one, poses), one.image_set) for one in self.datasets for poses in (1, self.poses))
        self.clock.expect("embed", "embed", missing)
        if not missing and self._holds_pairs():
            self.clock.expect_stored()

    def _store_of(self, dataset: RecordDataset, poses: int) -> EmbeddingStore:
        """Where the embeddings of ``dataset`` lie."""
        return embedding_store(self.evaluator, dataset, self.own.store_folder, poses)

    def _holds_pairs(self) -> bool:
        """Whether an earlier run came so far that pairs were registered."""
        return len(stored_registration(self.registration, self.datasets[0], self.own.store_folder).verified) > 0

    def _pool(self) -> Pool:
        """All sets embedded, as they are looked for and as they are searched, with the images that could be read."""
        posed = [self._embedded(one, self.poses) for one in self.datasets]
        # What could not be read is listed once.
        readable = [one.with_records(made.records) for one, made in zip(self.datasets, posed, strict=True)]
        images = [self._embedded(one, 1) for one in readable]
        posed = [_those_of(one, other) for one, other in zip(posed, images, strict=True)]
        of_set = tuple(number for number, one in enumerate(images) for _ in range(len(one)))
        return Pool(joined(images), joined(posed), tuple(one.image_set.name for one in self.datasets), of_set)

    def _embedded(self, dataset: RecordDataset, poses: int) -> EmbeddedSet:
        name = dataset.image_set.name
        return stored_set(self.evaluator, dataset, self.own.store_folder, poses, name, self.workers)

    def _same(self, pool: Pool) -> list[Link]:
        """Links of the same pixels."""
        return same_pixels(pool, self.rules)

    def _search(self, pool: Pool) -> PoolSearch:
        """What looks for the other links."""
        return LinkSearch(
            pool=pool,
            search=self._fitted(pool),
            registration=stored_registration(self.registration, self.datasets[0], self.own.store_folder),
            rules=self.rules,
            own=self.overlap_rules,
            workers=self.workers,
            regions=self.own.regions,
        )

    def _preparation(self) -> list:
        """How images are prepared, for the summary."""
        return self.datasets[0].transform_settings()

    def _fitted(self, pool: Pool) -> CandidateSearch:
        """The search over all images; those of the same content in one set are one candidate."""
        images = pool.images
        clustered = in_clusters(self.own.index, len(images))
        search = CandidateSearch(seed=self.own.seed, device=self.registration.device, clustered=clustered)
        seen = images.subset(evenly_chosen(len(images), VIEWS_OF).tolist())
        differences = stored_view_differences(self.evaluator, self.datasets[0], seen, self.own.store_folder, self.own.seed)
        keys = [f"{number} {content}" for number, content in zip(pool.of_set, images.contents, strict=True)]
        names = [name for name in images.outputs if not name.startswith("layer")]
        features = StoredFeatures.of(images, names=names)
        return search.fit(features, view_differences=differences, thumbnails=StoredThumbnails(images), keys=keys)

    def _grouped(self, found: SearchedPool) -> Overlap:
        as_named = found.pool
        found, self.said, one_list = with_names_of_files(found, self.rules)
        pool = found.pool
        grouping = grouped(pool.images.records, pool.of_set, found.links, self.overlap_rules)
        # The names of the files of two sets are two lists, unless the images say otherwise: that they differ says nothing.
        names = compare_names(pool if len(pool.names) == 1 or one_list else as_named, grouping)
        left_out = [len({s.path for s in one.image_set.skipped}) for one in self.datasets]
        return conclude_overlap(self.command, found, grouping, names, left_out, self.overlap_rules)

    def _split(self, overlap: Overlap) -> Split | None:
        if self.own.split is None:
            return None
        person = people_apart(overlap.found.pool, overlap.grouping, self.overlap_rules)
        return split_people(person, self.own.folds, self.own.parts)

    def _removals(self, overlap: Overlap) -> list[Removal] | None:
        return None if self.keep is None else removable(overlap.found.pool, overlap.grouping, self.overlap_rules)

    def _part_names(self, split: Split) -> list[str]:
        count = len(split.images)
        if self.own.parts is None:
            return [str(number) for number in range(count)]
        known = {2: ["train", "test"], 3: ["train", "validation", "test"]}
        return known.get(count, [f"part {number}" for number in range(1, count + 1)])

    def _write_split(self, overlap: Overlap, split: Split | None) -> None:
        if split is None or self.own.split is None:
            return
        try:
            write_atomic(Path(self.own.split), to_csv(SPLIT_COLUMNS, split_rows(overlap, split, self._part_names(split))))
        except OSError as error:
            raise ReportError(
                f"The split {str(self.own.split)!r} cannot be written: {error.strerror}; pass another --split."
            ) from error

    def _summary(self, overlap: Overlap, split: Split | None, removals: Sequence[Removal] | None) -> OverlapSummary:
        records, links = overlap.found.pool.images.records, overlap.links
        told = counted_relations([one for one in links if one.joins])
        relations = [one.relation for one in overlap.groups]
        return OverlapSummary(
            command=self.command,
            of=overlap.found.pool.of,
            conclusion=overlap.verdict,
            reason=overlap.reason,
            sets=overlap.sets,
            groups={name: relations.count(name) for name in dict.fromkeys(relations)},
            largest_group=max((len(one.rows) for one in overlap.groups), default=0),
            pairs=told,
            doubted_pairs=sum(not one.joins for one in links),
            registered_pairs=overlap.found.registered,
            strongest=None if self.own.redact else strongest_pair(overlap),
            highest_unlinked=max((score for _, _, score in overlap.unlinked), default=None),
            names_in_both=len(overlap.names.in_both),
            names_borne_out=len(overlap.names.borne_out),
            disagreements=[
                {
                    "kind": one.kind,
                    "patient": records[one.row].patient,
                    "image": records[one.row].id,
                    "match_patient": records[one.other].patient,
                    "match": records[one.other].id,
                    "relation": one.link.relation,
                    "score": one.link.score,
                }
                for one in overlap.names.disagreements
            ],
            notes=self._notes(overlap),
            split=None if split is None else {"images": split.images, "people": split.people, "parts": self._part_names(split)},
            removable=None if removals is None else len(removals),
            skipped=list(
                dict.fromkeys(LeftOut(d.image_set.name, s.path, s.reason) for d in self.datasets for s in d.image_set.skipped)
            ),
            settings={
                **self.own.recorded(),
                "preprocessing": self._preparation(),
                "device": str(self.evaluator.state.device),
                "runtime": getattr(self.evaluator.network, "runtime", f"torch {torch.__version__}"),
            },
            rules={
                **{name: getattr(self.rules, name) for name in ("identical", "identical_small", "close_pair", "same_person")},
                **asdict(self.overlap_rules),
            },
            weights_sha256=self.weights_sha256,
            versions=versions(),
            seconds=self.clock.seconds,
        )

    def _notes(self, overlap: Overlap) -> list[str]:
        pool, of = overlap.found.pool, overlap.found.pool.of
        notes = list(self.said)
        for dataset in self.datasets:
            words = "" if len(self.datasets) == 1 else f" of {dataset.image_set.name}"
            if not dataset.image_set.unknown_patients:
                notes.append(f"The patients{words} are named ({dataset.image_set.patient_source}).")
            if dataset.image_set.unmatched:
                notes.append(f"The patient pattern does not match {counted(dataset.image_set.unmatched, 'name')}{words}.")
        notes += [f"{note}." for dataset in self.datasets for note in dataset.image_set.notes]
        for rows in overlap.grouping.pictures:
            notes.append(
                f"One {of} is there {len(rows)} times under more than {self.overlap_rules.shared_names} names, such as a template, a phantom or a logo: "
                "it joins nobody."
            )
        if overlap.found.few:
            notes.append(
                f"{counted(len(pool), of)} {'is' if len(pool) == 1 else 'are'} too few to tell strangers from other {of}s of one person (at least {self.overlap_rules.fewest}): only {of}s of "
                "the same pixels, or changed a little, are told."
            )
        return notes

    def _expected(self, images: int) -> dict[str, dict[str, Work]]:
        views = self.poses + len(self.evaluator.pose_inferer.rotations)
        return {
            "embed": {"hash": Work(2 * images, HASH), "embed": Work(2 * images, READ + VIEW * views / 2)},
            "identical pixels": {OTHER: Work(images, COMPARE)},
            "fit": {OTHER: Work(images, FIT)},
            "verify": {"verify": Work(2 * images, REGISTER)},
            "group": {OTHER: Work(1, 1.0)},
            "report": {OTHER: Work(1, 2.0)},
        }


def _those_of(posed: EmbeddedSet, images: EmbeddedSet) -> EmbeddedSet:
    """``posed`` without what could not be read a second time."""
    kept = {record.id for record in images.records}
    return posed.subset([row for row, record in enumerate(posed.records) if record.id in kept])


Embedded = TypeVar("Embedded", bound=EmbeddedSet)


def joined(sets: Sequence[Embedded]) -> Embedded:
    """Sets of one store as one."""
    sets[-1].store.refresh()
    records = [record for one in sets for record in one.records]
    return replace(sets[-1], records=records, keys=[key for one in sets for key in one.keys])
