"""scores.csv, control.csv, volumes.csv and exposure.csv: one row an image, a volume, a training patient."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from doppelscan.calibrate import simes_p_values
from doppelscan.decide import KINDS, OF_NOBODY, AuditedImage, Decision, ReviewedImages
from doppelscan.deepssim import verdict
from doppelscan.images import ImageRecord, plane_position, unit_of
from doppelscan.scores import of_region
from doppelscan.verify import Pose

__all__ = [
    "EXPOSING", "REMOVE_COLUMNS", "SCORE_COLUMNS", "Row", "class_of", "exposure_rows", "patient_rows", "remove_rows", "risk",
    "score_rows", "volume_rows",
]  # fmt: skip

Row = dict[str, str | float | int | bool]
NONE = float("nan")
# Kinds that show a patient.
EXPOSING = tuple(kind for kind in KINDS if kind != OF_NOBODY)

SCORE_COLUMNS = (
    "image", "patient", "match", "match_patient", "pose", "score", "deepssim", "embedding", "similarity", "mi", "oni",
    "consensus", "ssim", "p_value", "q_value", "verdict", "flagged",
    "finding", "detail", "agreement", "share", "verified", "runner_up", "explained", "same_patient_p_value", "second_match", "second_share",
    "part", "part_match", "part_share", "part_p_value", "part_q_value", "reason", "unlike",
)  # fmt: skip


# Of slices of volumes whose geometry is known: where in its volume the match lies.
PLACE_COLUMNS = ("match_volume", "match_plane", "match_mm")


def score_columns(rows: Iterable[Row]) -> tuple[str, ...]:
    """Columns of scores.csv and of control.csv."""
    if not any(PLACE_COLUMNS[0] in row for row in rows):
        return SCORE_COLUMNS
    after = SCORE_COLUMNS.index("match_patient") + 1
    return (*SCORE_COLUMNS[:after], *PLACE_COLUMNS, *SCORE_COLUMNS[after:])


def class_of(record: ImageRecord, ssim: float) -> str:
    """The DeepSSIM paper's class of a registered pair: duplicate, similar or different; empty of volumes, which it was not made for: brains of two
    people, registered in 3D, usually exceed what it calls duplicate."""
    return "" if record.whole else verdict(ssim)


def score_rows(images: Iterable[AuditedImage]) -> list[Row]:
    """Rows of scores.csv and of control.csv, in the order of the set."""
    return [_score_row(one) for one in images]


def _score_row(one: AuditedImage) -> Row:
    scored, finding, said = one.scored, one.finding, one.flag
    place = plane_position(one.match)
    lies: Row = {} if place is None else dict(zip(PLACE_COLUMNS, (one.match.volume, *place), strict=True))
    return lies | {
        "image": one.record.id,
        "patient": one.record.patient,
        "match": one.match.id,
        "match_patient": one.match.patient,
        "pose": scored.pose.words(max(one.shape)),
        "score": scored.score,
        "deepssim": scored.deepssim,
        "embedding": scored.embedding,
        "similarity": scored.similarity,
        "mi": scored.mi,
        "oni": scored.oni,
        "consensus": scored.consensus,
        "ssim": scored.ssim,
        "p_value": said.p_value,
        "q_value": said.q_value,
        "verdict": class_of(one.record, scored.ssim),
        "flagged": finding is not None,
        "finding": "" if finding is None else finding.kind,
        "detail": scored.detail,
        "agreement": scored.agreement,
        "share": scored.share,
        "verified": scored.verified,
        "runner_up": scored.runner_up,
        "explained": NONE if finding is None else finding.explained,
        "same_patient_p_value": NONE if finding is None else finding.same_patient_p,
        "second_match": "" if one.second_match is None else one.second_match.id,
        "second_share": NONE if finding is None else finding.second_share,
        "part": scored.part,
        "part_match": "" if one.part_match is None else one.part_match.id,
        "part_share": scored.part_share,
        "part_p_value": said.part_p_value,
        "part_q_value": said.part_q_value,
        "unlike": "" if one.unlike is None else one.unlike,
        "reason": "" if said.reason is None else said.reason.words_of(unit_of([one.record])),
    }


def risk(row: Row) -> tuple[bool, bool, bool, float, str]:
    """What rows of scores.csv are sorted by: flagged ones first, highest score first, regions last; then the others likewise, those of another domain
    last. Of what the row itself holds, by no more digits than are written, so that the order of a redacted table tells nothing more.
    """
    score = round(float(row["score"]), 6)
    return (
        not row["flagged"],
        of_region(row),
        bool(row["unlike"]),
        -score if math.isfinite(score) else math.inf,
        str(row["image"]),
    )


REMOVE_COLUMNS = ("image", "finding", "decision")


def remove_rows(rows: Iterable[Row], reviews: ReviewedImages) -> list[Row]:
    """Images that are to be taken out of the set, of ``rows`` of scores.csv: flagged and not lifted by reviewers, or called a copy by them."""
    told = reviews.by_image
    return [
        {"image": row["image"], "finding": row["finding"], "decision": told.get(str(row["image"]), "")}
        for row in rows
        if reviews.removes(str(row["image"]), bool(row["flagged"]))
    ]


def volume_rows(decision: Decision) -> list[Row]:
    """Slices rolled up: one row a synthetic volume, with one p-value for all of its slices."""
    return _grouped(decision, lambda record: record.volume)


def patient_rows(decision: Decision) -> list[Row]:
    """Images rolled up: one row a patient of the synthetic set; none where it names no patient, as each image would be its own."""
    if not any(one.record.patient_known for one in decision.images):
        return []
    return _grouped(decision, lambda record: record.patient)


def _grouped(decision: Decision, name_of: Callable[[ImageRecord], str]) -> list[Row]:
    groups: dict[str, list[AuditedImage]] = defaultdict(list)
    for one in decision.images:
        groups[name_of(one.record)].append(one)
    # Of the whole image and of its best region, as the rate is shared between them: a volume of copied regions is no clean one.
    whole = decision.calibrations[0].rules.whole_rate
    least = [
        min(1.0, one.flag.p_value / whole, one.flag.part_p_value / (1 - whole) if whole < 1 else 1.0) for one in decision.images
    ]
    p_values = simes_p_values(np.array(least), [name_of(one.record) for one in decision.images])
    result: list[Row] = []
    for name, members in groups.items():
        best = max(members, key=lambda one: one.scored.score)
        result.append(
            {
                "volume": name,
                "patient": best.record.patient,
                "images": len(members),
                "flagged_images": sum(one.finding is not None for one in members),
                "match_patient": best.match.patient,
                "match": best.match.id,
                "score": best.scored.score,
                "p_value": p_values[name],
                "verdict": class_of(best.record, best.scored.ssim),
                **({"pose": _common_pose(members, best)} if plane_position(best.record) is not None else {}),
            }
        )
    return result


def _common_pose(members: Sequence[AuditedImage], best: AuditedImage) -> str:
    """What maps the volume of the best match on the volume of ``members``: the flip and turn of most of its slices, the middle one of the rest, and
    whether the slices run the other way."""
    own = [one for one in members if one.match.volume == best.match.volume]
    poses = [one.scored.pose for one in own]
    usual = Counter(pose.number for pose in poses).most_common(1)[0][0]
    values = np.array([[p.rotation, p.scale, p.shift_x, p.shift_y] for p in poses if p.number == usual])
    words = Pose(usual >= 4, usual % 4, *np.median(values, 0).tolist()).words(max(best.shape))
    return f"{words}, slices reversed" if _reversed(own) else words


def _reversed(slices: Sequence[AuditedImage]) -> bool:
    """Whether the matches of some slices of one volume lie in the other order, by Kendall's count of pairs."""
    places = np.array([[one.record.slice or 0, one.match.slice or 0] for one in slices])
    steps = np.sign(places[:, None] - places)
    return bool(steps.prod(2).sum() < 0)


def exposure_rows(decision: Decision) -> list[Row]:
    """Training patients that flagged images show, most exposed first."""
    groups: dict[str, list[tuple[str, float, AuditedImage]]] = defaultdict(list)
    for one in decision.images:
        if not one.shows_patient:
            continue
        groups[one.source.patient].append((one.source.id, one.p_value, one))
        if one.second_match is not None:
            groups[one.second_match.patient].append((one.second_match.id, one.p_value, one))
    result: list[tuple[int, float, Row]] = []
    for patient, members in groups.items():
        kinds = [one.finding.kind for _, _, one in members if one.finding is not None]
        highest = max(one.scored.score for _, _, one in members)
        row: Row = {
            "patient": patient,
            "flagged_images": len(members),
            **{kind: kinds.count(kind) for kind in EXPOSING},
            "training_images": len({source for source, _, _ in members}),
            "highest_score": highest,
            # Of identical pixels none decides.
            "smallest_p_value": min((p for _, p, _ in members if p == p), default=NONE),
        }
        result.append((len(members), highest, row))
    return [row for _, _, row in sorted(result, key=lambda r: (-r[0], -r[1]))]
