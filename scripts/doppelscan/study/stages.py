"""The stages of a condition: train, audit what was missed, sample, audit, filter and audit again. Each goes on where it was."""

from __future__ import annotations

import csv
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from monai.bundle import ConfigWorkflow

from doppelscan.errors import InputError
from doppelscan.files import to_csv, write_atomic
from doppelscan.generate import MANIFEST, Sampler, SeededSamples, load_generator
from doppelscan.locations import audit_root, is_finished
from doppelscan.study.conditions import StudyCondition, StudySizes
from doppelscan.study.measures import SampleNumbers, read_audit, sample_rows
from doppelscan.study.sets import StudySets, require_same
from doppelscan.workflows import SampleAudit, audit
from doppelscan.workflows.errors import told_in_one_line
from doppelscan.workflows.run import quiet

__all__ = ["Bench", "ConditionResult", "TrainedGenerator", "require_same_condition", "study_condition", "train_autoencoder"]

logger = logging.getLogger(__name__)
# The samples of a finished generator are of other seeds than those by which its training was stopped.
FIRST_SEED = 10_000


@dataclass(frozen=True)
class Bench:
    """What all conditions share.

    Attributes:
        sets: the images.
        folder: of the study.
        sizes: of trainings, samples and audits.
        autoencoder_configs, diffusion_configs: names in configs/generator, or paths; later ones override earlier ones.
        device: that computes.
    """

    sets: StudySets
    folder: Path
    sizes: StudySizes
    autoencoder_configs: Sequence[str]
    diffusion_configs: Sequence[str]
    device: str

    @property
    def autoencoder(self) -> Path:
        """File of the one autoencoder."""
        return self.folder / "autoencoder" / "autoencoder.pt"

    @property
    def store(self) -> Path:
        """Embeddings of all audits: an image is embedded once."""
        return self.folder / "store"

    def training(self, condition: StudyCondition) -> Path:
        """Table of what a condition is trained on."""
        return self.sets.all if condition.patients == "all" else self.sets.some

    def place(self, condition: StudyCondition) -> Path:
        """Folder of a condition."""
        return self.folder / "conditions" / condition.name


@dataclass(frozen=True)
class TrainedGenerator:
    """A training that ended.

    Attributes:
        weights: file that is sampled.
        step: training steps behind it.
        last_epoch: with which the training ended.
        seconds: of the run that ended it.
        note: why other weights than the last are sampled, or "".
    """

    weights: str
    step: int
    last_epoch: int
    seconds: float
    note: str


@dataclass(frozen=True)
class ConditionResult:
    """A condition with its audits.

    Attributes:
        condition: what was trained.
        trained: how that ended.
        audit: of the samples of the finished generator.
        curve: audits while it trained, by their step.
        filtered: of the samples that the first audit did not flag; None where that is not asked for or nothing was flagged.
        missed: why there is no audit of a checkpoint, epoch -> reason.
    """

    condition: StudyCondition
    trained: TrainedGenerator
    audit: SampleNumbers
    curve: tuple[SampleNumbers, ...]
    filtered: SampleNumbers | None
    missed: Mapping[int, str]


def _run_configs(names: Sequence[str], **settings: Any) -> None:
    """Run configs of a generator in this process, with ``settings`` by their ids."""
    folder = Path(audit_root()) / "configs" / "generator"
    files = [str(name if os.path.isfile(name) else folder / name) for name in names]
    missing = [name for name in files if not os.path.isfile(name)]
    if missing:
        raise InputError(
            f"A config of the study must be a name in {str(folder)!r}, or a path. Got {missing[0]!r}, which does not exist."
        )
    with told_in_one_line():
        with quiet():  # that the logging of the study is not changed is no news
            workflow = ConfigWorkflow(
                files, workflow_type="train", logging_file=False, meta_file=str(folder / "metadata.json"), **settings
            )
        workflow.initialize()
        workflow.run()


