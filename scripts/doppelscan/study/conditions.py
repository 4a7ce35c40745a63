"""What a case study compares: conditions of a training, its sizes, and remedies."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from doppelscan.arguments import Conditioning, Count, Duplication, Flag, Must, Rate, Text, Whole, check_fields
from doppelscan.errors import InputError

__all__ = ["FILTERED", "Remedy", "StudyCondition", "StudySizes"]

# What a remedy names the samples of a condition by, without those that the audit flagged.
FILTERED = "filtered"


def _columns(value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else list(value)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError
    return tuple(names)


def _name(value: str) -> str:
    # It names a folder, too.
    if not value.replace("-", "").isalnum() or not value.isascii() or value == FILTERED:
        raise ValueError
    return value


Name = Annotated[Any, Must(f"letters, digits and hyphens, and not {FILTERED}", _name)]
Columns = Annotated[Any, Must("a column, or a list of columns", _columns)]
Patients = Annotated[Literal["some", "all"], Must("some or all")]
Stop = Annotated[Literal["none", "validation", "audit"], Must("none, validation or audit")]


@dataclass(frozen=True, kw_only=True)
class StudyCondition:
    """One training of the study.

    Args:
        name: of its folder, and in the page.
        duplication: see :func:`~doppelscan.generate.draw_repeats`.
        patients: ``some`` of the training patients, or ``all``: more data.
        conditioning: see :func:`~doppelscan.generate.fit_condition`.
        condition_columns: of the table; a conditional one without is left out of the study.
        stop: ``none`` trains to the last epoch; ``validation`` keeps the weights of the least loss on other people; ``audit`` stops by
            ``stop_when`` of :class:`~doppelscan.workflows.SampleAudit` and keeps the last weights before.
        filtered: audit its samples once more without those that the first audit flagged.

    Raises:
        InputError: one of them is something else; one line.
    """

    name: Name
    duplication: Duplication = "none"
    patients: Patients = "some"
    conditioning: Conditioning = "none"
    condition_columns: Columns | None = None
    stop: Stop = "none"
    filtered: Flag = False

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def left_out(self) -> str | None:
        """Why it cannot be studied, or None."""
        if self.conditioning == "none" or self.condition_columns is not None:
            return None
        return f"no column for {self.conditioning} was named"

    def require_columns(self, known: Collection[str]) -> None:
        """Refuse columns that the table does not have, before anything is trained.

        Raises:
            InputError: with those that it has.
        """
        missing = [name for name in self.condition_columns or () if name not in known]
        if missing and self.conditioning != "none":
            raise InputError(
                f"The condition {self.name!r} must name columns of the table. Got {missing[0]!r}; known are {', '.join(sorted(known)) or 'none'}."
            )


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A comparison of two conditions, or of one with its filtered samples.

    Args:
        name: in words.
        before: name of a condition.
        after: name of a condition, or ``filtered``.
    """

    name: Text
    before: Name
    after: Text

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class StudySizes:
    """Sizes of all trainings, samples and audits.

    Args:
        autoencoder_epochs: of the autoencoder's training.
        autoencoder_batches: of each of these.
        max_epochs: of each generator's training.
        batches: steps of each of these.
        batch_size: images of a step.
        patience: epochs without improvement that end a training that is stopped by its validation.
        audit_interval: epochs between audits while a generator trains; their samples are of the same seeds.
        audit_count: samples of each of these.
        stop_when: upper 95 % bound of the flagged share that ends a training that is stopped by its audit.
        samples: of each finished generator, of other seeds.
        sampling_steps: of DDIM.
        self_test: plant copies in the audit of each finished generator, and say what would have been found.
        seed: of the split, the duplication, the trainings and the audits.
    """

    autoencoder_epochs: Count = 40
    autoencoder_batches: Count = 50
    max_epochs: Count = 60
    batches: Count = 100
    batch_size: Count = 16
    patience: Count = 10
    audit_interval: Count = 10
    audit_count: Count = 50
    stop_when: Rate = 0.2
    samples: Count = 200
    sampling_steps: Count = 50
    self_test: Flag = True
    seed: Whole = 20260212

    def __post_init__(self) -> None:
        check_fields(self)
