"""What is known before an audit has concluded: the same pixels, the nearest training images, then every synthetic image ranked by its score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from doppelscan.decide.reference import ScoredSet
from doppelscan.decide.sampled import sample_words
from doppelscan.decide.scoring import ScoredImage
from doppelscan.decide.summary import LeftOut, plain
from doppelscan.images import DrawnSample, ImageRecord, evenly_chosen
from doppelscan.locations import NOT_FINISHED
from doppelscan.memorization import Nearest, kept, nearest_rows
from doppelscan.search import EmbeddedSet, StoredFeatures
from doppelscan.verify import IdenticalImage, Pose

__all__ = ["FirstMatch", "Preliminary", "PreliminarySummary", "nearest_by_encoder", "ranked_so_far", "summarize_preliminary"]

QUERIES, COMPARED = 2048, 8192
NEAREST = "the same pixels and the nearest training image by the encoder alone"
RANKED = "the same pixels, and every synthetic image registered to its nearest training images and ranked by its score"
HEAD = "deepssim"  # a cosine that means in the end what it means now; the embedding's is whitened later


@dataclass(frozen=True)
class FirstMatch:
    """One synthetic image so far.

    Attributes:
        row: its row in the set.
        record: the image.
        shape: native height and width in pixels, or voxels along x, y and z.
        match: row of the training image that is most like it so far; of the same pixels, that one.
        match_record: that training image.
        deepssim: the encoder's cosine with it, best of 8 poses; NaN where the pixels named it and not the encoder.
        identical: the training image of the same pixels, or None.
        scored: its measures, or None where it was not registered yet.
    """

    row: int
    record: ImageRecord
    shape: tuple[int, ...]
    match: int
    match_record: ImageRecord
    deepssim: float
    identical: IdenticalImage | None = None
    scored: ScoredImage | None = None

    @property
    def pose(self) -> Pose | None:
        """What maps the match on the image, where that is known."""
        if self.identical is not None:
            return self.identical.mapped
        return None if self.scored is None else self.scored.pose

    @property
    def likeness(self) -> tuple[bool, float]:
        """What ranks so far: the same pixels first, then the score, or the encoder's cosine where there is none."""
        return self.identical is not None, self.deepssim if self.scored is None else self.scored.score


@dataclass(frozen=True)
class Preliminary:
    """What is known so far.

    Attributes:
        synthetic: the synthetic set.
        training: the training set.
        known: what it rests on, in words.
        images: one entry a synthetic image.
    """

    synthetic: EmbeddedSet
    training: EmbeddedSet
    known: str
    images: tuple[FirstMatch, ...]

    @property
    def identical(self) -> int:
        """Number of synthetic images that have the pixels of a training image."""
        return sum(one.identical is not None for one in self.images)


def nearest_by_encoder(synthetic: EmbeddedSet, training: EmbeddedSet, identical: Sequence[IdenticalImage | None]) -> Preliminary:
    """The nearest training image of each synthetic one by the encoder, exact, in the 8 flips and quarter turns.

    Of more than :data:`COMPARED` training images so many, evenly spread, are compared, as ``known`` then says: a first answer is to cost the same however
    many there are.

    Args:
        synthetic: in 8 poses.
        training: in one.
        identical: the training image of the same pixels, or None, of each synthetic image.
    """
    chosen = evenly_chosen(len(training), COMPARED)
    some = training if len(chosen) == len(training) else training.subset(chosen.tolist())
    known = NEAREST if some is training else f"{NEAREST}, of {len(some):,} of the {len(training):,} training images"
    reference = kept(StoredFeatures.of(some, as_they_are=[HEAD], names=[HEAD])[HEAD], unit=True)
    nearest = Nearest.joined(
        [nearest_rows(synthetic.features(block, [HEAD])[HEAD], reference, 1) for block in synthetic.blocks(QUERIES)]
    )
    similarity, rows = nearest.similarity[:, 0], chosen[nearest.rows[:, 0]]
    images = []
    for row, (same, shape) in enumerate(zip(identical, synthetic.native_shapes(range(len(synthetic))), strict=True)):
        match = int(rows[row]) if same is None else same.row
        value = float(similarity[row]) if match == rows[row] else float("nan")
        images.append(
            FirstMatch(row, synthetic.records[row], (int(shape[0]), int(shape[1])), match, training.records[match], value, same)
        )
    return Preliminary(synthetic, training, known, tuple(images))


