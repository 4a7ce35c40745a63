"""Evaluation of an encoder: images of several sources, planted copies for every similarity, and what is written about it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.handlers import IgniteMetricHandler, from_engine
from monai.transforms import Compose

from doppelscan.calibrate import Share, area_under_curve, clopper_pearson
from doppelscan.deepssim import VERDICTS, CopyDetectionMetric, PairDataset, PairSSIM, SSIMAgreement, verdict_number
from doppelscan.errors import InputError
from doppelscan.files import to_json, write_atomic
from doppelscan.images import (
    COPY_TRANSFORMS,
    DarkSurroundd,
    PlantedCopies,
    PlantedQueries,
    SkippedImage,
    SliceChoice,
    SquareThumbnaild,
    Windowd,
    evenly_chosen,
    find_images,
    prepared,
)
from doppelscan.progress import progress
from doppelscan.report import agreement_figure, roc_figure
from doppelscan.search import Similarity
from doppelscan.wording import counted

__all__ = ["CopyDetection", "EvaluationImages", "EvaluationReport", "evaluation_pairs", "pair_head_metrics"]

logger = logging.getLogger(__name__)
# Below so many pairs a third decimal says nothing.
MANY = 100


class EvaluationImages:
    """The readable images of some sources, windowed, in memory: one slice of each volume, at most ``most`` of a source.

    Args:
        sources: one folder, .csv or .json, or several; each is a cohort of its own. None is empty, which running refuses.
        preprocessing: MONAI transform of an item {"image": paths, ...} that leaves "image" float32 [1, H, W] in [0, 1].
        patient_pattern: see :func:`doppelscan.images.find_images`.
        most: images of a source; an even choice where there are more.
        window: percentiles of a square image, as a planted copy is seen, that come to 0 and 1; 0 and 100 clip nothing.

    Attributes:
        cohorts: source name -> list of (patient, pixels float32 [H, W]).
        skipped: (path, reason) of what could not be read.
    """

    def __init__(
        self,
        sources: str | Sequence[str] | None,
        preprocessing: Any,
        patient_pattern: str | None = None,
        most: int = 400,
        window: Sequence[float] = (0.5, 99.5),
    ) -> None:
        if len(window) != 2 or not 0 <= window[0] < window[1] <= 100:
            raise InputError(
                f"The 'window' parameter must be two rising percentiles from 0 to 100. Got {list(window)!r} instead; pass [0.5, 99.5] or [0, 100]."
            )
        self.window = float(window[0]), float(window[1])
        self.surround = [one for one in getattr(preprocessing, "transforms", ()) if isinstance(one, DarkSurroundd)]
        self.cohorts: dict[str, list[tuple[str, np.ndarray]]] = {}
        self.skipped: list[tuple[str, str]] = []
        for source in [sources] if isinstance(sources, str) else sources or []:
            found = find_images(
                source, name="dataset_dir", patient_pattern=patient_pattern, slices=SliceChoice(start=0.5, stop=0.51)
            )
            self.skipped += [(s.path, s.reason) for s in found.skipped]
            images = []
            for i in evenly_chosen(len(found.records), most):
                record = found.records[i]
                made = prepared(record, preprocessing)
                if isinstance(made, SkippedImage):
                    self.skipped.append((made.path, made.reason))
                else:
                    images.append((record.patient, np.asarray(made["image"])[0]))
            name = Path(str(source)).stem
            self.cohorts[name if name not in self.cohorts else f"{name} ({len(self.cohorts) + 1})"] = images

    def require(self) -> None:
        """Raise ``InputError`` when there is nothing to evaluate on."""
        if not any(self.cohorts.values()):
            raise InputError(
                "The 'dataset_dir' parameter must be one or more folders, .csv or .json with images. Got no readable image."
            )

    def squares(self, pixels: Sequence[np.ndarray], size: int) -> torch.Tensor:
        """Whole images, windowed (a planted copy may have another one) and padded to squares: uint8 [N, 1, size, size].

        A light surround is taken off where the preprocessing does so.
        """
        prepare = Compose([*self.surround, Windowd("image", self.window[0], self.window[1]), SquareThumbnaild("image", size)])
        return torch.from_numpy(np.stack([prepare({"image": p[None]})["thumbnail"] for p in pixels]))


def evaluation_pairs(
    images: EvaluationImages,
    pairs: int = 600,
    seed: int = 0,
    spatial_size: int = 192,
    published_size: int | None = None,
    partners: EvaluationImages | None = None,
) -> PairDataset:
    """Pairs of all sources, see :class:`~doppelscan.deepssim.PairDataset`; the two of a pair are of one source.

    With ``published_size`` their SSIM is the published one, of whole images of that side. With ``partners`` that hold images, such as a generator's
    samples, the second image of each pair is one of those.
    """
    images.require()
    others = [pixels for cohort in (partners.cohorts.values() if partners else ()) for _, pixels in cohort]
    second = images.squares(others, spatial_size) if others else None
    made = [images.squares([p for _, p in cohort], spatial_size) for cohort in images.cohorts.values() if cohort]
    cohorts = [number for number, part in enumerate(made) for _ in range(len(part))]
    return PairDataset(torch.cat(made), cohorts, pairs, seed, published_size or 128, published_size is not None, second)


def pair_head_metrics(head: PairSSIM | None, metric: SSIMAgreement) -> dict[str, IgniteMetricHandler] | None:
    """Further metrics of an evaluator of pairs: ``metric``, of what ``head`` predicts; None without a head."""
    if head is None:
        return None
    # MONAI takes any Cumulative, and names one of its kinds in the type.
    return {"pair_head_mae": IgniteMetricHandler(metric_fn=metric, output_transform=from_engine(["pred", "label"]))}  # type: ignore[arg-type]


class CopyDetection:
    """Planted copies of each source, by each similarity: AUC, recall at low false positives, source accuracy, per transform.

    Args:
        images: the sources.
        similarities: name -> similarity; None entries are left out, so that a config can disable them.
        copies: copies, and novel images, of each transform and source.
        transforms: names of ``COPY_TRANSFORMS``; None for all.
        spatial_size: side of the square images that the similarities see.
        seed: of the split and the transforms.

    Attributes:
        results: source -> similarity -> transform -> the values of ``CopyDetectionMetric``, after :meth:`run`.
        intervals: source -> similarity -> transform -> "auc" and "source_accuracy" with their 95 % intervals, by patient.
        numbers: source -> copies and novel images of each transform.
        pooled: similarity -> ``CopyDetectionMetric`` over all sources and transforms.
        patients: (source, patient) of each image of these.
        seconds: similarity -> seconds it took.
    """

    def __init__(
        self,
        images: EvaluationImages,
        similarities: Mapping[str, Similarity | None],
        copies: int = 40,
        transforms: Sequence[str] | None = None,
        spatial_size: int = 256,
        seed: int = 0,
    ) -> None:
        self.images, self.copies, self.spatial_size, self.seed = images, copies, spatial_size, seed
        self.similarities = {name: s for name, s in similarities.items() if s is not None}
        self.transforms = list(transforms or COPY_TRANSFORMS)
        self.results: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
        self.intervals: dict[str, dict[str, dict[str, dict[str, Share]]]] = {}
        self.numbers: dict[str, tuple[int, int]] = {}
        self.patients: list[tuple[str, str]] = []
        self.pooled = {name: CopyDetectionMetric() for name in self.similarities}
        self.seconds = dict.fromkeys(self.similarities, 0.0)

    def run(self) -> None:
        """Measure; fills :attr:`results`."""
        self.images.require()
        with progress(None, "planted copies", "transform", total=len(self.images.cohorts) * len(self.transforms)) as bar:
            for source, images in self.images.cohorts.items():
                planted = PlantedCopies(images, self.copies, seed=self.seed)
                training = self.images.squares([p for _, p in planted.training], self.spatial_size)
                for name, similarity in self.similarities.items():
                    self._timed(name, similarity.fit, training)
                self.results[source] = {name: {} for name in self.similarities}
                self.intervals[source] = {name: {} for name in self.similarities}
                self.numbers[source] = len(planted.copied), len(planted.chosen)
                for transform in self.transforms:
                    queries = planted.queries(transform)
                    squares = self.images.squares(queries.pixels, self.spatial_size)
                    for name, similarity in self.similarities.items():
                        values = self._timed(name, similarity.similarity, squares)
                        found = self._measure(name, values, queries)
                        self.results[source][name][transform], self.intervals[source][name][transform] = found
                    self.patients += [(source, patient) for patient in queries.patients]
                    bar.update(1)

    def _timed(self, name: str, call: Any, images: torch.Tensor) -> Any:
        start = time.perf_counter()
        result = call(images)
        self.seconds[name] += time.perf_counter() - start
        return result

    def _measure(self, name: str, values: np.ndarray, queries: PlantedQueries) -> tuple[dict[str, float], dict[str, Share]]:
        sources, patients = queries.sources, np.array(queries.patients)
        own = values[np.arange(len(values)), np.maximum(sources, 0)]
        rank = (values > own[:, None]).sum(1)
        metric = CopyDetectionMetric()
        for one in (metric, self.pooled[name]):
            one(torch.from_numpy(values.max(1)), torch.from_numpy(sources >= 0), torch.from_numpy(rank))
        scores, truth = metric.scores()
        intervals = {
            "auc": area_under_curve(scores, truth, patients.tolist()),
            "source_accuracy": clopper_pearson(metric.named(), patients[truth].tolist()),
        }
        return metric.aggregate(), intervals

    def recall(self, name: str, rate: float) -> Share:
        """Share of all copies above all but ``rate`` of the novel images, pooled, with its interval by patient."""
        _, truth = self.pooled[name].scores()
        return clopper_pearson(self.pooled[name].found(rate), [one for one, copy in zip(self.patients, truth, strict=True) if copy])

    def summary(self) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        """similarity -> source (and "all", the mean and worst over sources) -> "mean" and "worst" over transforms -> value."""
        table: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
        for name in self.similarities:
            table[name] = {}
            for source, result in self.results.items():
                rows = list(result[name].values())
                table[name][source] = {
                    kind: {key: float(reduce([row[key] for row in rows])) for key in rows[0]}
                    for kind, reduce in (("mean", np.mean), ("worst", np.min))
                }
            table[name]["all"] = {
                kind: {key: float(reduce([part[kind][key] for part in table[name].values()])) for key in rows[0]}
                for kind, reduce in (("mean", np.mean), ("worst", np.min))
            }
        return table


class EvaluationReport:
    """Writes ``evaluation.json`` (all numbers), ``evaluation.md`` (tables), ``agreement.png`` and ``roc.png``.

    Args:
        output_dir: where to.
        agreement: title -> metric of the pairs, such as aligned and misaligned; one that never ran is left out.
        detection: the planted copies, after it ran.
    """

    def __init__(self, output_dir: str | os.PathLike, agreement: Mapping[str, SSIMAgreement], detection: CopyDetection) -> None:
        self.output_dir, self.agreement, self.detection = Path(output_dir), agreement, detection

    def write(self) -> None:
        """Write the files; the folder is made."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        ran = {title: metric for title, metric in self.agreement.items() if metric.result}
        agreement = {title: metric.result for title, metric in ran.items()}
        detection = self.detection
        pooled = {name: metric.aggregate() for name, metric in detection.pooled.items()}
        content = {
            "agreement": agreement,
            "detection": detection.results,
            "summary": detection.summary(),
            "intervals": {
                source: {
                    name: {t: {key: [one.lower, one.upper] for key, one in row.items()} for t, row in rows.items()}
                    for name, rows in part.items()
                }
                for source, part in detection.intervals.items()
            },
            "copies_and_novel": detection.numbers,
            "pooled": pooled,
            "seconds": {name: round(value, 2) for name, value in detection.seconds.items()},
            "images": {source: len(images) for source, images in detection.images.cohorts.items()},
            "skipped": len(detection.images.skipped),
        }
        write_atomic(self.output_dir / "evaluation.json", to_json(content))
        write_atomic(self.output_dir / "evaluation.md", self._tables(agreement, pooled))
        agreement_figure({title: metric.pairs for title, metric in ran.items()}, self.output_dir / "agreement.png")
        roc_figure({name: metric.scores() for name, metric in detection.pooled.items()}, self.output_dir / "roc.png")
        for title, values in agreement.items():
            pairs = counted(len(ran[title].pairs), "pair")
            logger.info(
                f"{title}, {pairs}: MAE {values['mae']:.3f}, Pearson {values['pearson']:.3f}, macro F1 {values['macro_f1']:.3f}."
            )
        for name, table in detection.summary().items():
            logger.info(f"{name}: AUC {table['all']['mean']['auc']:.3f} in the mean, {table['all']['worst']['auc']:.3f} at worst.")
        logger.info(f"Tables are in {self.output_dir / 'evaluation.md'}, all numbers in {self.output_dir / 'evaluation.json'}.")

    def _tables(self, agreement: Mapping[str, Mapping[str, float]], pooled: Mapping[str, Mapping[str, float]]) -> str:
        detection = self.detection
        names, summary = list(detection.similarities), detection.summary()
        lines = ["# Evaluation", "", "## Agreement with the SSIM of the registered pair", ""]
        lines += [
            "Precision and recall with their number and exact 95 % interval, each pair counted as one; pairs share images, so true intervals are wider.",
            "",
        ]
        columns = [_agreement_rows(values, self.agreement[title].pairs) for title, values in agreement.items()]
        lines += [f"| | {' | '.join(agreement)} |", "|---" * (len(agreement) + 1) + "|"]
        lines += [f"| {key} | {' | '.join(column[key] for column in columns)} |" for key in (columns[0] if columns else ())]
        lines += ["", "## Planted copies: mean over transforms (worst transform)", ""]
        planted = "; ".join(
            f"{source} {copies} copies, {novel} novel images" for source, (copies, novel) in detection.numbers.items()
        )
        lines += [
            f"{counted(len(detection.transforms), 'transform')}, of each: {planted}. In brackets of pooled values the exact 95 % interval by patient.",
            "",
        ]
        lines += ["| AUC | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        digits = 3 if min((sum(one) for one in detection.numbers.values()), default=0) >= MANY else 2
        for source in [*detection.results, "all"]:
            cells = [
                f"{summary[n][source]['mean']['auc']:.{digits}f} ({summary[n][source]['worst']['auc']:.{digits}f})" for n in names
            ]
            lines.append(f"| {source} | " + " | ".join(cells) + " |")
        for key in ("recall_at_1pc", "source_accuracy", "source_in_20"):
            cells = [f"{summary[n]['all']['mean'][key]:.{digits}f} ({summary[n]['all']['worst'][key]:.{digits}f})" for n in names]
            lines.append(f"| {key.replace('_', ' ')} | " + " | ".join(cells) + " |")
        for key, rate in (("recall at 1pc", 0.01), ("recall at 0.1pc", 0.001)):
            lines.append(f"| pooled {key} | " + " | ".join(_share_words(detection.recall(n, rate)) for n in names) + " |")
        for source, result in detection.intervals.items():
            lines += ["", f"## {source}: AUC; copies whose source is named, each with its 95 % interval by patient", ""]
            lines += ["| transform | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
            for transform in detection.transforms:
                both = [(result[n][transform]["auc"], result[n][transform]["source_accuracy"]) for n in names]
                cells = [f"{auc.share:.2f} ({auc.lower:.2f}-{auc.upper:.2f}); {_share_words(named)}" for auc, named in both]
                lines.append(f"| {transform} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"


def _share_words(one: Share) -> str:
    """For example ``3 of 3 (0.29-1.00)``."""
    return f"{one.count} of {one.total} ({one.lower:.2f}-{one.upper:.2f})" if one.total else "0 of 0"


def _agreement_rows(values: Mapping[str, float], pairs: np.ndarray) -> dict[str, str]:
    """Name -> what the table says of it, of the values of ``SSIMAgreement`` and its pairs, predicted and true [n, 2]."""
    digits = 3 if len(pairs) >= MANY else 2
    found, truth = verdict_number(pairs.T.astype(np.float64))
    rows = {"pairs": str(len(pairs))}
    for key in ("mae", "bias", "pearson", "spearman", "macro_f1", "silhouette"):
        rows[key] = f"{round(values[key], digits) + 0.0:.{digits}f}"  # no minus before 0
    for number, name in enumerate(VERDICTS):
        rows[f"precision {name}"] = _share_words(clopper_pearson(truth[found == number] == number))
        rows[f"recall {name}"] = _share_words(clopper_pearson(found[truth == number] == number))
    return rows
