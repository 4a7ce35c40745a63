"""A document as PDF: every row of every table, over as many pages as it takes, numbered; the same record gives the same bytes."""

from __future__ import annotations

import functools
import io
import unicodedata
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from reportlab.lib import colors
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import CondPageBreak, Flowable, LongTable, Paragraph, SimpleDocTemplate, Spacer, TableStyle

from doppelscan.filing.document import Document, Facts, Section, Table, Text

__all__ = ["render_pdf"]

# Frames of reportlab pad by 6 points.
MARGIN, WIDTH = 16 * mm, A4[0] - 32 * mm - 12
INK, SOFT, LINE = colors.HexColor("#1f2933"), colors.HexColor("#5f6c7b"), colors.HexColor("#d9e0e7")
SIGNALS = {"found": "#c0392b", "clear": "#2e7d4f", "unsure": "#b7791f"}
# matplotlib ships DejaVu with its licence: Latin, Greek, Cyrillic and more, and the same on every machine.
FONT, BOLD = "DejaVuSans", "DejaVuSans-Bold"
# Of scripts that it lacks, fonts that readers of PDF have: Japanese, Korean, Chinese.
READERS = {"HIRAGANA": "HeiseiKakuGo-W5", "KATAKANA": "HeiseiKakuGo-W5", "HANGUL": "HYGothic-Medium", "CJK": "STSong-Light"}
REPLACEMENT = "\ufffd"
CELL_PADDING = 3


@functools.cache
def _fonts() -> frozenset[int]:
    """Registers the fonts; the characters that the first one has."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for name in (FONT, BOLD):
        pdfmetrics.registerFont(TTFont(name, str(folder / f"{name}.ttf")))
    pdfmetrics.registerFontFamily(FONT, normal=FONT, bold=BOLD, italic=FONT, boldItalic=BOLD)
    for name in sorted(set(READERS.values())):
        pdfmetrics.registerFont(UnicodeCIDFont(name))
    return frozenset(pdfmetrics.getFont(FONT).face.charToGlyph)


def _said(text: str) -> str:
    """``text`` as a paragraph's markup: what is in no font becomes a replacement character, what is no character nothing."""
    known = _fonts()
    runs: list[tuple[str, list[str]]] = []
    for one in unicodedata.normalize("NFC", text):
        font = ""
        if one in "\n\t":
            one = " "
        elif unicodedata.category(one) in ("Cc", "Cs", "Cf"):
            continue
        elif ord(one) not in known:
            script = unicodedata.name(one, "").split(" ")[0]
            font = READERS.get(script, "") if ord(one) < 0x10000 else ""
            one = one if font else REPLACEMENT
        if runs and runs[-1][0] == font:
            runs[-1][1].append(one)
        else:
            runs.append((font, [one]))
    parts = ((font, escape("".join(some), quote=False)) for font, some in runs)
    return "".join(f'<font name="{font}">{some}</font>' if font else some for font, some in parts)


def _style(size: float, **changed: Any) -> ParagraphStyle:
    given = {
        "fontName": FONT,
        "fontSize": size,
        "leading": size * 1.35,
        "textColor": INK,
        "spaceAfter": 2,
        "splitLongWords": True,
        **changed,
    }
    return ParagraphStyle(f"{size}{sorted(changed)}", **given)


BODY, SMALL, CELL = _style(8.5), _style(7.5, textColor=SOFT), _style(7)
NUMBER = _style(7, alignment=TA_RIGHT)
HEAD, HEAD_NUMBER = _style(6.5, fontName=BOLD), _style(6.5, fontName=BOLD, alignment=TA_RIGHT)
HEADING = _style(12, fontName=BOLD, spaceBefore=10, spaceAfter=4)


class _Numbered(Canvas):
    """Writes the footer when the number of pages is known."""

    footer = ""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._pages: list[dict[str, Any]] = []

    def showPage(self) -> None:
        self._pages.append(dict(self.__dict__))
        self._startPage()

    def save(self) -> None:
        for number, page in enumerate(self._pages, 1):
            self.__dict__.update(page)
            self.setFont(FONT, 6.5)
            self.setFillColor(SOFT)
            self.drawString(MARGIN, 9 * mm, _fitted(self.footer, WIDTH - 30 * mm))
            self.drawRightString(A4[0] - MARGIN, 9 * mm, f"page {number} of {len(self._pages)}")
            super().showPage()
        super().save()


def _fitted(text: str, width: float) -> str:
    known = _fonts()
    plain = "".join(one if ord(one) in known else REPLACEMENT for one in unicodedata.normalize("NFC", text))
    while pdfmetrics.stringWidth(plain, FONT, 6.5) > width:
        plain = plain[: int(len(plain) * 0.95)].rstrip(".") + "..."
    return plain


