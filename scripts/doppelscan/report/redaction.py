"""Pseudonyms in the rows and the summary of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from doppelscan.decide import AuditSummary, LeftOut, ReviewedImages
from doppelscan.pseudonyms import Pseudonyms
from doppelscan.report.tables import Row

__all__ = ["ReportPseudonyms"]

IDENTIFYING = ("image", "patient", "match", "match_patient", "volume", "second_match", "part_match", "match_volume")


class ReportPseudonyms(Pseudonyms):
    """Pseudonyms of one redacted report."""

    def row(self, row: Row) -> Row:
        """A row of a table; of why a volume was left out, whatever looks like a path is taken out too."""
        hidden = {key: self.of(str(value)) if key in IDENTIFYING else value for key, value in row.items()}
        if row.get("left_out"):
            hidden["left_out"] = self.reason(str(row["volume"]), str(row["left_out"]))
        return hidden

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """Rows of a table, in the order of their first column: that of the names would undo the pseudonyms."""
        return sorted((self.row(row) for row in rows), key=lambda row: str(next(iter(row.values()))))

    def summary(self, summary: AuditSummary) -> AuditSummary:
        """The summary; of the reasons of what was left out, whatever looks like a path is taken out too."""
        twice = [
            replace(
                one,
                image=self.of(one.image),
                patient=self.of(one.patient),
                match=self.of(one.match),
                match_patient=self.of(one.match_patient),
            )
            for one in summary.near_duplicates
        ]
        return replace(summary, skipped=self.left_out(summary.skipped), near_duplicates=sorted(twice, key=lambda one: -one.score))

    def reviews(self, reviews: ReviewedImages) -> ReviewedImages:
        """The decisions without comments, in which anybody may be named; of reviewers there is only who is not who, and of dates nothing."""
        numbers = {name: f"reviewer {k}" for k, name in enumerate(dict.fromkeys(one.reviewer for one in reviews.said), 1)}
        hidden = [
            replace(one, image=self.of(one.image), comment="", reviewer=numbers[one.reviewer], date="") for one in reviews.said
        ]
        return ReviewedImages(tuple(sorted(hidden, key=lambda one: (one.image, one.reviewer))))

    def left_out(self, skipped: Sequence[LeftOut]) -> list[LeftOut]:
        """What was left out, in the order of the pseudonyms: that of the names would undo them for whoever has a list of the files."""
        hidden = [replace(one, path=self.of(one.path), reason=self.reason(one.path, one.reason)) for one in skipped]
        return sorted(hidden, key=lambda one: (one.set, one.path))
