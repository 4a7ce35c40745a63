"""scores.csv, control.csv, volumes.csv and exposure.csv: one row an image, a volume, a training patient."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from doppelscan.decide import KINDS
from doppelscan.deepssim import verdict

__all__ = ["SCORE_COLUMNS", "AuditTables", "source_row", "to_csv", "to_json", "write_atomic"]

SCORE_COLUMNS = (
    "image", "patient", "match", "match_patient", "pose", "score", "deepssim", "embedding", "similarity", "mi", "oni",
    "consensus", "ssim", "p_value", "q_value", "verdict", "flagged",
    "finding", "detail", "agreement", "share", "explained", "second_match", "second_share",
    "part", "part_match", "part_share", "part_p_value", "part_q_value",
)  # fmt: skip


def to_json(content: Any) -> str:
    """JSON of ``content``; NaN is no JSON, so a value that is not defined becomes null."""
    return json.dumps(_without_nan(content), indent=1, default=float)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write beside ``path`` and rename: a full disk leaves the old file or none, never half of one."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def pseudonym(identifier: str, salt: bytes) -> str:
    """A name that stands for ``identifier`` in one redacted report; the salt is random and not kept."""
    return hashlib.blake2b(identifier.encode(), key=salt, digest_size=6).hexdigest()


def _number(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)):
        return f"{np.float32(value):.7g}" if np.isfinite(value) else "nan"
    return str(value)


def to_csv(columns: Iterable[str], rows: list[dict[str, Any]]) -> str:
    """CSV text; floats with 7 significant digits, true and false in lower case."""
    columns = list(columns)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[_number(row[c]) for c in columns] for row in rows])
    return text.getvalue()


def source_row(scored, finding) -> int:
    """Training row that a finding is of: the region's source for a part, else the match."""
    return scored.part_match if finding.kind == "part" else scored.match


@dataclass
class AuditTables:
    """What a finished audit knows, in the shape that the files need.

    Attributes:
        training, synthetic, control_set: embedded sets; ``records``, ``patients``, ``thumbnails`` and ``native_shape`` are used.
        scored, control: one scored image each of synthetic and control.
        p_values, q_values, flagged: of the synthetic images.
        null: the calibrated control, see :class:`doppelscan.calibrate.Control`.
        part_p, part_q: of the synthetic images' parts.
        findings: of each synthetic image, or None: ``kind``, ``explained``, ``second_match`` and ``second_share``.
        near_duplicates: ``control``, ``row``, ``training_row`` and ``score`` of each.
    """

    training: Any
    synthetic: Any
    scored: list
    p_values: np.ndarray
    q_values: np.ndarray
    flagged: np.ndarray
    control_set: Any
    control: list
    null: Any
    part_p: np.ndarray
    part_q: np.ndarray
    findings: list
    near_duplicates: list

    def score_rows(self) -> list[dict[str, Any]]:
        """Rows of scores.csv in the order of the synthetic set."""
        return [
            self._row(
                self.synthetic,
                s,
                (self.p_values[i], self.q_values[i], self.part_p[i], self.part_q[i]),
                bool(self.flagged[i]),
                self.findings[i],
            )
            for i, s in enumerate(self.scored)
        ]

    def control_rows(self) -> list[dict[str, Any]]:
        """Rows of control.csv; p-values among themselves, no q-values, and nothing is flagged."""
        p = self.null.p_values(np.array([s.score for s in self.control]))
        none = float("nan")
        return [self._row(self.control_set, s, (p[i], none, none, none), False, None) for i, s in enumerate(self.control)]

    def _row(self, queries, scored, probabilities, flagged: bool, finding) -> dict[str, Any]:
        record, match = queries.records[scored.row], self.training.records[scored.match]
        second = None if finding is None or finding.second_match is None else self.training.records[finding.second_match]
        p, q, part_p, part_q = map(float, probabilities)
        return {
            "image": record.id,
            "patient": record.patient,
            "match": match.id,
            "match_patient": match.patient,
            "pose": scored.pose.words(int(queries.native_shapes([scored.row])[0].max())),
            "score": scored.score,
            "deepssim": scored.deepssim,
            "embedding": scored.embedding,
            "similarity": scored.similarity,
            "mi": scored.mi,
            "oni": scored.oni,
            "consensus": scored.consensus,
            "ssim": scored.ssim,
            "p_value": p,
            "q_value": q,
            "verdict": verdict(scored.ssim),
            "flagged": flagged,
            "finding": "" if finding is None else finding.kind,
            "detail": scored.detail,
            "agreement": scored.agreement,
            "share": scored.share,
            "explained": float("nan") if finding is None else finding.explained,
            "second_match": "" if second is None else second.id,
            "second_share": float("nan") if finding is None else finding.second_share,
            "part": scored.part,
            "part_match": self.training.records[scored.part_match].id,
            "part_share": scored.part_share,
            "part_p_value": part_p,
            "part_q_value": part_q,
        }

    def volume_rows(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Slices rolled up: one row a synthetic volume, with one p-value for all of its slices."""
        return self._grouped(rows, "volume")

    def patient_rows(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Images rolled up: one row a patient of the synthetic set, where it names patients."""
        return self._grouped(rows, "patient")

    def _grouped(self, rows: list[dict[str, Any]], by: str) -> list[dict[str, Any]]:
        groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for s, row in zip(self.scored, rows, strict=True):
            groups[getattr(self.synthetic.records[s.row], by)].append(row)
        p_values = self.null.group_p_values([np.array([r["score"] for r in members]) for members in groups.values()])
        result = []
        for (name, members), p in zip(groups.items(), p_values, strict=True):
            best = max(members, key=lambda r: r["score"])
            result.append(
                {
                    "volume": name,
                    "patient": best["patient"],
                    "images": len(members),
                    "flagged_images": sum(r["flagged"] for r in members),
                    "match_patient": best["match_patient"],
                    "match": best["match"],
                    "score": best["score"],
                    "p_value": float(p),
                    "verdict": best["verdict"],
                }
            )
        return result

    def near_duplicate_rows(self) -> list[dict[str, Any]]:
        """Who is there twice: of the control or the training set, and of the training set."""
        result = []
        for one in self.near_duplicates:
            first = (self.control_set if one.control else self.training).records[one.row]
            second = self.training.records[one.training_row]
            result.append(
                {
                    "set": "control" if one.control else "training",
                    "image": first.id,
                    "patient": first.patient,
                    "match": second.id,
                    "match_patient": second.patient,
                    "score": one.score,
                }
            )
        return result

    def exposure_rows(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Training patients that flagged images were matched with, most exposed first."""
        groups: dict[str, list[tuple[str, float, dict[str, Any]]]] = defaultdict(list)
        for s, row, finding in zip(self.scored, rows, self.findings, strict=True):
            if finding is None:
                continue
            source = self.training.records[source_row(s, finding)]
            p = row["part_p_value" if finding.kind == "part" else "p_value"]
            groups[source.patient].append((source.id, p, row))
            if finding.second_match is not None:
                second = self.training.records[finding.second_match]
                groups[second.patient].append((second.id, row["p_value"], row))
        result = [
            {
                "patient": patient,
                "flagged_images": len(members),
                **{kind: sum(row["finding"] == kind for _, _, row in members) for kind in KINDS},
                "training_images": len({source for source, _, _ in members}),
                "highest_score": max(row["score"] for _, _, row in members),
                "smallest_p_value": min(p for _, p, _ in members),
            }
            for patient, members in groups.items()
        ]
        return sorted(result, key=lambda r: (-r["flagged_images"], -r["highest_score"]))
