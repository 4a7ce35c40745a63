"""The search for who and what is there twice on whole volumes: the stages of :class:`OverlapRun` in 3D."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from monai.bundle import ConfigParser

from doppelscan.decide import Rules, fitted_search
from doppelscan.errors import InputError
from doppelscan.images import evenly_chosen
from doppelscan.overlap import Link, Pool, PoolSearch, VolumeLinkSearch, VolumeOverlapRules, same_voxels
from doppelscan.progress import OTHER, Work
from doppelscan.search import EmbeddedVolumes, EmbeddingStore, VolumeSearch
from doppelscan.verify import VolumeRegistration
from doppelscan.workers import Workers
from doppelscan.workflows.early import COMPARE, READ_VOLUME, REGISTER_VOLUME, VOLUME_POSES, VOLUME_VIEWS
from doppelscan.workflows.embed import RecordDataset
from doppelscan.workflows.overlap_run import OverlapRun, joined
from doppelscan.workflows.stored import stored_volume_differences, stored_volumes
from doppelscan.workflows.volume_audit import LEAST, WHITENED, volume_store
from doppelscan.workflows.volume_embed import VolumeEmbedder

__all__ = ["VolumeOverlapRun"]


class VolumeOverlapRun(OverlapRun):
    """A search over whole volumes; see :class:`OverlapRun`.

    Raises:
        InputError: also a setting that volumes do not have.
    """

    poses: ClassVar[int] = 48
    weight: ClassVar[int] = 16
    own_rules = VolumeOverlapRules

    def _configured(self, config: ConfigParser) -> Rules:
        if self.own.regions:
            raise InputError(
                "The 'regions' parameter must come with images. Got it for volumes, of which a half that agrees is found anyway; leave it out, or "
                "pass --volumes as-slices."
            )
        if self.own.index == "ivf":
            raise InputError(
                "The 'index' parameter must be auto or exact for volumes, which are searched exactly. Got ivf; leave it out, or pass --volumes as-slices."
            )
        self.embedder: VolumeEmbedder = config.get_parsed_content("volume_embedder")
        self.volume_registration: VolumeRegistration = config.get_parsed_content("volume_registration")
        return config.get_parsed_content("volume_rules")

    def _workers(self, images: int) -> Workers:
        return replace(super()._workers(images), least=LEAST)

    def _pool(self) -> Pool:
        """All sets embedded as they are searched, with the volumes that could be read, and in all axis poses from the cubes that they are there with."""
        store = volume_store(self.embedder, self.own.store_folder, 1)
        sets: list[EmbeddedVolumes] = []
        for one in self.datasets:
            sets.append(self.embedder.embed(one.image_set, store, 1, one.image_set.name, self.workers))
            if not len(sets[-1]):
                raise one.image_set.unreadable()
        images = joined(sets)
        of_set = tuple(number for number, one in enumerate(sets) for _ in range(len(one)))
        posed = self.embedder.posed(images, volume_store(self.embedder, self.own.store_folder, self.poses), "poses", self.workers)
        return Pool(images, posed, tuple(one.image_set.name for one in self.datasets), of_set)

    def _store_of(self, dataset: RecordDataset, poses: int) -> EmbeddingStore:
        return volume_store(self.embedder, self.own.store_folder, poses)

    def _holds_pairs(self) -> bool:
        return len(stored_volumes(self.embedder, self.volume_registration, self.own.store_folder).verified) > 0

    def _same(self, pool: Pool) -> list[Link]:
        return same_voxels(pool, self.rules)

    def _search(self, pool: Pool) -> PoolSearch:
        images = pool.images
        assert isinstance(images, EmbeddedVolumes)
        inferer = self.embedder.inferer.with_poses(1)
        chosen = evenly_chosen(len(images), WHITENED).tolist()
        differences = stored_volume_differences(self.embedder, images, chosen, self.own.store_folder, self.own.seed)
        like = VolumeSearch(slots=inferer.slots, device=self.embedder.device)
        registration = stored_volumes(self.embedder, self.volume_registration, self.own.store_folder)
        return VolumeLinkSearch(
            pool=pool,
            search=fitted_search(images, like, differences, inferer.view_weights),
            registration=registration,
            rules=self.rules,
            own=self.overlap_rules,
            workers=self.workers,
        )

    def _preparation(self) -> list:
        return self.embedder.settings()

    def _expected(self, images: int) -> dict[str, dict[str, Work]]:
        searched = images * len(self.datasets)
        return {
            "embed": {"embed": Work(2 * images, (READ_VOLUME + VOLUME_VIEWS + VOLUME_POSES) / 2)},
            "identical pixels": {OTHER: Work(images, COMPARE)},
            "fit": {OTHER: Work(min(images, WHITENED), VOLUME_VIEWS)},
            "verify": {"verify": Work(searched, REGISTER_VOLUME)},
            "group": {OTHER: Work(1, 1.0)},
            "report": {OTHER: Work(1, 2.0)},
        }
