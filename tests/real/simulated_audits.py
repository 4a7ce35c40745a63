"""What the statistics of an audit promise, against simulated audits in which the truth is known.

``python tests/real/simulated_audits.py PART [AUDIT_DIR] [--copies PREFIX] [--patient REGEX] [--audits N]`` prints one table:

- ``calibration``: p-values of unrelated images, the smallest and those up to 0.05, over what they should be.
- ``clean``: audits without memorization, m = 100 to 100,000; share of audits with any flag.
- ``copies``: some copies among many; false discovery share, share of the copies that is flagged.
- ``groups``: volumes; false discovery share among images and among volumes.
- ``bound``: coverage of the upper bound of the memorized share and of the interval of its estimate.
- ``competition``: p-values of sets that owe training nothing, and of sets that do.
- ``flags``: whole decisions (needs AUDIT_DIR), flagged as an audit flags.

Scores are drawn from shapes that resemble those of real audits: strangers about 0.25 +- 0.08 with a tail to 0.5, with intraclass correlation
0.5 of the images of a patient, look-alikes 0.45 to 0.6 with three times as many images in the control, copies 0.6 to 1. With AUDIT_DIR, the
output of an audit, strangers are its control, resampled by patient (REGEX finds the patient in the name of a file) and smoothed (Silverman), and
copies are its synthetic images whose file names begin with PREFIX.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from doppelscan.calibrate import (
    Control,
    TailControl,
    compete,
    memorized_share,
    memorized_upper_bound,
    p_filter,
    q_values,
    simes_p_values,
)
from doppelscan.decide import Calibration, Rules
from doppelscan.verify import verified_score
from scipy.stats import expon, gamma, norm

RATE, SYNTHETIC = 0.05, 200
CONTROLS, LOOK_ALIKES = (30, 100, 300, 1000), (0.0, 0.01, 0.03, 0.05)
SHAPES = {
    "normal": lambda z: 0.25 + 0.08 * z,
    "right-skewed": lambda z: 0.25 + 0.08 * (gamma.ppf(norm.cdf(z), 4) - 4) / 2,
    "exponential": lambda z: 0.17 + 0.08 * expon.ppf(norm.cdf(z)),
}


class Shape:
    """Strangers and copies of a named shape."""

    def __init__(self, name: str) -> None:
        self.name, self._shape = name, SHAPES[name]

    def strangers(self, rng: np.random.Generator, patients: int, images: int) -> np.ndarray:
        z = np.sqrt(0.5) * (rng.normal(size=(patients, 1)) + rng.normal(size=(patients, images)))
        return self._shape(z)

    def look_alikes(self, rng: np.random.Generator, patients: int, images: int) -> np.ndarray:
        return rng.uniform(0.45, 0.6, (patients, 1)) + 0.02 * rng.normal(size=(patients, images))

    def copies(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return np.clip(rng.normal(0.88, 0.06, count), 0.6, 1.0)


class Sample:
    """Strangers and copies as a real audit scored them."""

    def __init__(self, directory: Path, prefix: str, patient: str) -> None:
        self.name = directory.parent.name if directory.name in ("out", "report") else directory.name
        by_patient: dict[str, list[float]] = defaultdict(list)
        for row in read(directory / "control.csv"):
            found = re.search(patient, os.path.basename(row["image"]))
            by_patient[found.group() if found else row["image"]].append(float(row["score"]))
        self._people = [np.array(scores) for scores in by_patient.values()]
        self._copies = np.array([float(row["score"]) for row in read(directory / "scores.csv") if of_prefix(row, prefix)])
        everyone = np.concatenate(self._people)
        self._width = 1.06 * everyone.std() * len(self._people) ** -0.2
        self._top = everyone.max()

    def strangers(self, rng: np.random.Generator, patients: int, images: int) -> np.ndarray:
        who = rng.integers(0, len(self._people), patients)
        sizes = np.array([len(one) for one in self._people])
        table = np.full((len(sizes), sizes.max()), np.nan)
        for row, one in zip(table, self._people, strict=True):
            row[: len(one)] = one
        drawn = table[who[:, None], (rng.random((patients, images)) * sizes[who, None]).astype(int)]
        return drawn + self._width * np.sqrt(0.5) * (rng.normal(size=(patients, 1)) + rng.normal(size=(patients, images)))

    def look_alikes(self, rng: np.random.Generator, patients: int, images: int) -> np.ndarray:
        """From the highest stranger on, up to 0.1 above it."""
        return self._top + rng.uniform(-0.05, 0.1, (patients, 1)) + 0.02 * rng.normal(size=(patients, images))

    def copies(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.choice(self._copies, count)


Population = Shape | Sample


def draw_control(
    rng: np.random.Generator, people: Population, patients: int, images: int, alike: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and patients; look-alike patients have three times as many images."""
    number = int((rng.random(patients) < alike).sum())
    scores = [people.strangers(rng, patients - number, images), people.look_alikes(rng, number, 3 * images)]
    who = [np.repeat(np.arange(patients - number), images), np.repeat(np.arange(patients - number, patients), 3 * images)]
    return np.concatenate([one.ravel() for one in scores]), np.concatenate(who)


