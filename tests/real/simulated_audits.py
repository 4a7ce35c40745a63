"""Observed false discovery share of simulated audits, drawn from the scores of a real one.

``python tests/real/simulated_audits.py AUDIT_DIR [--copies PREFIX]``: AUDIT_DIR is the output of an audit whose copies have file names
that begin with PREFIX; its other synthetic images and its control are unrelated people. Each simulated audit draws a control and a
synthetic set of them, without overlap, and flags as the audit does.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from doppelscan.calibrate import Control
from doppelscan.decide import Rules, flag, verified_score

AUDITS, SYNTHETIC = 200, 200


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def scored(row: dict[str, str]) -> SimpleNamespace:
    detail, agreement = float(row["detail"]), float(row["agreement"])
    return SimpleNamespace(
        score=float(row["score"]),
        part=float(row["part"]),
        part_share=float(row["part_share"]),
        verified=verified_score(detail, agreement),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("audit", type=Path)
    parser.add_argument("--copies", default="copy")
    options = parser.parse_args()
    rows = read(options.audit / "scores.csv")
    copies = [scored(r) for r in rows if os.path.basename(r["image"]).startswith(options.copies)]
    people = [scored(r) for r in rows if not os.path.basename(r["image"]).startswith(options.copies)]
    people += [scored(r) for r in read(options.audit / "control.csv")]
    print(f"{len(copies)} copies, {len(people)} unrelated images; {AUDITS} audits of {SYNTHETIC} images each")
    print("| control | copies | false share | audits with a false flag | copies flagged |\n|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for size in (30, 100, 300, 1000):
        for share in (0.0, 0.01, 0.05, 0.3):
            count = round(share * SYNTHETIC)
            if size + SYNTHETIC - count > len(people):
                continue
            shares, found = [], []
            for audit in range(AUDITS):
                order = rng.permutation(len(people))
                control = [people[i] for i in order[:size]]
                made = [copies[i] for i in rng.permutation(len(copies))[:count]]
                made += [people[i] for i in order[size : size + SYNTHETIC - count]]
                null, part_null = (Control(np.array([getattr(s, n) for s in control]), seed=audit) for n in ("score", "part"))
                flags = flag(made, control, null, part_null, Rules())
                flagged = np.array([one.reason is not None for one in flags])
                shares.append(flagged[count:].sum() / max(1, flagged.sum()))
                found.append(flagged[:count].mean() if count else np.nan)
            print(
                f"| {size} | {100 * share:g} % | {np.mean(shares):.3f} | {np.mean(np.array(shares) > 0):.2f} | "
                + (f"{np.mean(found):.2f} |" if count else "- |")
            )


if __name__ == "__main__":
    main()
