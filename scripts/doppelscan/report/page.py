"""report.html: one offline page. Conclusion and what may be signed, findings, every other image, then what the conclusion rests on."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from doppelscan.decide import DISPUTED, KINDS, AuditSummary, Decision, ReviewedImages, ScoredImage, count_kinds
from doppelscan.deepssim import verdict
from doppelscan.pages import page_templates
from doppelscan.report.agreement_scale import AGREES, DIFFERS, DISAGREES, GREY, TINT, AgreementScale, colour_bars
from doppelscan.report.entries import Entries, PageEntry, entries_of, short_names
from doppelscan.report.gallery import hang
from doppelscan.report.glossary import glossary, kinds_told
from doppelscan.report.histogram import distributions
from doppelscan.report.may_sign import may_sign, to_quote
from doppelscan.report.page_data import LISTED, page_data
from doppelscan.report.pair_pictures import PairPicture, pair_picture, plain_picture
from doppelscan.report.pose_words import pose_sentence
from doppelscan.report.tables import Row
from doppelscan.scores import p_words
from doppelscan.verify import FullSizePair

__all__ = ["ReviewPage", "render_page"]

# Pairs that are pictured, brought into their pose, and images that are shown beside their match as it is. The others are rows without pictures.
PICTURED_PAIRS, PICTURED_OTHERS = 5000, 2000
# Of volumes so many pairs are there with all their slices, about 130 KB each, and so many others are pictured.
SLICED_VOLUMES = 60
# Pairs that are there at the resolution of their files, too, about 150 KB each, for which two files each are read again.
LARGE_PAIRS, LARGE_VOLUMES = 200, 60
# Pairs that the page draws, about 40 elements each; further ones are a picture and a line, which the script draws when they are come to: a browser takes
# seconds for thousands. On paper all of them are there.
DRAWN_PAIRS = 200


@dataclass(frozen=True)
class ReviewPage:
    """The page.

    Attributes:
        text: its HTML.
        files: name -> bytes of the pictures that lie beside it, in :data:`~doppelscan.report.gallery.FOLDER`.
    """

    text: str
    files: Mapping[str, bytes]


def render_page(
    decision: Decision,
    summary: AuditSummary,
    rows: Sequence[Row],
    exposure: Sequence[Row],
    pair: Callable[[ScoredImage], Any] | None = None,
    *,
    full: Callable[[ScoredImage], FullSizePair | None] | None = None,
    pseudonym: Callable[[str], str] | None = None,
    reviews: ReviewedImages | None = None,
    audit: str = "",
) -> ReviewPage:
    """Draw the page.

    Args:
        decision: the finished audit.
        summary: what summary.json holds.
        rows: rows of scores.csv, already redacted where asked for.
        exposure: rows of exposure.csv, likewise.
        pair: gives the :class:`~doppelscan.verify.AlignedPair` of a scored image, or the ``AlignedVolume`` of a volume; without it there are no pictures.
        full: gives the same pair at the resolution of its files, or None; without it pairs are no larger than they were compared.
        pseudonym: of a name, of a redacted page, which has no pictures either.
        reviews: what reviewers decided, with names as in ``rows``.
        audit: names the audit: its tables' hash.
    """
    entries, reviews, redact = entries_of(decision, rows, pseudonym), reviews or ReviewedImages(), pseudonym is not None
    volumes = summary.of == "volume"
    scale = AgreementScale.of(decision)
    slices, side = volumes and not redact, len(decision.training.thumbnails([0])[0][0]) if volumes else 0
    gallery = hang(
        {} if redact or pair is None else _pictures(decision, entries, pair, full or (lambda scored: None), volumes, scale)
    )
    names = [str(row[column]) for row in rows for column in ("image", "match", "part_match", "second_match", "match_patient")]
    shorts = short_names([*names, *(str(row["patient"]) for row in exposure)])
    # Whose pictures stand in the page itself.
    drawn = {one.number for one in (*entries.flagged, *entries.nearest)}
    environment = page_templates()
    environment.globals |= {
        "short": lambda name: shorts.get(str(name), str(name)),
        "gloss": glossary(volumes),
        "p_words": lambda p, of_it=None: p_words(p, decision.floors, of_it),
    }
    style, script = (
        environment.get_template(name).render(
            colour=COLOURS[summary.conclusion],
            volumes=volumes,
            slices=slices,
            redact=redact,
            pictured=PICTURED_PAIRS,
            side=side,
            scale=scale,
            hues={"differs": list(DIFFERS), "disagrees": list(DISAGREES), "agrees": list(AGREES)},
            tint=TINT,
            grey=GREY,
        )
        for name in ("review.css", "review.js")
    )
    text = environment.get_template("report.html").render(
        summary=summary,
        style=style,
        script=script,
        policy=_policy(style, script),
        data=page_data(entries, shorts, gallery.shown, reviews, audit, drawn, volumes, decision.floors),
        entries=entries,
        shown=gallery.shown,
        in_folder=bool(gallery.files),
        kinds=count_kinds(summary.findings),
        kinds_told={kind: told for kind in KINDS if (told := kinds_told(volumes).get(kind, "")) and summary.findings.get(kind)},
        may_sign=may_sign(decision, summary),
        to_quote=to_quote(summary),
        exposure=exposure,
        conditions=sorted({one.condition for one in entries.every if one.condition}),
        distributions=distributions(decision, summary.of),
        disagreements=_disagreements(entries, reviews),
        redact=redact,
        control_verdicts=None if volumes else _verdicts(decision),
        volumes=volumes,
        slices=slices,
        side=side,
        listed=LISTED,
        drawn=DRAWN_PAIRS,
        scale=scale,
        bars=lambda name: colour_bars(scale, name),
        pose=lambda entry: pose_sentence(str(entry.row["pose"]), volumes),
    )
    return ReviewPage(text, gallery.files)


COLOURS = {"memorization found": "found", "no memorization found": "clear", "cannot conclude": "unsure"}


def _policy(style: str, script: str) -> str:
    """What a browser may do with the page: its own style and script by their hash, pictures in it and beside it, nothing else."""
    told = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in (style, script)]
    return f"default-src 'none'; style-src 'sha256-{told[0]}'; script-src 'sha256-{told[1]}'; img-src data: 'self' file:; base-uri 'none'; form-action 'none'"


def _pictures(
    decision: Decision,
    entries: Entries,
    pair: Callable[[ScoredImage], Any],
    full: Callable[[ScoredImage], FullSizePair | None],
    volumes: bool,
    scale: AgreementScale,
) -> dict[int, PairPicture]:
    """Number of an entry -> its picture: flagged and nearest in their pose, the first of them as large as their files, of the rest the nearest as they are."""
    posed = [*entries.flagged[:PICTURED_PAIRS], *entries.nearest]
    nearest = {one.number for one in entries.nearest}
    large = {one.number for one in entries.flagged[: LARGE_VOLUMES if volumes else LARGE_PAIRS]} | nearest
    sliced = {one.number for one in entries.flagged[:SLICED_VOLUMES]} | nearest
    others = [one for one in entries.others if one.number > entries.nearest[-1].number] if entries.nearest else []
    # In the order of the set: slices of a volume are read one after the other.
    return {
        one.number: pair_picture(
            decision, one.pair, pair(one.pair), scale, one.number in sliced, full(one.pair) if one.number in large else None
        )
        for one in sorted(posed, key=lambda one: one.pair.row)
    } | {one.number: plain_picture(decision, one.pair) for one in others[: SLICED_VOLUMES if volumes else PICTURED_OTHERS]}


def _disagreements(entries: Entries, reviews: ReviewedImages) -> dict[str, list[PageEntry]]:
    """Where reviewers and flags, or reviewers among themselves, do not agree."""
    told = reviews.by_image

    def said(entry: PageEntry) -> str:
        return told.get(str(entry.row["image"]), "")

    return {
        "flagged, but no copy to reviewers": [one for one in entries.flagged if said(one) == "not a copy"],
        "not flagged, but a copy to reviewers": [one for one in entries.others if said(one) == "copy"],
        "reviewers disagree": [one for one in entries.every if said(one) == DISPUTED],
    }


def _verdicts(decision: Decision) -> dict[str, int]:
    """How many control pairs are of each class."""
    classes = [verdict(one.scored.ssim) for one in decision.control]
    return {name: classes.count(name) for name in ("duplicate", "similar", "different")}