def draw_clean(rng: np.random.Generator, people: Population, groups: int, images: int, alike: float) -> np.ndarray:
    """Scores of ``images`` each of ``groups`` new people: float [groups, images]."""
    scores = people.strangers(rng, groups, images)
    chosen = rng.random(groups) < alike
    scores[chosen] = people.look_alikes(rng, int(chosen.sum()), images)
    return scores


def calibration(people: Population, audits: int) -> None:
    print(
        f"p-values, 3 % look-alikes with three times as many images, {people.name}, {audits} controls; 1 is exact, more is too often\n"
    )
    print("| control patients | new images are | p at its smallest, over nominal | p <= 0.05, over nominal |\n|---|---|---|---|")
    for patients in CONTROLS:
        for words, share in (("of a random patient", 0.03), ("random images of all", 0.09 / (0.09 + 0.97))):
            rng = np.random.default_rng(patients)
            smallest, usual = [], []
            for audit in range(audits):
                null = Control(*draw_control(rng, people, patients, 4, 0.03), seed=audit)
                p = null.p_values(draw_clean(rng, people, 100, 1, share).ravel())
                smallest.append(np.mean(p <= null.smallest * (1 + 1e-9)) / null.smallest)
                usual.append(np.mean(p <= 0.05) / 0.05)
            print(f"| {patients} | {words} | {np.mean(smallest):.2f} | {np.mean(usual):.2f} |", flush=True)