def train_autoencoder(bench: Bench, spatial_size: int) -> None:
    """Train the autoencoder of all conditions on the training images of all of them, unless that was done; killed, it goes on where it was."""
    folder, sizes = bench.autoencoder.parent, bench.sizes
    settings = {"spatial_size": spatial_size, "max_epochs": sizes.autoencoder_epochs, "batches": sizes.autoencoder_batches}
    require_same(folder / "settings.json", {**settings, "configs": [*map(str, bench.autoencoder_configs)]}, "autoencoder")
    done = folder / "trained.json"
    if done.is_file():
        return
    start = time.perf_counter()
    # Of all training patients: a condition's own autoencoder would be one more thing that differs.
    _run_configs(
        bench.autoencoder_configs, **settings, dataset_dir=str(bench.sets.all), validation_dir=str(bench.sets.holdout), output_dir=str(folder),
        seed=sizes.seed, device=bench.device,
    )  # fmt: skip
    write_atomic(done, json.dumps({"seconds": round(time.perf_counter() - start, 1)}))


def study_condition(bench: Bench, condition: StudyCondition) -> ConditionResult:
    """Every stage of ``condition``; those that are done are read."""
    require_same_condition(bench, condition)
    place = bench.place(condition)
    trained = _trained(bench, condition)
    curve, missed = _curve(bench, condition, trained)
    trained = _released(bench, condition, trained, curve)
    manifest = _sampled(bench, trained, place / "samples")
    table = place / "generator" / "training_images.csv"
    numbers = read_audit(_audited(bench, table, manifest, place / "audit", bench.sizes.self_test), table, trained.step)
    return ConditionResult(
        condition, trained, numbers, tuple(curve), _filtered(bench, place, table, trained) if condition.filtered else None, missed
    )


def require_same_condition(bench: Bench, condition: StudyCondition) -> None:
    """Refuse to go on with a condition that was started with other settings.

    Raises:
        InputError: the first that differs.
    """
    settings = {**asdict(condition), **asdict(bench.sizes), "configs": [*map(str, bench.diffusion_configs)]}
    # These tell what is done with samples, and may be asked for later.
    for later in ("filtered", "self_test", "autoencoder_epochs", "autoencoder_batches"):
        settings.pop(later)
    require_same(bench.place(condition) / "settings.json", settings, f"condition {condition.name!r}")


def _trained(bench: Bench, condition: StudyCondition) -> TrainedGenerator:
    folder, sizes = bench.place(condition) / "generator", bench.sizes
    done = folder / "trained.json"
    if not done.is_file():
        start = time.perf_counter()
        # generator.pt is then the best one; checkpoints.json keeps the others, too, for the curve.
        stopping = ["early_stop.json", "checkpoints.json"] if condition.stop == "validation" else []
        configs = [*bench.diffusion_configs, "audited.json", *stopping]
        settings: dict[str, Any] = {
            "autoencoder": str(bench.autoencoder),
            "dataset_dir": str(bench.training(condition)),
            "holdout_dir": str(bench.sets.holdout),
            "output_dir": str(folder),
            "duplication": condition.duplication,
            "conditioning": condition.conditioning,
            "condition_columns": None if condition.condition_columns is None else list(condition.condition_columns),
            "max_epochs": sizes.max_epochs,
            "batches": sizes.batches,
            "batch_size": sizes.batch_size,
            "snapshots": sizes.audit_interval,
            "audit_interval": sizes.audit_interval,
            "audit_count": sizes.audit_count,
            "audit_samples::sampler::steps": sizes.sampling_steps,
            "train::named_handlers::audit::store": str(bench.store),
            "seed": sizes.seed,
            "device": bench.device,
        }
        if condition.stop == "validation":
            settings |= {"validation_dir": str(bench.sets.holdout), "patience": sizes.patience}
        if condition.stop == "audit":
            settings |= {"stop_when": sizes.stop_when}
        _run_configs(configs, **settings)
        weights = folder / "generator.pt"
        kept = TrainedGenerator(
            "generator.pt", load_generator(weights).step, _last_epoch(folder), round(time.perf_counter() - start, 1), ""
        )
        write_atomic(done, json.dumps(asdict(kept), indent=1))
        for one in folder.glob("training_*.pt"):  # half of what a condition takes, and of no use to a training that ended
            one.unlink()
    return TrainedGenerator(**json.loads(done.read_text()))


