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

from doppelscan.deepssim import verdict

__all__ = ["SCORE_COLUMNS", "AuditTables", "to_csv", "to_json", "write_atomic"]

SCORE_COLUMNS = (
    "image", "patient", "match", "match_patient", "pose", "score", "deepssim", "embedding", "similarity", "mi", "oni",
    "consensus", "ssim", "p_value", "q_value", "verdict", "flagged",
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


@dataclass
class AuditTables:
    """What a finished audit knows, in the shape that the files need.

    Attributes:
        training, synthetic, control_set: embedded sets; ``records``, ``patients``, ``thumbnails`` and ``native_shape`` are used.
        scored, control: one scored image each of synthetic and control.
        p_values, q_values, flagged: of the synthetic images.
        control_p: p-values of the control images among themselves.
    """

    training: Any
    synthetic: Any
    scored: list
    p_values: np.ndarray
    q_values: np.ndarray
    flagged: np.ndarray
    control_set: Any
    control: list
    control_p: np.ndarray

    def score_rows(self) -> list[dict[str, Any]]:
        """Rows of scores.csv in the order of the synthetic set."""
        return [
            self._row(self.synthetic, s, self.p_values[i], self.q_values[i], bool(self.flagged[i]))
            for i, s in enumerate(self.scored)
        ]

    def control_rows(self) -> list[dict[str, Any]]:
        """Rows of control.csv; the q-value has no meaning there, and nothing is flagged."""
        return [self._row(self.control_set, s, self.control_p[i], float("nan"), False) for i, s in enumerate(self.control)]

    def _row(self, queries, scored, p: float, q: float, flagged: bool) -> dict[str, Any]:
        record, match = queries.records[scored.row], self.training.records[scored.match]
        return {
            "image": record.id,
            "patient": record.patient,
            "match": match.id,
            "match_patient": match.patient,
            "pose": scored.pose.words(max(queries.native_shape(scored.row))),
            "score": scored.score,
            "deepssim": scored.deepssim,
            "embedding": scored.embedding,
            "similarity": scored.similarity,
            "mi": scored.mi,
            "oni": scored.oni,
            "consensus": scored.consensus,
            "ssim": scored.ssim,
            "p_value": float(p),
            "q_value": float(q),
            "verdict": verdict(scored.ssim),
            "flagged": flagged,
        }

    def volume_rows(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Slices rolled up: one row a synthetic volume; its p-value is the smallest of its slices times their number."""
        groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for record, row in zip((self.synthetic.records[s.row] for s in self.scored), rows, strict=True):
            groups[record.volume].append(row)
        result = []
        for volume, members in groups.items():
            best = max(members, key=lambda r: r["score"])
            result.append(
                {
                    "volume": volume,
                    "patient": best["patient"],
                    "images": len(members),
                    "flagged_images": sum(r["flagged"] for r in members),
                    "match_patient": best["match_patient"],
                    "match": best["match"],
                    "score": best["score"],
                    "p_value": min(1.0, min(r["p_value"] for r in members) * len(members)),
                    "verdict": best["verdict"],
                }
            )
        return result

    @staticmethod
    def exposure_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Training patients that flagged images were matched with, most exposed first."""
        groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            if row["flagged"]:
                groups[row["match_patient"]].append(row)
        result = [
            {
                "patient": patient,
                "flagged_images": len(members),
                "training_images": len({r["match"] for r in members}),
                "highest_score": max(r["score"] for r in members),
                "smallest_p_value": min(r["p_value"] for r in members),
            }
            for patient, members in groups.items()
        ]
        return sorted(result, key=lambda r: (-r["flagged_images"], -r["highest_score"]))
