"""Records of a decision made by hand, in the shape in which an audit makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from doppelscan.decide import (
    KINDS,
    AuditedImage,
    AuditSummary,
    Calibration,
    Conclusion,
    Decision,
    Finding,
    FittedReference,
    Flag,
    LeftOut,
    NearDuplicate,
    Reason,
    Rule,
    Rules,
    ScoredControl,
    ScoredImage,
    ScoredSet,
    Verdict,
    summarize,
)
from doppelscan.images import ImageRecord
from doppelscan.search import EmbeddedSet, content_of
from doppelscan.verify import AlignedPair, Pose

BY_RATE = Reason(Rule.RATE, 0.02, 0.05)
BY_REGION = Reason(Rule.REGION_RATE, 0.02, 0.05)


class MadeStore:
    """What is read of an embedding store: thumbnails of ``cohort`` by turns, native shapes of 256 x 256, image i at i / 10 radians."""

    def __init__(self, cohort: np.ndarray | None = None) -> None:
        small = torch.zeros(1, 1, 128, 128) if cohort is None else torch.from_numpy(cohort)[:, None] * 255
        self.pixels = torch.nn.functional.interpolate(small, (128, 128)).to(torch.uint8).numpy()

    def read(self, keys: Sequence[str], names: Sequence[str], keep: bool = False) -> dict[str, np.ndarray]:
        rows = [int(key.rpartition("/")[2]) % len(self.pixels) for key in keys]
        angle = np.array([int(key.rpartition("/")[2]) for key in keys], np.float32) / 10
        direction = np.stack([np.cos(angle), np.sin(angle)], 1)
        shapes = np.full((len(keys), 2), 256, np.int32)
        return {
            "thumbnail": self.pixels[rows],
            "native_shape": shapes,
            "content": np.array([content_of(*image) for image in zip(self.pixels[rows], shapes, strict=True)]).reshape(-1, 32),
            "deepssim": direction[:, None],
            "embedding": direction[:, None],
        }


def made_set(
    name: str, count: int, cohort: np.ndarray | None = None, patients: Sequence[str] | None = None, whole: bool = False
) -> EmbeddedSet:
    """``count`` images, or volumes that are ``whole``, each of a patient of its own unless ``patients`` names them."""
    names = patients or [f"{name}-patient{i}" for i in range(count)]
    paths = [f"{name}/{i}.png" for i in range(count)]
    records = [ImageRecord(path, (path,), path, patient, whole=whole) for path, patient in zip(paths, names, strict=True)]
    store: Any = MadeStore(cohort)
    return EmbeddedSet(records, [f"{name}/{i}" for i in range(count)], store, {"deepssim": slice(0, 2), "embedding": slice(2, 4)})


def made_score(row: int = 0, score: float = 0.3, **values: Any) -> ScoredImage:
    """An image that agrees with training image ``row`` by ``score``, in everything unless ``values`` says otherwise."""
    every = {
        "row": row, "match": row, "pose": Pose(), "score": score, "deepssim": score, "embedding": score, "similarity": score, "mi": 0.0,
        "oni": 0.0, "consensus": 1, "ssim": score, "detail": score, "agreement": score, "share": score, "part": score, "part_match": row,
        "part_share": 0.1, "part_mirrored": False, "runner_up": 0.1,
    }  # fmt: skip
    return ScoredImage(**{**every, **values})


def _half_explained(queries, rows, training, matches, poses, descriptor) -> list[SimpleNamespace]:
    """No pair is the same image."""
    return [SimpleNamespace(explained=0.5, fine=0.5) for _ in rows]


def made_reference(training: EmbeddedSet) -> FittedReference:
    nothing: Any = SimpleNamespace(
        whitened=lambda values: values, patches=SimpleNamespace(descriptor=None), aligned=_half_explained
    )
    return FittedReference(training, training, nothing, {}, nothing, nothing)


def made_decision(
    flagged: int, total: int | None = None, cohort: np.ndarray | None = None, training: int = 40, whole: bool = False
) -> Decision:
    """The first ``flagged`` of ``total`` images, or ``whole`` volumes, are findings of each kind in turn; 30 controls, two near duplicates."""
    total = total or flagged + 5
    source, made, people = (
        made_set("training", training, cohort, whole=whole),
        made_set("synthetic", total, cohort, whole=whole),
        made_set("control", 30, cohort, whole=whole),
    )
    reference = made_reference(source)

    def scored(row: int, score: float) -> ScoredImage:
        pose = Pose(row % 2 == 1, 0, 3.0)
        return made_score(row, score, match=row % training, pose=pose, part=0.99, part_match=1, part_share=0.3)

    images = []
    for i in range(total):
        kind = KINDS[i % len(KINDS)]
        reason = BY_REGION if kind == "part" else BY_RATE
        second = 2 if kind == "blend" else None
        finding = Finding(kind, reason, 0.98, second, 0.3) if i < flagged else None
        said = Flag(0.01, 0.02, 0.01, 0.02, reason) if i < flagged else Flag(0.5, 0.6, 0.5, 0.6)
        one = scored(i, 1.0 if i < flagged else 0.3)
        images.append(
            AuditedImage(
                made.records[i],
                (256, 256),
                one,
                source.records[one.match],
                source.records[1],
                said,
                finding,
                source.records[2] if finding is not None and second is not None else None,
            )
        )
    strangers = tuple(scored(i, 0.2 + 0.001 * i) for i in range(30))
    rule = Calibration.on(strangers, people.patients, np.full(30, np.nan), 1.0, Rules())
    verdict = Verdict.FOUND if flagged else Verdict.NOT_FOUND
    return Decision(
        ScoredSet(made, tuple(one.scored for one in images), reference),
        ScoredControl(people, strangers, 1.0),
        tuple(images),
        tuple(
            AuditedImage(people.records[s.row], (256, 256), s, source.records[s.match], source.records[1], Flag(0.5, float("nan")))
            for s in strangers
        ),
        (rule,),
        (False,) * len(strangers),
        0,
        flagged,
        (
            NearDuplicate(True, people.records[3], source.records[4], 0.8),
            NearDuplicate(False, source.records[5], source.records[6], 0.75),
        ),
        None,
        Conclusion(verdict, "because"),
    )


def made_unnamed(decision: Decision) -> Decision:
    """``decision`` where nothing names the patients of training set and control."""

    def without(images: EmbeddedSet) -> EmbeddedSet:
        return replace(images, records=[replace(record, patient_known=False) for record in images.records])

    training, control = without(decision.training), without(decision.control_set.images)
    images = [
        replace(
            one,
            match=training.records[one.scored.match],
            part_match=training.records[1],
            second_match=None if one.second_match is None else training.records[2],
        )
        for one in decision.images
    ]
    return replace(
        decision,
        synthetic=replace(decision.synthetic, reference=made_reference(training)),
        control_set=replace(decision.control_set, images=control),
        images=tuple(images),
    )


def made_pair(scored: ScoredImage) -> AlignedPair:
    """What a registration would give: grey all over."""
    grey, nowhere = np.full((128, 128), 0.5, np.float32), np.full((128, 128), np.nan, np.float32)
    return AlignedPair(grey, np.ones_like(grey), 0.99, False, 0.99, np.ones(81), np.ones(81, bool), nowhere, grey)


def made_summary(decision: Decision, **changed: Any) -> AuditSummary:
    """The summary of a decision, with one image left out and a note that holds markup."""
    given: dict[str, Any] = {
        "patient_source": "column",
        "people": [],
        "notes": ["A note with <b>markup</b>."],
        "skipped": [LeftOut("synthetic", "synthetic/<bad>.png", "truncated")],
        "settings": {"seed": 0, "candidates": 20},
        "weights_sha256": "0" * 64,
        "versions": {"doppelscan": "0", "monai": "1", "torch": "2"},
        "seconds": {"fit": 1.0},
    }
    return summarize(decision, Rules(), **{**given, **changed})