def clean(people: Population, audits: int) -> None:
    sets = (100, 1_000, 10_000, 100_000)
    print(f"Clean audits, {people.name}: share with any flag at q <= {RATE}, {audits} audits (a tenth of 100,000 images)\n")
    print(
        "| control patients | look-alikes | " + " | ".join(f"m = {m:,}" for m in sets) + " |\n|---" + "|---" * (1 + len(sets)) + "|"
    )
    for patients in CONTROLS:
        for alike in LOOK_ALIKES:
            cells = []
            for m in sets:
                rng = np.random.default_rng((patients, int(1000 * alike), m))
                number = max(20, audits // (10 if m >= 100_000 else 2 if m >= 10_000 else 1))
                hits = []
                for audit in range(number):
                    images = 1 if audit % 2 else 4
                    null = TailControl(*draw_control(rng, people, patients, images, alike), seed=audit)
                    scores = draw_clean(rng, people, m // images, images, alike).ravel()
                    hits.append((q_values(null.p_values(scores)) <= RATE).any())
                cells.append(f"{np.mean(hits):.3f}")
            print(f"| {patients} | {100 * alike:g} % | " + " | ".join(cells) + " |", flush=True)


def copies(people: Population, audits: int) -> None:
    print(f"Copies among many, {people.name}: false discovery share / share of copies flagged at q <= {RATE}, {audits} audits\n")
    cases = ((1_000, 3), (1_000, 10), (1_000, 50), (1_000, 300), (10_000, 10), (10_000, 100))
    print(
        "| control patients | look-alikes | "
        + " | ".join(f"{k:,} of {m:,}" for m, k in cases)
        + " |\n|---"
        + "|---" * (1 + len(cases))
        + "|"
    )
    for patients in CONTROLS:
        for alike in (0.0, 0.01, 0.03):
            cells = []
            for m, k in cases:
                rng = np.random.default_rng((patients, int(1000 * alike), m, k))
                false, found = [], []
                for audit in range(audits if m <= 1_000 else max(20, audits // 3)):
                    images = 1 if audit % 2 else 4
                    null = TailControl(*draw_control(rng, people, patients, images, alike), seed=audit)
                    scores = np.concatenate([people.copies(rng, k), draw_clean(rng, people, m - k, 1, alike).ravel()])
                    flagged = q_values(null.p_values(scores)) <= RATE
                    false.append(flagged[k:].sum() / max(1, flagged.sum()))
                    found.append(flagged[:k].mean())
                cells.append(f"{np.mean(false):.3f} / {np.mean(found):.2f}")
            print(f"| {patients} | {100 * alike:g} % | " + " | ".join(cells) + " |", flush=True)


def groups(people: Population, audits: int) -> None:
    each, volumes = 20, 100
    print(f"{volumes} volumes of {each} slices, 3 % look-alikes, {people.name}, {audits} audits, rate {RATE}\n")
    print(
        "| control patients | copied volumes | slices copied in each | clean volume, P(p <= 0.05) | copied volume, median p | false share, images: BH | volumes: BH of images"
        " | images: p-filter | volumes: p-filter | copied slices flagged: BH | p-filter |\n" + "|---" * 11 + "|"
    )
    for patients in (100, 300):
        for copied, slices in ((0, 0), (1, 20), (10, 20), (10, 4), (30, 20)):
            rng = np.random.default_rng((patients, copied, slices))
            rows = []
            for audit in range(audits):
                null = TailControl(*draw_control(rng, people, patients, 4, 0.03), seed=audit)
                scores = draw_clean(rng, people, volumes, each, 0.03)
                truth = np.zeros((volumes, each), bool)
                truth[:copied, :slices] = True
                scores[truth] = people.copies(rng, copied * slices)
                p, which = null.p_values(scores.ravel()), np.repeat(np.arange(volumes), each).tolist()
                p_volume = np.array(list(simes_p_values(p, which).values()))
                plain, filtered = (q_values(p) <= RATE).reshape(truth.shape), p_filter(p, [which], RATE).reshape(truth.shape)
                rows.append(
                    [
                        np.mean(p_volume[copied:] <= 0.05),
                        np.median(p_volume[:copied]) if copied else np.nan,
                        *(
                            share
                            for f in (plain, filtered)
                            for share in (false_share(f, truth), false_share(f.any(1), truth.any(1)))
                        ),
                        *(f[truth].mean() if copied else np.nan for f in (plain, filtered)),
                    ]
                )
            middle = np.nanmedian(np.array(rows)[:, 1]) if copied else np.nan
            mean = np.mean(rows, axis=0)
            numbers = [f"{mean[0]:.3f}", f"{middle:.1e}" if copied else "-", *(f"{v:.3f}" for v in mean[2:6])]
            numbers += [f"{v:.2f}" if copied else "-" for v in mean[6:]]
            print(f"| {patients} | {copied} | {slices} | " + " | ".join(numbers) + " |", flush=True)


def false_share(flagged: np.ndarray, truth: np.ndarray) -> float:
    return float((flagged & ~truth).sum() / max(1, flagged.sum()))


def bound(people: Population, audits: int) -> None:
    print(
        f"Coverage at 95 %, {audits} audits: upper bound of the memorized share / interval of its estimate (mean bound, mean width)\n"
    )
    print(
        "| images | planted copies | found with probability | control flagged | memorized 0 | 1 % | 10 % | 33 % |\n"
        + "|---" * 8
        + "|"
    )
    for m, planted in ((36, 20), (300, 30), (1_000, 30), (1_000, 100)):
        for power in (0.3, 0.6, 0.9, 1.0):
            for base, controls in ((0.0, 60), (0.02, 300)):
                cells = []
                for share in (0.0, 0.01, 0.1, 0.33):
                    rng = np.random.default_rng((m, planted, int(100 * power), controls, int(100 * share)))
                    bounds, covered, width = [], [], []
                    for audit in range(audits):
                        # Two synthetic images come of one volume, two planted copies of one patient, half of the time with one fate.
                        flagged = clustered(rng, m, share * power + (1 - share) * base)
                        found, control = clustered(rng, planted, power), clustered(rng, controls, base)
                        pairs = [np.arange(n) // 2 for n in (m, planted, controls)]
                        names = dict(
                            zip(("flagged_patients", "found_patients"), (pairs[0].tolist(), pairs[1].tolist()), strict=True)
                        )
                        bounds.append(memorized_upper_bound(flagged, found, **names))
                        estimate = memorized_share(flagged, control, found, control_patients=pairs[2].tolist(), seed=audit, **names)
                        covered.append(estimate.lower <= share <= estimate.upper)
                        width.append(estimate.upper - estimate.lower)
                    cells.append(
                        f"{np.mean(np.array(bounds) >= share):.3f} / {np.mean(covered):.3f} ({np.mean(bounds):.2f}, {np.mean(width):.2f})"
                    )
                print(f"| {m} | {planted} | {power:g} | {100 * base:g} % of {controls} | " + " | ".join(cells) + " |", flush=True)


def clustered(rng: np.random.Generator, count: int, chance: float) -> np.ndarray:
    """Yes or no of ``count`` images in pairs, each pair with one fate half of the time."""
    own, shared = rng.random(count) < chance, np.repeat(rng.random((count + 1) // 2) < chance, 2)[:count]
    return np.where(np.repeat(rng.random((count + 1) // 2) < 0.5, 2)[:count], shared, own)


def competition(people: Population, audits: int) -> None:
    """Patients and images as points in 8 dimensions; a score is minus the distance."""
    print(
        f"Competition, {audits} sets: share with p <= 0.05, and with any patient named at 0.05; coverage of the 95 % interval of the share owed\n"
    )
    print(
        "| synthetic set | images | training / decoy patients | Binomial | patients permuted: wins | top | p of the set | any named, images' q | patients' q | covered |"
    )
    print("|---" * 10 + "|")
    for words, m, own, other, make in (
        ("clean", 200, 40, 32, clean_points(None)),
        ("clean", 1_000, 200, 200, clean_points(None)),
        ("clean, 200 against 50", 1_000, 200, 50, clean_points(None)),
        ("clean, 10 modes", 1_000, 200, 200, clean_points(10)),
        ("clean, collapsed to 1 mode", 1_000, 50, 50, clean_points(1)),
        ("40 % copies of 40 patients", 200, 40, 32, copied_points(0.4, 40, 0.15)),
        ("10 % copies of 10 patients", 200, 40, 40, copied_points(0.1, 10, 0.15)),
        ("5 % copies of 10 patients", 1_000, 200, 200, copied_points(0.05, 10, 0.15)),
        ("10 % copies of 40 patients, 200 against 50", 1_000, 200, 50, copied_points(0.1, 40, 0.15)),
        ("10 % noisy copies of 40 patients", 1_000, 200, 200, copied_points(0.1, 40, 0.3)),
        ("means of the 3 nearest", 200, 40, 40, averaged_points(3)),
        ("means of the 10 nearest", 200, 40, 40, averaged_points(10)),
    ):
        rng = np.random.default_rng((m, own, other, len(words)))
        rows = []
        for audit in range(audits):
            training, decoys = rng.normal(size=(own, 8)), rng.normal(size=(other, 8))
            images, owed = make(rng, m, training)
            near = [-np.sqrt(((images[:, None] - one) ** 2).sum(-1)) for one in (training, decoys)]
            found = compete(
                near[0].max(1), near[1].max(1), near[0].argmax(1).tolist(), near[1].argmax(1).tolist(), own, other, seed=audit
            )
            values = (found.binomial_p_value, found.wins_p_value, found.top_p_value, found.p_value)
            named = [(q <= RATE).any() for q in (found.q_values, found.patient_q_values)]
            covered = np.nan if owed is None else found.owed_lower <= owed <= found.owed_upper
            rows.append([*(p <= 0.05 for p in values), *named, covered])
        print(f"| {words} | {m} | {own} / {other} | " + " | ".join(f"{v:.3f}" for v in np.mean(rows, axis=0)) + " |", flush=True)


Points = Callable[[np.random.Generator, int, np.ndarray], tuple[np.ndarray, float | None]]


def clean_points(modes: int | None) -> Points:
    def make(rng: np.random.Generator, m: int, training: np.ndarray) -> tuple[np.ndarray, float | None]:
        if modes is None:
            return rng.normal(size=(m, 8)), 0.0
        return rng.normal(size=(modes, 8))[rng.integers(0, modes, m)] + 0.3 * rng.normal(size=(m, 8)), 0.0

    return make


def copied_points(share: float, patients: int, noise: float) -> Points:
    def make(rng: np.random.Generator, m: int, training: np.ndarray) -> tuple[np.ndarray, float | None]:
        images = rng.normal(size=(m, 8))
        count = round(share * m)
        images[:count] = training[rng.integers(0, patients, count)] + noise * rng.normal(size=(count, 8))
        return images, share

    return make


def averaged_points(number: int) -> Points:
    def make(rng: np.random.Generator, m: int, training: np.ndarray) -> tuple[np.ndarray, float | None]:
        images = rng.normal(size=(m, 8))
        nearest = np.argsort(((images[:, None] - training) ** 2).sum(-1), axis=1)[:, :number]
        return training[nearest].mean(1), None

    return make


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def of_prefix(row: dict[str, str], prefix: str) -> bool:
    return os.path.basename(row["image"]).startswith(prefix)


def scored(row: dict[str, str]) -> SimpleNamespace:
    detail, agreement = float(row["detail"]), float(row["agreement"])
    return SimpleNamespace(
        score=float(row["score"]),
        part=float(row["part"]),
        part_share=float(row["part_share"]),
        verified=verified_score(detail, agreement),
    )


def flags(directory: Path, prefix: str, audits: int) -> None:
    """Each simulated audit draws a control and a synthetic set of a real audit's images, without overlap, and flags as the audit does."""
    rows = read(directory / "scores.csv")
    copies = [scored(r) for r in rows if of_prefix(r, prefix)]
    people = [scored(r) for r in rows if not of_prefix(r, prefix)]
    people += [scored(r) for r in read(directory / "control.csv")]
    print(f"{len(copies)} copies, {len(people)} unrelated images; {audits} audits of {SYNTHETIC} images each")
    print("| control | copies | false share | audits with a false flag | copies flagged |\n|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for size in CONTROLS:
        for share in (0.0, 0.01, 0.05, 0.3):
            count = round(share * SYNTHETIC)
            if size + SYNTHETIC - count > len(people):
                continue
            shares, found = [], []
            for audit in range(audits):
                order = rng.permutation(len(people))
                control = [people[i] for i in order[:size]]
                made = [copies[i] for i in rng.permutation(len(copies))[:count]]
                made += [people[i] for i in order[size : size + SYNTHETIC - count]]
                rule = Calibration.on(control, [str(i) for i in range(size)], np.full(size, np.nan), 1.0, Rules(), audit)
                flagged = np.array([one.reason is not None for one in rule.flags(made, np.full(len(made), np.nan))])
                shares.append(flagged[count:].sum() / max(1, flagged.sum()))
                found.append(flagged[:count].mean() if count else np.nan)
            print(
                f"| {size} | {100 * share:g} % | {np.mean(shares):.3f} | {np.mean(np.array(shares) > 0):.2f} | "
                + (f"{np.mean(found):.2f} |" if count else "- |")
            )


PARTS = {"calibration": calibration, "clean": clean, "copies": copies, "groups": groups, "bound": bound, "competition": competition}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=[*PARTS, "flags"])
    parser.add_argument("audit", type=Path, nargs="?")
    parser.add_argument("--copies", default="copy")
    parser.add_argument("--patient", default=r"^[^_.]+")
    parser.add_argument("--shape", choices=list(SHAPES), default="normal")
    parser.add_argument("--audits", type=int, default=200)
    options = parser.parse_args()
    if options.part == "flags":
        if options.audit is None:
            parser.error("flags needs the output folder of an audit")
        flags(options.audit, options.copies, options.audits)
        return
    people = Shape(options.shape) if options.audit is None else Sample(options.audit, options.copies, options.patient)
    PARTS[options.part](people, options.audits)


if __name__ == "__main__":
    main()