def ranked_so_far(synthetic: ScoredSet, identical: Sequence[IdenticalImage | None]) -> Preliminary:
    """Every synthetic image with its score; nothing is calibrated yet.

    Args:
        synthetic: the set, scored.
        identical: the training image of the same pixels, or None, of each synthetic image.
    """
    images, training = synthetic.images, synthetic.training
    shapes = images.native_shapes([one.row for one in synthetic.scored])
    found = []
    for one, shape in zip(synthetic.scored, shapes, strict=True):
        same = identical[one.row]
        match = one.match if same is None else same.row
        # What was measured of another pair does not hold of the one of the same pixels.
        scored = one if match == one.match else None
        value = one.deepssim if match == one.match else float("nan")
        found.append(
            FirstMatch(
                one.row,
                images.records[one.row],
                tuple(map(int, shape)),
                match,
                training.records[match],
                value,
                same,
                scored,
            )
        )
    return Preliminary(images, training, RANKED, tuple(found))


@dataclass(frozen=True)
class PreliminarySummary:
    """What summary.json holds until the audit has concluded.

    Attributes:
        conclusion: "not finished", which is none.
        reason: what that means, in a sentence.
        known: what the tables rest on so far.
        written: when, by the clock of the machine.
        ends: when the audit is expected to end.
        to_come: stage -> seconds that it is expected to take.
        images: numbers of images: training, synthetic, skipped, and those with the pixels of a training image.
        sample: how much of the synthetic set was drawn, or None where it is whole.
        skipped: what was left out so far.
        settings, weights_sha256, versions: as in the summary of a finished audit.
        seconds: of the stages so far.
    """

    conclusion: str
    reason: str
    known: str
    written: str
    ends: str
    to_come: Mapping[str, float]
    images: Mapping[str, int]
    sample: DrawnSample | None
    skipped: Sequence[LeftOut]
    settings: Mapping[str, object]
    weights_sha256: str
    versions: Mapping[str, str]
    seconds: Mapping[str, float]

    def as_dict(self) -> dict[str, object]:
        """Plain dictionaries and lists, in the order of the file; ``sample`` is there where one is audited."""
        return plain(self)


def summarize_preliminary(
    found: Preliminary,
    *,
    written: str,
    ends: str,
    to_come: Mapping[str, float],
    sample: DrawnSample | None,
    skipped: Sequence[LeftOut],
    settings: Mapping[str, object],
    weights_sha256: str,
    versions: Mapping[str, str],
    seconds: Mapping[str, float],
) -> PreliminarySummary:
    """The numbers of ``found``; what it cannot know of the run is passed by its name in :class:`PreliminarySummary`."""
    of = "" if sample is None else f" This is {sample_words(sample.drawn, sample.total)}."
    return PreliminarySummary(
        conclusion=NOT_FINISHED,
        reason="Preliminary: nothing is concluded yet. Only images that have the pixels of a training image are flagged; that another one is not "
        f"flagged says nothing.{of}",
        known=found.known,
        written=written,
        ends=ends,
        to_come={stage: round(left, 1) for stage, left in to_come.items()},
        images={
            "training": len(found.training),
            "synthetic": len(found.synthetic),
            "skipped": len(skipped),
            "identical": found.identical,
        },
        sample=sample,
        skipped=skipped,
        settings=settings,
        weights_sha256=weights_sha256,
        versions=versions,
        seconds=seconds,
    )