def render_pdf(document: Document, keywords: str = "") -> bytes:
    """The PDF as bytes.

    Args:
        document: what it shows.
        keywords: kept in its properties, for :func:`doppelscan.filing.check`.
    """
    _fonts()
    buffer = io.BytesIO()
    canvas = type("Numbered", (_Numbered,), {"footer": document.footer})
    template = SimpleDocTemplate(
        buffer, pagesize=A4, leftMargin=MARGIN, rightMargin=MARGIN, topMargin=14 * mm, bottomMargin=16 * mm, invariant=1, title=document.title,
        author="", creator="doppelscan", subject=document.words, keywords=keywords, lang="en",
    )  # fmt: skip
    flow: list[Flowable] = [*_head(document)]
    for section in document.sections:
        flow += _section(section)
    template.build(flow, canvasmaker=canvas)
    return buffer.getvalue()


def _head(document: Document) -> list[Flowable]:
    signal = colors.HexColor(SIGNALS[document.colour])
    words = document.words[:1].upper() + document.words[1:]
    facts = [
        [Paragraph(f"<b>{_said(value)}</b>", _style(11)) for value, _, _ in document.facts],
        [Paragraph(f"{_said(what)}<br/><font color='#5f6c7b'>{_said(more)}</font>", CELL) for _, what, more in document.facts],
    ]
    table = LongTable(facts, colWidths=[WIDTH / len(document.facts)] * len(document.facts))
    table.setStyle(
        TableStyle(
            [("LINEABOVE", (0, 0), (-1, 0), 1, LINE), ("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (-1, -1), 0)]
        )
    )
    return [
        Paragraph(_said(document.title), _style(10, textColor=SOFT)),
        Paragraph(_said(words), _style(20, fontName=BOLD, textColor=signal, spaceAfter=6)),
        Paragraph(f"{_said(document.reason)}.", BODY),
        Spacer(1, 6),
        table,
    ]


def _section(section: Section) -> list[Flowable]:
    # Not alone at the foot of a page; kept with all of its table, it would leave half a page empty.
    flow: list[Flowable] = [CondPageBreak(32 * mm), Paragraph(_said(section.heading), HEADING)]
    for block in section.blocks:
        if isinstance(block, Text):
            style = SMALL if block.soft else BODY
            if block.warning:
                style = _style(
                    8.5,
                    borderColor=colors.HexColor(SIGNALS["unsure"]),
                    borderWidth=0.8,
                    borderPadding=3,
                    spaceBefore=5,
                    spaceAfter=7,
                )
            flow.append(Paragraph(_said(block.text), style))
        elif isinstance(block, Facts):
            rows = [
                [Paragraph(_said(name), _style(7.5, textColor=SOFT)), Paragraph(_said(value), _style(7.5))]
                for name, value in block.rows
            ]
            flow.append(_table(rows, (0.24, 0.76), repeated=0))
        else:
            flow.append(_rows(block))
    return flow


def _rows(block: Table) -> Flowable:
    head = [Paragraph(_said(name), HEAD_NUMBER if i in block.numbers else HEAD) for i, name in enumerate(block.head)]
    rows = [[Paragraph(_said(cell), NUMBER if i in block.numbers else CELL) for i, cell in enumerate(row)] for row in block.rows]
    # To sign in.
    high = (
        None if not block.rows or any(row[1:] != ("",) * (len(row) - 1) for row in block.rows) else [None, *[11 * mm] * len(rows)]
    )
    table = _table([head, *rows], block.widths, repeated=1, high=high)
    table.setStyle(TableStyle([("RIGHTPADDING", (i, 0), (i, -1), 2 * CELL_PADDING) for i in block.numbers]))
    return table


def _table(rows: list[list[Flowable]], widths: Sequence[float], repeated: int, high: list[float | None] | None = None) -> LongTable:
    table = LongTable(
        rows,
        colWidths=[share * WIDTH for share in widths],
        rowHeights=high,
        repeatRows=repeated,
        splitByRow=1,
        splitInRow=1,
        hAlign="LEFT",
    )
    table.setStyle(
        TableStyle(
            [
                ("LINEBELOW", (0, 0), (-1, -1), 0.4, LINE),
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("LEFTPADDING", (0, 0), (-1, -1), 1),
                ("RIGHTPADDING", (0, 0), (-1, -1), CELL_PADDING),
                ("TOPPADDING", (0, 0), (-1, -1), 1.5),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 1.5),
            ]
        )
    )
    table.spaceAfter = 6
    return table
