"""What the contamination protocol found, as tables beside the published ones and as a figure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from doppelscan.files import to_json, write_atomic
from doppelscan.report import contamination_figure
from doppelscan.workflows.protocol import ContaminationProtocol, defined_mean

__all__ = ["ProtocolReport"]

# arXiv 2602.13066, as published.
PUBLISHED_AUC = {
    "clean": (1.0, 1.0), "noise 0.01": (1.0, 1.0), "noise 0.02": (1.0, 0.999), "intensity 0.9-1.1": (1.0, 1.0),
    "rotation +-3": (0.871, 0.805), "rotation +-5": (0.758, 0.711), "h-flip": (0.733, 0.626), "v-flip": (0.727, 0.635),
}  # fmt: skip
PUBLISHED_CV = {0.05: 0.163, 0.15: 0.069, 0.30: 0.035, 0.45: 0.019}
PUBLISHED_CT_CV, PUBLISHED_SPREAD = 0.395, "MI 0.14, CT 0.85-2.73"
# Whether a score rises (1) or falls (-1) with memorization; those of quality and diversity are read as if they rose.
RISES = {"share": 1, "mean_mi": 1, "mean_oni": -1, "CT score": -1, "AuthPct": -1}


class ProtocolReport:
    """Writes ``evaluation.json`` (all numbers), ``evaluation.md`` (the paper's tables beside ours) and ``contamination.png`` (its Figure 2).

    Args:
        output_dir: where to.
        protocol: after it ran.
    """

    def __init__(self, output_dir: str | os.PathLike, protocol: ContaminationProtocol) -> None:
        self.output_dir, self.protocol = Path(output_dir), protocol

    def write(self) -> None:
        """Write the files; the folder is made."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        protocol = self.protocol
        content = {
            "features": protocol.features,
            "samples": protocol.samples,
            "sets": protocol.sets,
            "null": protocol.null,
            "summary": self.summary(),
        }
        write_atomic(self.output_dir / "evaluation.json", to_json(content))
        write_atomic(self.output_dir / "evaluation.md", self._tables())
        name = next(iter(protocol.variants))
        contamination_figure(protocol.sets, f"{name}: share", self.output_dir / "contamination.png")

    @property
    def score_names(self) -> list[str]:
        """Every set-level score."""
        first = next(iter(next(iter(self.protocol.sets.values())).values()))
        return list(next(iter(first.values())))

    def summary(self) -> dict[str, dict[str, Any]]:
        """Score -> monotony (share of curves that rise with every level), spread over transforms, variation over data sets a level.

        The spread is the range over transforms at the highest level, averaged over data sets, in the score's own unit and in its rise from
        the lowest to the highest level; the variation is the standard deviation over data sets (n - 1) by the mean, of the mean over transforms.
        """
        return {name: self._summary_of(name) for name in self.score_names}

    def _summary_of(self, name: str) -> dict[str, Any]:
        protocol = self.protocol
        cube = np.array(
            [[[levels[level][name] for level in protocol.levels] for levels in t.values()] for t in protocol.sets.values()]
        )
        sign = RISES.get(name.rpartition(": ")[2], 1)
        rises = (np.diff(sign * cube, axis=2) > 0).all(2)
        spread = float(np.mean(cube[:, :, -1].max(1) - cube[:, :, -1].min(1)))
        rise = float(np.abs(cube[:, :, -1].mean() - cube[:, :, 0].mean()))
        over = cube.mean(1)  # data sets x levels
        variation = over.std(0, ddof=1) / np.abs(over.mean(0)) if len(over) > 1 else np.full(over.shape[1], np.nan)
        return {
            "monotony": float(rises.mean()),
            "spread": spread,
            "relative_spread": spread / rise if rise > 0 else float("nan"),
            "variation": dict(zip(protocol.levels, variation.tolist(), strict=True)),
        }

    def _tables(self) -> str:
        protocol, summary = self.protocol, self.summary()
        lines = ["# Evaluation by the protocol of arXiv 2602.13066", "", f"Features: {protocol.features}.", ""]
        lines += self._level_table() + self._summary_table(summary) + self._variation_table(summary)
        for name in protocol.variants:
            lines += self._sample_table(name)
        return "\n".join(lines + self._null_table()) + "\n"

    def _level_table(self) -> list[str]:
        protocol = self.protocol
        lines = ["## Table 1. Set-level scores by contamination, mean over data sets and transforms", ""]
        lines += [
            "| score | " + " | ".join(f"{level:.0%}" for level in protocol.levels) + " |",
            "|---" * (len(protocol.levels) + 1) + "|",
        ]
        for name in self.score_names:
            values = [
                defined_mean([t[level][name] for s in protocol.sets.values() for t in s.values()]) for level in protocol.levels
            ]
            lines.append(f"| {name} | " + " | ".join(map(self._number, values)) + " |")
        return [*lines, ""]

    @staticmethod
    def _number(value: float, digits: int = 3) -> str:
        return "" if np.isnan(value) else f"{value:.{digits}f}"

    @staticmethod
    def _summary_table(summary: Mapping[str, Mapping[str, Any]]) -> list[str]:
        lines = ["## Table 2. Monotony, and spread over the transforms at the highest level", ""]
        lines += [f"Published spread at 45 %: {PUBLISHED_SPREAD}.", ""]
        lines += ["| score | curves that rise throughout | spread | spread / rise |", "|---|---|---|---|"]
        for name, row in summary.items():
            lines.append(
                f"| {name} | {row['monotony']:.2f} | {ProtocolReport._number(row['spread'])} | {ProtocolReport._number(row['relative_spread'], 2)} |"
            )
        return [*lines, ""]

    def _variation_table(self, summary: Mapping[str, Mapping[str, Any]]) -> list[str]:
        levels = self.protocol.levels
        lines = ["## Table 3. Coefficient of variation over data sets", ""]
        lines += ["| score | " + " | ".join(f"{level:.0%}" for level in levels) + " | mean |", "|---" * (len(levels) + 2) + "|"]
        cells = [PUBLISHED_CV.get(level) for level in levels]
        lines.append("| published MI | " + " | ".join("" if c is None else f"{c:.3f}" for c in cells) + " | 0.072 |")
        lines.append("| published CT score | " + " | ".join("" for _ in levels) + f" | {PUBLISHED_CT_CV} |")
        for name, row in summary.items():
            values = list(row["variation"].values())
            lines.append(f"| {name} | " + " | ".join(map(self._number, [*values, float(np.mean(values))])) + " |")
        return [*lines, ""]

    def _sample_table(self, variant: str) -> list[str]:
        samples = self.protocol.samples
        lines = [f"## Table 4. Sample-level detection, {variant}", ""]
        lines += [
            "| transform | published AUC mean (min) | AUC mean (min) | AP mean (min) | MI of copies | "
            + " | ".join(f"{s}: AUC" for s in samples)
            + " |"
        ]
        lines.append("|---" * (5 + len(samples)) + "|")
        for transform in self.protocol.transforms:
            published = PUBLISHED_AUC.get(transform)
            rows = [part[variant][transform] for part in samples.values()]
            auc, ap = [row["auc"] for row in rows], [row["ap"] for row in rows]
            lines.append(
                f"| {transform} | {'' if published is None else f'{published[0]:.3f} ({published[1]:.3f})'} | {np.mean(auc):.3f} ({min(auc):.3f}) | "
                f"{np.mean(ap):.3f} ({min(ap):.3f}) | {np.mean([row['mean copy'] for row in rows]):.1f} | "
                + " | ".join(f"{value:.3f}" for value in auc)
                + " |"
            )
        return [*lines, ""]

    def _null_table(self) -> list[str]:
        lines = ["## Without copies", "", "Other slices: real images of training patients that are no copies.", ""]
        lines += [
            "| data set | variant | training images | novel images | null: mean, std | mean MI | std of MI | share above threshold | "
            "other slices: n, mean MI, share |"
        ]
        lines.append("|---" * 9 + "|")
        for source, variants in self.protocol.null.items():
            for name, row in variants.items():
                other = (
                    f"{row['other slices']}, {row['other slices mean']:.2f}, {row['other slices share']:.2f}"
                    if "other slices" in row
                    else ""
                )
                lines.append(
                    f"| {source} | {name} | {row['training']} | {row['novel']} | {row['null mean']:.3g}, {row['null std']:.3g} | {row['mean']:.2f} | {row['std']:.2f} | {row['share']:.3f} | {other} |"
                )
        return lines
