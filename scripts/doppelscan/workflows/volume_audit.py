"""The audit of volumes: the stages of :class:`Audit` on whole volumes, and which of both an audit of given sets is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from doppelscan.decide import (
    Decision,
    FittedVolumes,
    People,
    Planted,
    Reference,
    ScoredImage,
    ScoredSet,
    VolumeRules,
    find_people,
    fitted_search,
    other_proportions,
    unlike_volumes,
    volume_pairs,
)
from doppelscan.errors import InputError
from doppelscan.images import ImageSet, SliceChoice
from doppelscan.memorization import spread_over_patients
from doppelscan.progress import Work
from doppelscan.search import EmbeddedSet, EmbeddedVolumes, EmbeddingStore, VolumeSearch, part_of
from doppelscan.settings import AuditSettings
from doppelscan.verify import FullSizePair, IdenticalVoxels, VolumeRegions, VolumeRegistration
from doppelscan.workers import Workers
from doppelscan.workflows.audit import Audit, SamePixels
from doppelscan.workflows.early import EarlyReport, expected_volumes
from doppelscan.workflows.embed import RecordDataset
from doppelscan.workflows.full_size import full_size_volumes
from doppelscan.workflows.selftest import size_of
from doppelscan.workflows.stored import stored_volume_differences, stored_volumes
from doppelscan.workflows.volume_embed import VolumeEmbedder
from doppelscan.workflows.volume_selftest import COPIES, VolumePlanter, planted_volumes

__all__ = ["VolumeAudit", "audit_of", "volume_store"]

# Of training volumes, whose views the whitening is fitted with.
WHITENED = 25
# Candidates that are registered: the source was the first of all on real volumes, and each costs a tenth of a second.
CANDIDATES = 8
# Volumes of a block that one worker computes: each takes a second.
LEAST = 2


def audit_of(
    *,
    synthetic: RecordDataset,
    training: str | os.PathLike | None,
    volume_embedder: VolumeEmbedder,
    volume_registration: VolumeRegistration,
    volume_rules: VolumeRules,
    **settings: Any,
) -> Audit:
    """The audit that the sets ask for: of volumes where they hold volumes that are read whole, else of images.

    Args:
        synthetic: the synthetic set.
        training: folder, .csv or .json of the training images.
        volume_embedder: what an audit of volumes takes in place of ``evaluator``.
        volume_registration: in place of ``registration``.
        volume_rules: in place of ``rules``.
        settings: as of :class:`Audit`.

    Raises:
        InputError: as of :class:`Audit`.
    """
    if synthetic.image_set.whole_volumes:
        return VolumeAudit(
            synthetic=synthetic,
            training=training,
            embedder=volume_embedder,
            volume_registration=volume_registration,
            **{**settings, "rules": volume_rules},
        )
    return Audit(synthetic=synthetic, training=training, **settings)


def volume_store(embedder: VolumeEmbedder, folder: str | Path, poses: int) -> EmbeddingStore:
    """Where volumes in 1 or 48 axis poses lie in ``folder``."""
    return embedder.store(part_of(folder, f"volumes-{poses}"), poses)


class VolumeAudit(Audit):
    """An audit of whole volumes.

    Args:
        embedder: embeds a set into a store.
        volume_registration: verifies candidates.
        settings: as of :class:`Audit`, whose ``evaluator`` and ``registration`` are not used.

    Raises:
        InputError: also for a set of 2D images beside the synthetic volumes, and a setting that volumes do not have.
    """

    poses: ClassVar[int] = 48
    planted: ClassVar[tuple[str, ...]] = tuple(COPIES)
    weight: ClassVar[int] = 16

    def __init__(self, *, embedder: VolumeEmbedder, volume_registration: VolumeRegistration, **settings: Any) -> None:
        super().__init__(**settings)
        self.embedder, self.volume_registration = embedder, volume_registration
        for dataset in (self.training, self.holdout):
            if dataset is not None and not dataset.image_set.whole_volumes:
                raise InputError(
                    f"The '{dataset.image_set.name}' parameter must name volumes for a synthetic set of volumes. Got {_no_volumes(dataset.image_set)}, "
                    "or pass --volumes as-slices."
                )
        if self.rules.score not in ("combined", "verified"):
            raise InputError(
                f"The 'score' parameter must be combined or verified for volumes. Got {self.rules.score!r}; pass another --score, or "
                "--volumes as-slices."
            )
        if self.reconstruct is not None:
            raise InputError(
                f"The 'reconstruct' parameter must come with images. Got {os.fspath(self.reconstruct)!r} for volumes; leave it out, or pass "
                "--volumes as-slices."
            )

    def embed(self, dataset: RecordDataset, poses: int, label: str) -> EmbeddedVolumes:
        """``dataset`` in the store, in 1 or 48 axis poses.

        Raises:
            InputError: no volume of it can be read.
        """
        store = self._store_of(dataset, poses)
        found = self.embedder.embed(dataset.image_set, store, poses, label, self.workers)
        if not len(found):
            raise dataset.image_set.unreadable()
        return found

    def _workers(self, own: AuditSettings) -> Workers:
        return replace(super()._workers(own), least=LEAST)

    def _posed_training(self, training: EmbeddedSet, rows: Sequence[int]) -> EmbeddedSet:
        chosen = training.subset(rows)
        assert isinstance(chosen, EmbeddedVolumes)
        return self.embedder.posed(chosen, self._posed_store(), "training poses", self.workers)

    def _store_of(self, dataset: RecordDataset, poses: int) -> EmbeddingStore:
        return volume_store(self.embedder, self.store, poses)

    def _holds_pairs(self) -> bool:
        return len(stored_volumes(self.embedder, self.volume_registration, self.store).verified) > 0

    def _posed_store(self) -> EmbeddingStore:
        return volume_store(self.embedder, self.store, self.poses)

    def _identical(self, training: EmbeddedSet) -> SamePixels:
        assert isinstance(training, EmbeddedVolumes)
        return IdenticalVoxels(training, self.rules.identical)

    def _know_nearest(self, early: EarlyReport, images: EmbeddedSet, training: EmbeddedSet, identical: Sequence) -> None:
        """The encoder's nearest of volumes is known when they are whitened: once they are scored."""

    def _unlike(self, images: EmbeddedSet, reference: Reference, holdout: EmbeddedSet | None) -> tuple[np.ndarray, Sequence[str]]:
        assert isinstance(reference, FittedVolumes) and isinstance(images, EmbeddedVolumes) and isinstance(self.rules, VolumeRules)
        assert holdout is None or isinstance(holdout, EmbeddedVolumes)
        apart, notes = unlike_volumes(images, reference.training, self.rules, holdout)
        return apart, (*notes, *other_proportions(images, reference.training))

    def _search_notes(self, reference: Reference, planted: Sequence[Planted]) -> list[str]:
        """What was set and has no effect on volumes that are compared whole."""
        usual, choice, cut = AuditSettings, self.synthetic.slices, SliceChoice()
        rotations = tuple(self.evaluator.pose_inferer.rotations)
        asked = {
            "--rotations": rotations != tuple(usual.rotations),
            "--index ivf": self.index == "ivf",
            "--slice-axis": choice.axis != cut.axis,
            "--slice-range": (choice.start, choice.stop) != (cut.start, cut.stop),
            "--slice-step": choice.step != cut.step,
            f"--candidates above {CANDIDATES}": CANDIDATES < self.candidates != usual.candidates,
        }
        names = ", ".join(name for name, is_set in asked.items() if is_set)
        return [f"Without effect on volumes that are compared whole: {names}."] if names else []

    def _expected(self) -> dict[str, dict[str, Work]]:
        training, synthetic, holdout = (
            0 if one is None else len(one.image_set.records) for one in (self.training, self.synthetic, self.holdout)
        )
        control = max(holdout, min(self.control_size, training))
        planted = planted_volumes(self._copies(synthetic + control)) if self.self_test else 0
        return expected_volumes(training, synthetic, holdout, self.control_size, planted, self._competes())

    def _full_size(self, scored: ScoredSet, training: EmbeddedSet) -> Callable[[ScoredImage], FullSizePair | None]:
        return full_size_volumes(scored, training, self.embedder.size)

    def _search_settings(self) -> dict[str, Any]:
        """Volumes are compared with every training volume, and turned as the embedder says."""
        return {"candidates": min(self.candidates, CANDIDATES)}

    def _preparation(self) -> list:
        return self.embedder.settings()

    def _fit(self, training: EmbeddedSet, holdout: EmbeddedSet | None) -> tuple[Reference, People]:
        assert isinstance(training, EmbeddedVolumes) and (holdout is None or isinstance(holdout, EmbeddedVolumes))
        rows = self._control_rows(training)
        posed = self._posed_training(training, rows)
        chosen = spread_over_patients(training.patients, WHITENED, self.seed)
        differences = stored_volume_differences(self.embedder, training, chosen, self.store, self.seed)
        inferer = self.embedder.inferer.with_poses(1)
        like = VolumeSearch(min(self.candidates, CANDIDATES), inferer.slots, self.embedder.device)
        search = fitted_search(training, like, differences, inferer.view_weights)
        registration = stored_volumes(self.embedder, self.volume_registration, self.store)
        pairs, nearest = volume_pairs(training, holdout, search, registration, self.rules)
        people = find_people(training, holdout, pairs, nearest, self.training.image_set.patient_source, self.rules)
        assert isinstance(people.training, EmbeddedVolumes) and isinstance(posed, EmbeddedVolumes)
        posed = replace(posed, records=[people.training.records[row] for row in rows])
        weights, regions = inferer.view_weights, VolumeRegions.fitted(people.training) if self.rules.tests_regions else None
        reference = FittedVolumes(
            people.training, posed, search, differences, weights, registration, self.rules.score, self.workers, regions
        )
        return reference, people

    def _planted(self, decision: Decision, holdout: EmbeddedSet | None) -> list[Planted]:
        training = decision.training
        assert isinstance(training, EmbeddedVolumes) and (holdout is None or isinstance(holdout, EmbeddedVolumes))
        size = size_of(len(decision.images) + len(decision.control))
        planter = VolumePlanter(self.embedder, training, holdout, size, self.seed, self.declared, self.workers)
        return planter.scored(decision.synthetic.reference, self._posed_store())


def _no_volumes(image_set: ImageSet) -> str:
    """What a set holds in place of volumes, and what to give."""
    stacks = {one.volume for one in image_set.records if one.geometry is not None}
    if stacks:
        return f"{len(stacks)} stacks of thick slices, which are compared slice by slice; give volumes of thin slices"
    return f"{len(image_set.records)} 2D images; give the volumes"
