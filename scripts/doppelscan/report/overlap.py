"""groups.csv, pairs.csv, remove.csv, the table of a split, and the page of a search for people who are there twice."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from doppelscan.files import to_csv
from doppelscan.locations import OVERLAP_FILES, SPLIT_COLUMNS
from doppelscan.overlap import KNOWN, RELATIONS, Group, Link, Membership, Overlap, OverlapSummary, Removal, Split
from doppelscan.pages import page_templates
from doppelscan.report.entries import short_names
from doppelscan.report.inline import inline_picture
from doppelscan.report.pose_words import pose_sentence
from doppelscan.report.redaction import ReportPseudonyms
from doppelscan.report.tables import NONE, Row
from doppelscan.report.volume_pictures import middle_planes
from doppelscan.report.write import write_files

__all__ = [
    "GROUP_COLUMNS",
    "PAIR_COLUMNS",
    "SPLIT_COLUMNS",
    "group_rows",
    "pair_rows",
    "relation_words",
    "split_rows",
    "strongest_pair",
    "surest_words",
    "write_overlap",
]

GROUP_COLUMNS = (
    "image", "set", "patient", "group", "relation", "match", "match_set", "match_patient", "score", "explained", "pose",
)  # fmt: skip
PAIR_COLUMNS = (
    "image", "set", "patient", "match", "match_set", "match_patient", "relation", "score", "explained", "fine", "pose", "group", "joined",
)  # fmt: skip
REMOVE_COLUMNS = ("path", "relation", "kept")
# 200 groups of up to 8 pictures of about 4 KB keep the page under 10 MB.
PICTURED_GROUPS, PICTURED_IMAGES, UNLINKED = 200, 8, 6


def group_rows(overlap: Overlap) -> list[Row]:
    """One row an image, in the order of the sets: its group, or none, and what is nearest to it."""
    told = _numbers(overlap)
    number = {row: told[group.number] for group in overlap.groups for row in group.rows}
    member = {one.row: one for group in overlap.groups for one in group.members}
    sides = _longer_sides(overlap)
    return [_group_row(overlap, row, number.get(row, 0), member.get(row), sides[row]) for row in range(len(sides))]


def _longer_sides(overlap: Overlap) -> list[int]:
    """Of each image, in pixels."""
    images = overlap.found.pool.images
    return images.native_shapes(range(len(images))).max(1).tolist()


def _group_row(overlap: Overlap, row: int, number: int, member: Membership | None, side: int) -> Row:
    pool, found = overlap.found.pool, overlap.found.nearest[row]
    match, score, explained, pose = found.row, found.score, NONE, ""
    if member is not None and member.link is not None:
        match, score, explained = member.nearest, member.link.score, member.link.explained
        pose = _pose_words(member.link, row, side)
    record = pool.images.records[row]
    other = None if match < 0 else pool.images.records[match]
    return {
        "image": record.id,
        "set": pool.names[pool.of_set[row]],
        "patient": record.patient if record.patient_known else "",
        "group": str(number or ""),
        "relation": "" if member is None else member.relation,
        "match": "" if other is None else other.id,
        "match_set": "" if other is None else pool.names[pool.of_set[match]],
        "match_patient": other.patient if other is not None and other.patient_known else "",
        "score": score,
        "explained": explained,
        "pose": pose,
    }


def _pose_words(link: Link, row: int, side: int) -> str:
    """What maps the other image of a link on image ``row`` of so many pixels."""
    pose = link.pose if link.first == row else link.pose.inverse
    return pose.words(side)


def pair_rows(overlap: Overlap) -> list[Row]:
    """One row a link, the strongest first."""
    pool, records = overlap.found.pool, overlap.found.pool.images.records
    rows: list[Row] = []
    sides, told = _longer_sides(overlap), _numbers(overlap)
    for link in sorted(overlap.links, key=lambda one: (*one.strength, one.first, one.second)):
        first, second = records[link.first], records[link.second]
        rows.append(
            {
                "image": first.id,
                "set": pool.names[pool.of_set[link.first]],
                "patient": first.patient if first.patient_known else "",
                "match": second.id,
                "match_set": pool.names[pool.of_set[link.second]],
                "match_patient": second.patient if second.patient_known else "",
                "relation": link.relation,
                "score": link.score,
                "explained": link.explained,
                "fine": link.fine,
                "pose": _pose_words(link, link.first, sides[link.first]),
                "group": str(told.get(overlap.grouping.of_image[link.first], "") if link.joins else ""),
                "joined": link.joins,
            }
        )
    return rows


def strongest_pair(overlap: Overlap) -> Row | None:
    """The surest pair, as a row of pairs.csv in short; of two sets the image is of the second. None where nothing was found."""
    pool, link = overlap.found.pool, overlap.surest
    if link is None:
        return None
    rows = (link.first, link.second)
    image, match = sorted(rows, key=lambda row: -pool.of_set[row]) if overlap.command == "leak" else rows
    return {
        "image": pool.images.records[image].id,
        "set": pool.names[pool.of_set[image]],
        "match": pool.images.records[match].id,
        "match_set": pool.names[pool.of_set[match]],
        "relation": link.relation,
        "score": link.score,
        "pose": _pose_words(link, image, _longer_sides(overlap)[image]),
    }


def relation_words(relation: str, of: str) -> str:
    """A relation as it is read: of volumes it speaks of volumes."""
    return relation.replace("image", of)


def surest_words(pair: Mapping[str, object] | None, of: str) -> str:
    """What :func:`strongest_pair` says, a sentence without its full stop; empty where there is none.

    Args:
        pair: as summary.json holds it.
        of: what was compared, image or volume.
    """
    if pair is None:
        return ""
    names = short_names(str(pair[name]) for name in ("image", "match"))
    image, match = (names[str(pair[name])] for name in ("image", "match"))
    posed = pose_sentence(str(pair["pose"]), of == "volume")
    if pair["relation"] == "same person":
        return f"the surest pair: {image} and {match} look like one person (score {float(str(pair['score'])):.2f}; {match} {posed})"
    what = {"same image": f"is {match}", "part": f"holds a part of {match}"}.get(str(pair["relation"]), f"is {match} changed")
    return f"the surest pair: {image} {what}, {posed}"


def split_rows(overlap: Overlap, split: Split, parts: Sequence[str]) -> list[Row]:
    """One row a file: slices of a volume fall into one part."""
    pool = overlap.found.pool
    rows: dict[tuple[int, str], Row] = {}
    for row, record in enumerate(pool.images.records):
        named = record.patient if record.patient_known else ""
        for path in record.paths:
            rows.setdefault(
                (pool.of_set[row], path),
                {
                    "path": path,
                    "set": pool.names[pool.of_set[row]],
                    "patient": named,
                    "person": split.person[row],
                    "part": parts[split.part[row]],
                },
            )
    return list(rows.values())


def write_overlap(
    output: Path,
    overlap: Overlap,
    summary: OverlapSummary,
    removals: Sequence[Removal] | None = None,
    redact: bool = False,
    key: Path | None = None,
) -> list[Row]:
    """Write groups.csv, pairs.csv, summary.json and report.html to ``output``, and remove.csv where ``removals`` are given; else that of an earlier run goes.

    Args:
        output: folder.
        overlap: what was found.
        summary: what summary.json holds.
        removals: files that are there twice; not with ``redact``, as the list names them.
        redact: leave out pictures, paths and patients.
        key: file outside of ``output`` that says which pseudonym stands for what; None keeps none.

    Returns:
        the rows of groups.csv as they were written.

    Raises:
        ReportError: a file cannot be written; what was written before is whole.
    """
    rows, pairs = group_rows(overlap), pair_rows(overlap)
    number_of = _numbers(overlap)
    page_rows = rows
    if redact:
        names = ReportPseudonyms()
        page_rows = [names.row(row) for row in rows]
        rows, pairs = names.rows(rows), names.rows(pairs)
        # Groups are numbered in the order of the files, which is not to be told.
        order = dict.fromkeys(str(row["group"]) for row in rows if row["group"])
        renamed = {old: str(new) for new, old in enumerate(order, 1)}
        number_of = {group: int(renamed[str(number)]) for group, number in number_of.items()}
        for row in (*rows, *pairs):
            row["group"] = renamed.get(str(row["group"]), "")
        disagreements = [
            {**one, **{name: names.of(str(one[name])) for name in ("patient", "match_patient", "image", "match")}}
            for one in summary.disagreements
        ]
        summary = replace(summary, skipped=names.left_out(summary.skipped), disagreements=disagreements)
        if key is not None:
            names.write_key(key)
    files = {"groups.csv": to_csv(GROUP_COLUMNS, rows), "pairs.csv": to_csv(PAIR_COLUMNS, pairs)}
    if removals is not None:
        files["remove.csv"] = to_csv(
            REMOVE_COLUMNS, [{"path": one.path, "relation": one.relation, "kept": one.kept} for one in removals]
        )
    files["summary.json"] = json.dumps(summary.as_dict(), indent=2, default=float)
    files["report.html"] = _page(overlap, summary, page_rows, number_of, redact)
    write_files(output, files)
    for name in set(OVERLAP_FILES) - files.keys():  # of an earlier run
        (output / name).unlink(missing_ok=True)
    return rows


def _rank(group: Group) -> tuple[int, int]:
    """Sorts copies first, and of each kind the largest."""
    return [*RELATIONS, KNOWN].index(group.relation), -len(group.rows)


def _numbers(overlap: Overlap) -> dict[int, int]:
    """Number of each group that was asked for -> the number that it is told by: from 1, as the page shows them."""
    ranked = sorted(overlap.groups, key=lambda one: (*_rank(one), one.number))
    return {one.number: place for place, one in enumerate(ranked, 1)}


def _page(overlap: Overlap, summary: OverlapSummary, rows: Sequence[Row], number_of: dict[int, int], redact: bool) -> str:
    """The page as HTML text; ``rows`` are those of groups.csv in the order of the pool."""
    # Of a redacted page equals come by their new numbers.
    shown = sorted((one for one in overlap.groups if one.found), key=lambda one: (*_rank(one), number_of[one.number]))
    groups = [_shown_group(overlap, one, rows, number_of, redact or place >= PICTURED_GROUPS) for place, one in enumerate(shown)]
    kinds: dict[str, int] = defaultdict(int)
    for one in shown:
        kinds[one.relation] += 1
    return (
        page_templates()
        .get_template("overlap.html")
        .render(
            summary=summary,
            volumes=summary.of == "volume",
            groups=groups,
            kinds=", ".join(f"{kinds[name]} {relation_words(name, summary.of)}" for name in RELATIONS if kinds[name]),
            relation=lambda name: relation_words(name, summary.of),
            pose=lambda words: pose_sentence(words, summary.of == "volume"),
            surest=surest_words(summary.strongest, summary.of),
            unlinked=[_shown_pair(overlap, one, rows, redact) for one in overlap.unlinked[:UNLINKED]],
            known=sum(not one.found for one in overlap.groups),
            redact=redact,
            pictured=PICTURED_GROUPS,
            colour={"cannot conclude": "unsure"}.get(
                summary.conclusion, "clear" if summary.conclusion.startswith("no ") else "found"
            ),
        )
    )


def _shown_group(overlap: Overlap, group: Group, rows: Sequence[Row], number_of: dict[int, int], plain: bool) -> dict[str, object]:
    """What the page shows of a group: linked images first, pictures of some of them."""
    members = sorted(group.members, key=lambda one: (one.link is None, (0, 0.0, 0.0) if one.link is None else one.link.strength))
    chosen = members[:PICTURED_IMAGES]
    pictures: list[str] = []
    if not plain:
        pictures = _pictures(overlap, [one.row for one in chosen])
    # A redacted page lists equals by their pseudonyms: their order in the set would undo them.
    told = [rows[one.row] | {"picture": pictures[i] if pictures else ""} for i, one in enumerate(chosen)]
    return {
        "number": number_of[group.number],
        "relation": group.relation,
        "images": told if pictures else sorted(told, key=lambda row: str(row["image"])),
        "size": len(group.members),
        "more": len(group.members) - len(chosen),
        "names": sorted({str(rows[one.row]["patient"]) for one in group.members} - {""}),
        "sets": [overlap.found.pool.names[number] for number in group.sets],
    }


def _pictures(overlap: Overlap, rows: Sequence[int]) -> list[str]:
    """Of some images what the page shows, in base64; of volumes the three planes through the middle."""
    images = [one[0] for one in overlap.found.pool.images.thumbnails(rows).numpy()]
    return [inline_picture(middle_planes(one) if one.ndim == 3 else one) for one in images]


def _shown_pair(overlap: Overlap, pair: tuple[int, int, float], rows: Sequence[Row], redact: bool) -> dict[str, object]:
    """What the page shows of a pair that was not linked."""
    chosen = pair[:2]
    pictures = ["", ""]
    if not redact:
        pictures = _pictures(overlap, chosen)
    told = [rows[row] | {"picture": picture} for row, picture in zip(chosen, pictures, strict=True)]
    return {"score": pair[2], "images": told}
