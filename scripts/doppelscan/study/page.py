"""case_study.html: one offline page of a case study. Memorization over duplication, time and conditioning, remedies, kinds, scores, pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from doppelscan.calibrate import Share
from doppelscan.decide import KINDS
from doppelscan.deepssim import THRESHOLDS
from doppelscan.pages import page_templates
from doppelscan.report import CONTROL, FLAGGED, INK, inline_picture, inline_svg
from doppelscan.scores import source_of
from doppelscan.study.measures import COPIED, SampleNumbers, sample_rows
from doppelscan.study.stages import ConditionResult
from doppelscan.study.tables import StudyResult
from doppelscan.version import __version__

__all__ = ["study_page"]

PAIRS, SEEDS = 6, 8
COLOURS = ("#4477aa", "#bb5566", "#228833", "#ccbb44", "#aa3377", "#66ccee", "#888888", "#1f2933")
# Of findings in the order of KINDS: copies in one hue, what names nobody for sure in others.
KIND_COLOURS = ("#8e2a20", "#c0392b", "#e08a7f", "#b7791f", "#8fa3b5", "#d9e0e7")
MEASURES = {
    "flagged": "samples flagged",
    "copies": "copies among the samples (N_copies)",
    "memorized": "training images memorized (N_mem)",
}


def _figure(wide: float, high: float, columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(wide, high), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _bars(conditions: Sequence[ConditionResult]) -> str:
    """The three shares of some conditions, with their intervals."""
    figure, axes = _figure(10.8, 2.8, len(MEASURES))
    names = [one.condition.name for one in conditions]
    for axis, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        shares = [one.audit.shares[measure] for one in conditions]
        axis.bar(
            range(len(names)), [100 * one.share for one in shares], width=0.55, color=FLAGGED if measure == "flagged" else CONTROL
        )
        axis.set_xticks(range(len(names)), names)
        _whiskers(axis, range(len(shares)), shares)
        axis.set_title(label, fontsize=10, loc="left")
        axis.set_ylabel("%")
        axis.set_ylim(0, max(2.0, 105 * max(one.upper for one in shares)))
        axis.tick_params(axis="x", labelrotation=0 if len(names) < 5 else 30)
    return inline_svg(figure)


def _whiskers(axis: Axes, places: Sequence[float], shares: Sequence[Share]) -> None:
    below = [100 * max(0.0, one.share - one.lower) for one in shares]
    above = [100 * max(0.0, one.upper - one.share) for one in shares]
    axis.errorbar(list(places), [100 * one.share for one in shares], [below, above], fmt="none", ecolor=INK, capsize=3, linewidth=1)


def _curves(conditions: Sequence[ConditionResult]) -> str:
    """Flagged share and copies over the training steps, as the audits in the loop found them."""
    figure, axes = _figure(10.8, 3.2, 2)
    for axis, measure in zip(axes, ("flagged", "memorized"), strict=True):
        for number, one in enumerate(conditions):
            colour = COLOURS[number % len(COLOURS)]
            steps, shares = [audit.step for audit in one.curve], [audit.shares[measure] for audit in one.curve]
            axis.plot(
                steps, [100 * share.share for share in shares], marker="o", markersize=3, color=colour, label=one.condition.name
            )
            axis.fill_between(
                steps,
                [100 * share.lower for share in shares],
                [100 * share.upper for share in shares],
                color=colour,
                alpha=0.12,
                linewidth=0,
            )
        axis.set(xlabel="training steps", ylabel="%", ylim=(0, None), xlim=(0, None))
        axis.set_title(MEASURES[measure], fontsize=10, loc="left")
    axes[0].legend(frameon=False, fontsize=8)
    return inline_svg(figure)


def _kinds(conditions: Sequence[ConditionResult]) -> str:
    figure, (axis,) = _figure(10.8, 0.7 + 0.34 * len(conditions))
    left = np.zeros(len(conditions))
    names = [one.condition.name for one in conditions]
    for kind, colour in zip(KINDS, KIND_COLOURS, strict=True):
        shares = np.array([100 * one.audit.kinds[kind].share for one in conditions])
        axis.barh(range(len(names)), shares, left=left, color=colour, label=kind, height=0.6)
        left += shares
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="% of the samples", xlim=(0, max(5.0, 1.05 * float(left.max()))))
    axis.invert_yaxis()
    axis.legend(frameon=False, fontsize=8, ncols=len(KINDS), loc="lower left", bbox_to_anchor=(0, 1))
    return inline_svg(figure)


def _distributions(conditions: Sequence[ConditionResult]) -> str:
    """MI and DeepSSIM of all samples, by condition, and of the control of the first: a box each (median, quartiles, 5 to 95 %)."""
    figure, axes = _figure(10.8, 0.9 + 0.34 * (len(conditions) + 1), 2)
    labels = ["control", *(one.condition.name for one in conditions)]
    folders = [Path(one.audit.folder) for one in conditions]
    sets = [sample_rows(folders[0], "control"), *map(sample_rows, folders)]
    for axis, measure, words in zip(axes, ("mi", "deepssim"), ("Memorization Index", "DeepSSIM"), strict=True):
        values = [np.array([float(row[measure]) for row in rows]) for rows in sets]
        drawn = axis.boxplot(
            [one[np.isfinite(one)] for one in values], orientation="horizontal", whis=(5, 95), widths=0.6, patch_artist=True,
            flierprops={"markersize": 2, "markeredgecolor": CONTROL}, medianprops={"color": INK},
        )  # fmt: skip
        for number, box in enumerate(drawn["boxes"]):
            box.set(facecolor=FLAGGED if number else CONTROL, alpha=0.5, linewidth=0.6)
        axis.set_yticks(range(1, len(labels) + 1), labels)
        axis.set_xlabel(words)
        axis.invert_yaxis()
    for threshold in THRESHOLDS:
        axes[1].axvline(threshold, color=INK, linestyle=":", linewidth=1)
    return inline_svg(figure)


def _trends(conditions: Sequence[ConditionResult]) -> str:
    figure, axes = _figure(10.8, 2.6, len(conditions))
    for axis, one in zip(axes, conditions, strict=True):
        groups = (one.audit.trend or {})["groups"]
        shares = [Share(group["leaked"], group["images"], group["share"], group["lower"], group["upper"]) for group in groups]
        axis.bar(range(len(groups)), [100 * share.share for share in shares], width=0.55, color=CONTROL)
        axis.set_xticks(range(len(groups)), [group["repeats"] for group in groups])
        _whiskers(axis, range(len(shares)), shares)
        axis.set(xlabel="times shown in a pass", ylim=(0, 100))
        axis.tick_params(axis="x", labelrotation=90 if len(conditions) > 2 else 0)
        axis.set_title(one.condition.name, fontsize=10, loc="left")
    axes[0].set_ylabel("% memorized")
    return inline_svg(figure)


def _pairs(numbers: SampleNumbers) -> list[dict[str, str]]:
    """Samples beside the training image that each is nearest to, the surest first; findings before others."""
    rows = [row for row in sample_rows(Path(numbers.folder)) if row["unlike"] != "true"]
    rows.sort(key=lambda row: (row["finding"] not in COPIED, row["flagged"] != "true", -float(row["score"])))
    chosen, seen = [], set()
    for row in rows:  # of one training image one sample
        if row["match"] not in seen:
            seen.add(row["match"])
            chosen.append(row)
    return [
        {
            "sample": _file(row["image"]),
            "match": _file(source_of(row)),
            "words": f"{row['finding'] or 'not flagged'}, p {float(row['p_value']):.2g}",
        }
        for row in chosen[:PAIRS]
    ]


def _file(path: str) -> str:
    with Image.open(path) as image:
        return inline_picture(np.asarray(image.convert("L")))


def _over_time(one: ConditionResult) -> list[dict[str, object]]:
    """The samples of the same seeds, audit by audit."""
    rows = []
    for numbers in one.curve:
        files = sorted((Path(numbers.folder) / "samples").glob("*.npy"))[:SEEDS]
        pictures = [inline_picture(np.round(np.load(file) * 255).clip(0, 255).astype(np.uint8)) for file in files]
        rows.append({"step": numbers.step, "flagged": numbers.flagged, "pictures": pictures})
    return rows


def _drawn(draw: Callable[[Sequence[ConditionResult]], str], conditions: Sequence[ConditionResult]) -> str:
    return draw(conditions) if conditions else ""


def study_page(study: StudyResult) -> str:
    """The page as HTML text, with what is done so far.

    Args:
        study: the result; pictures are read from the files that it names.
    """
    done = study.conditions
    trained_alike = [one for one in done if one.condition.stop == "none" and one.condition.patients == "some"]
    conditional = [one for one in done if one.condition.conditioning != "none"]
    twins = {(one.condition.duplication, one.condition.patients, one.condition.stop) for one in conditional}
    plain = [
        one
        for one in done
        if one.condition.conditioning == "none" and (one.condition.duplication, one.condition.patients, one.condition.stop) in twins
    ]
    figures: Mapping[str, str] = {
        "duplication": _drawn(_bars, [one for one in trained_alike if one.condition.conditioning == "none"]),
        "time": _drawn(_curves, [one for one in done if one.curve]),
        "conditioning": _drawn(_bars, [*plain, *conditional] if conditional else []),
        "kinds": _drawn(_kinds, done),
        "distributions": _drawn(_distributions, done),
        "trends": _drawn(_trends, [one for one in done if one.audit.trend is not None]),
    }
    strongest = max((one for one in done if one.curve), key=lambda one: one.audit.copies.share, default=None)
    return page_templates("study").get_template("case_study.html").render(
        study=study,
        figures=figures,
        pairs={one.condition.name: _pairs(one.audit) for one in done},
        over_time=None if strongest is None else {"name": strongest.condition.name, "rows": _over_time(strongest)},
        left_out={reason: [name for name, why in study.left_out.items() if why == reason] for reason in study.left_out.values()},
        version=__version__,
        colour="unsure" if study.left_out else "clear",
    )  # fmt: skip
