"""What a person gets of a result without opening its page: first rows, a table of pandas, what a notebook shows, and the last lines on a terminal."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from doppelscan.arguments import Count, checked
from doppelscan.errors import MissingPackageError
from doppelscan.locations import is_url
from doppelscan.pages import page_templates
from doppelscan.report.entries import short_names
from doppelscan.report.overlap import relation_words
from doppelscan.scores import p_value_of, p_words, source_of
from doppelscan.wording import control_of, counted, of_whom

if TYPE_CHECKING:
    import pandas

__all__ = ["ResultTable", "audit_facts", "closing_lines", "overlap_facts"]

# What lies in an output folder, in the order in which it is looked at.
FILES = {
    "report.html": "the page to read first",
    "scores.csv": "every synthetic {image}, the highest risk first",
    "groups.csv": "every {image} and its group",
    "pairs.csv": "every pair that was found, the strongest first",
    "exposure.csv": "the training patients who are shown",
    "volumes.csv": "one row a synthetic volume",
    "patients.csv": "one row a patient of the synthetic set, as its names have it",
    "control.csv": "every {image} of the control, with the same columns as scores.csv",
    "volumes_read.csv": "how each volume was read",
    "remove.csv": "what is to be taken out",
    "summary.json": "all numbers, and how they were made",
    "store": "embeddings, so that nothing is embedded twice; holds patient data",
}
# Which says nothing of images that are in no volume.
ROLLED_UP = "volumes.csv"
# Rows that a notebook shows.
FIRST = 10


class ResultTable:
    """A result whose images are rows of a table.

    Attributes:
        headline: what was concluded, and why.
        facts: name -> what is told of it, in words.
        rows: of the table, as they were written.
        summary: what summary.json holds.
        of: what is counted, image or volume.
        ranked: those that are looked at first, the first of all first; by default the rows as they are.
        shown: column -> heading, of what a notebook shows.
        output: the folder of the files.
        written: names of what the command writes there; it removes what of them an earlier run wrote and this one did not.
    """

    summary: Mapping[str, Any]
    output: Path
    written: ClassVar[tuple[str, ...]]
    shown: ClassVar[Mapping[str, str]]

    @property
    def headline(self) -> tuple[str, str]:
        raise NotImplementedError

    @property
    def facts(self) -> Mapping[str, str]:
        raise NotImplementedError

    @property
    def elsewhere(self) -> Sequence[tuple[Path, str]]:
        """Files that were written in another folder, and what they hold."""
        return ()

    @property
    def of(self) -> str:
        return str(self.summary.get("of", "image"))

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        raise NotImplementedError

    @property
    def ranked(self) -> Sequence[Mapping[str, Any]]:
        return self.rows

    def top(self, count: int = FIRST) -> list[Mapping[str, Any]]:
        """The ``count`` rows that are to be looked at first: of an audit the highest risk, of a search the first groups.

        Raises:
            InputError: ``count`` is no integer >= 1.
        """
        return list(self.ranked[: checked("count", Count, count)])

    def to_pandas(self) -> pandas.DataFrame:
        """All rows as a ``pandas.DataFrame``, in the order of the file.

        Raises:
            MissingPackageError: pandas is missing.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingPackageError("to_pandas needs pandas: pip install pandas.") from error
        return pandas.DataFrame(list(self.rows))

    def __repr__(self) -> str:
        """One line: the rows of a table are asked for by name."""
        verdict, reason = self.headline
        return f"{type(self).__name__}({verdict}: {reason}; {len(self.rows)} rows, output {str(self.output)!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the conclusion, its numbers and the first rows, without pictures."""
        rows = [{**row, "match": source_of(row), "p_value": p_value_of(row)} if row.get("reason") else row for row in self.top()]
        names = short_names(str(row[column]) for row in rows for column in ("image", "match"))
        verdict, reason = self.headline
        return (
            page_templates()
            .get_template("result.html")
            .render(
                verdict=verdict,
                reason=reason,
                facts=self.facts,
                rows=rows,
                count=len(self.rows),
                columns=self.shown,
                short=lambda value: names.get(str(value), str(value)),
                cell=_cell,
                p_words=lambda p: p_words(p, self.summary.get("p_value_floors", ())),
                report=os.path.join(self.output, "report.html"),
            )
        )


def _cell(value: Any) -> str:
    """A value of a table in a notebook."""
    if isinstance(value, float):
        return "" if value != value else f"{value:.3g}"
    return str(value)