def _last_epoch(folder: Path) -> int:
    return max(int(one.stem.rpartition("_")[2]) for one in folder.glob("training_*.pt") if one.stem.rpartition("_")[2].isdigit())


def _snapshot(folder: Path, epoch: int) -> Path:
    return next(one for one in (folder / f"{name}_{epoch:04d}.pt" for name in ("generator", "last")) if one.is_file())


def _curve(bench: Bench, condition: StudyCondition, trained: TrainedGenerator) -> tuple[list[SampleNumbers], dict[int, str]]:
    """The audits that :class:`~doppelscan.workflows.SampleAudit` made while the generator trained, by their step.

    One that a kill interrupted is made now, of the snapshot of its epoch and the same seeds.
    """
    folder, sizes = bench.place(condition) / "generator", bench.sizes
    found, missed = [], {}
    for epoch in range(sizes.audit_interval, trained.last_epoch + 1, sizes.audit_interval):
        place = folder / "audits" / f"epoch_{epoch:04d}"
        if not is_finished(place):
            sampler = Sampler(load_generator(_snapshot(folder, epoch), bench.device), sizes.sampling_steps)
            engine = Engine(lambda engine, batch: None)
            engine.state.epoch = epoch
            SampleAudit(
                bench.training(condition),
                SeededSamples(sampler, sizes.audit_count),
                folder / "audits",
                bench.sets.holdout,
                store=bench.store,
            )(engine)
        if is_finished(place):
            found.append(read_audit(place, bench.training(condition), epoch * sizes.batches))
        else:
            missed[epoch] = "its samples could not be audited"
    return found, missed


def _released(
    bench: Bench, condition: StudyCondition, trained: TrainedGenerator, curve: Sequence[SampleNumbers]
) -> TrainedGenerator:
    """The weights that are sampled: those before the audit that ended the training, where one did."""
    if condition.stop != "audit":
        return trained
    above = [one.step for one in curve if one.flagged.count and one.flagged.upper > bench.sizes.stop_when]
    if not above:
        return replace(trained, note=f"no audit was above {bench.sizes.stop_when:g}")
    before = [one.step for one in curve if one.step < above[0]]
    step = before[-1] if before else above[0]
    said = f"the audit at step {above[0]} ended it" + ("" if before else ", the first one: there is no earlier checkpoint")
    weights = _snapshot(bench.place(condition) / "generator", step // bench.sizes.batches)
    return replace(trained, weights=weights.name, step=step, note=said)


def _sampled(bench: Bench, trained: TrainedGenerator, output: Path) -> Path:
    manifest = output / MANIFEST
    if manifest.is_file():
        with open(manifest, newline="", encoding="utf-8") as file:
            if sum(1 for _ in csv.DictReader(file)) >= bench.sizes.samples:
                return manifest
    sampler = Sampler(load_generator(output.parent / "generator" / trained.weights, bench.device), bench.sizes.sampling_steps)
    return sampler.write(output, bench.sizes.samples, FIRST_SEED)


def _audited(bench: Bench, training: Path, samples: Path, output: Path, self_test: bool) -> Path:
    if not is_finished(output):
        audit(
            training=training, synthetic=samples, holdout=bench.sets.holdout, output=output, store=bench.store, self_test=self_test,
            device=bench.device,
        )  # fmt: skip
    return output


def _filtered(bench: Bench, place: Path, training: Path, trained: TrainedGenerator) -> SampleNumbers | None:
    """The audit of what is left of the samples when those that the first one flagged are taken out."""
    rows = sample_rows(place / "audit")
    left = [{"path": row["image"]} for row in rows if row["flagged"] != "true"]
    if len(left) in (0, len(rows)):
        return None
    table = place / "filtered.csv"
    write_atomic(table, to_csv(("path",), left))
    return read_audit(_audited(bench, training, table, place / "audit-filtered", False), training, trained.step)