def audit_facts(summary: Mapping[str, Any]) -> dict[str, str]:
    """The numbers of an audit in words.

    Args:
        summary: what summary.json holds.
    """
    images, flagged, control = summary["images"], summary["flagged"], summary["flagged_control"]

    def whose(name: str) -> str:
        return of_whom(images[name], images[f"{name}_patients"], images.get(f"{name}_unnamed", 0))

    kinds = ", ".join(f"{kind} {count}" for kind, count in summary["findings"].items() if count)
    return {
        f"{summary.get('of', 'image')}s": f"{images['synthetic']} synthetic, {images['training']} training {whose('training')}, {images['control']} control {whose('control')}: {control_of(images['control'], images.get('control_from_training', 0), summary.get('of', 'image'))}",
        "flagged": f"{_share(flagged)}; of the control {_share(control)}",
        **({"as": kinds} if kinds else {}),
        **_common(summary),
    }


def overlap_facts(summary: Mapping[str, Any]) -> dict[str, str]:
    """The numbers of a search for what is there twice in words.

    Args:
        summary: what summary.json holds.
    """
    of_sets = {
        f"set {one['name']}": f"{counted(one['images'], summary['of'])}, {one['copies']} of them "
        f"{'in the other set, too' if summary['command'] == 'leak' else 'there more than once'}, {one['people']} in a group that was found"
        for one in summary["sets"]
    }
    groups = ", ".join(
        f"{relation_words(relation, summary['of'])} {count}" for relation, count in summary["groups"].items() if count
    )
    split, doubted, removable = summary["split"], summary["doubted_pairs"], summary["removable"]
    return {
        **of_sets,
        "groups": groups or "none",
        **({"doubted": f"{counted(doubted, 'pair')} not joined though alike, see pairs.csv"} if doubted else {}),
        **(
            {}
            if split is None
            else {
                "split": ", ".join(
                    f"{'part ' if str(p).isdigit() else ''}{p}: {counted(n, summary['of'])}"
                    for p, n in zip(split["parts"], split["images"], strict=True)
                )
            }
        ),
        **(
            {}
            if removable is None
            else {"removable": f"{counted(removable, 'file')} {'holds' if removable == 1 else 'hold'} nothing new"}
        ),
        **_common(summary),
    }


def _common(summary: Mapping[str, Any]) -> dict[str, str]:
    skipped = [one["set"] for one in summary["skipped"]]
    sets = ", ".join(f"{name} {count}" for name, count in Counter(skipped).items())
    minutes, seconds = divmod(round(sum(summary["seconds"].values())), 60)
    return {
        "left out": f"{counted(len(skipped), summary['of'])} ({sets}); the reasons are in summary.json" if skipped else "none",
        # An earlier run that was stopped has stored what this one found there.
        "took": (f"{minutes} min {seconds} s" if minutes else f"{seconds} s") + " in this run",
    }


def _share(share: Mapping[str, Any]) -> str:
    if not share["total"]:
        return "0 of 0"
    mean, lower, upper = (f"{100 * share[name]:.1f}" for name in ("share", "lower", "upper"))
    return f"{share['count']} of {share['total']} ({mean} %, 95 % Wilson interval {lower} to {upper} %)"


def _one_each(path: Path, result: ResultTable) -> bool:
    """Whether a table of volumes has a row for each image of a set of 2D images."""
    if result.of == "volume":
        return False
    with open(path, newline="", encoding="utf-8") as file:
        return sum(1 for _ in csv.reader(file)) == len(result.rows) + 1


def closing_lines(result: ResultTable, notes: Sequence[str], store: Path | str) -> tuple[str, ...]:
    """What a terminal is told at the end, a line each.

    Args:
        result: what was found.
        notes: further sentences.
        store: where the embeddings lie, which is not always in the output folder.
    """
    verdict, reason = result.headline
    folder, of = Path(os.path.abspath(result.output)), result.of
    there = [
        (name, told.format(image=of))
        for name, told in FILES.items()
        if name in (*result.written, "store")
        and (folder / name).exists()
        and not (name == ROLLED_UP and _one_each(folder / name, result))
    ]
    if is_url(store):
        there.append((str(store), FILES["store"]))
    elif Path(store).exists() and Path(os.path.abspath(store)) != folder / "store":
        there.append((os.path.abspath(store), FILES["store"]))
    there += [(os.path.abspath(path), told) for path, told in result.elsewhere]
    width = max([len(name) for name, _ in there if not os.path.isabs(name)], default=0)
    return (
        f"{verdict}: {reason}.",
        *notes,
        "",
        *(f"  {name:<10} {told}" for name, told in result.facts.items()),
        "",
        f"Written to {folder}:",
        *(f"  {name:<{width}}  {told}" for name, told in there),
        f"Report: {folder / 'report.html'}",
    )
