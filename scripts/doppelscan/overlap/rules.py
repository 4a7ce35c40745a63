"""Every threshold that only a search for people twice has; what makes a pair one person is shared with the audit's rules."""

from __future__ import annotations

from dataclasses import dataclass

from doppelscan.arguments import Count, Share, check_fields

__all__ = ["OverlapRules", "VolumeOverlapRules"]


@dataclass(frozen=True)
class OverlapRules:
    """Thresholds beside :class:`~doppelscan.decide.Rules`; docs/leaks.md has them in words.

    Attributes:
        changed: share of the structure, at the image's own sharpness and noise, that an image explains of another when both are one image that was
            changed (noise, JPEG, gamma, cropping): from 0.994 on; neighbouring slices of a spine reached 0.992, and a blurred copy may be of
            either, so
        same_detail: only such a pair whose fine structure agrees to this share, too, says that one of the files can go: neighbours reached 0.956.
        certain: a pair of this verified score is of one person though its fine structure was lost or bent (coarse or elastic copies): the nearest
            strangers of six cohorts reached 0.70.
        fewest: of fewer images whitening learns nothing of what strangers share: pairs that are not of the same pixels are then no evidence.
        large: groups of at least so many images are joined by more than one pair of one person, or by
        sure: a pair that explains this share of the fine structure: one wrong pair joins no two people of many images.
        shared_names: the same picture under more names than this is a template, a phantom or a logo: it joins nobody.
        suspected: in a split, pairs that join nobody keep people together all the same, up to this share of all images: many wrong ones would leave
            nothing to split.
        left_out: share of the images that could not be read above which nothing can be concluded from finding nothing.
    """

    changed: Share = 0.993
    same_detail: Share = 0.96
    certain: Share = 0.8
    fewest: Count = 30
    large: Count = 3
    sure: Share = 0.9
    shared_names: Count = 3
    suspected: Share = 0.05
    left_out: Share = 0.05

    def __post_init__(self) -> None:
        check_fields(self)

    def is_changed(self, explained: float, fine: float) -> bool:
        """Whether a pair is one image that was changed, by the shares of all structure and of the fine one."""
        return explained >= self.changed


@dataclass(frozen=True)
class VolumeOverlapRules(OverlapRules):
    """:class:`OverlapRules` of volumes, beside :class:`~doppelscan.decide.VolumeRules`.

    Attributes:
        changed: agreement of all structure from which two volumes are one that was changed. Nearly all cells of a second scan of one head may agree, so
            that the explained share says nothing; no second scans were there to be measured, and
        same_detail: only what agrees better still can go.
        certain: strangers reached 0.846 of 768 T1 brains and crops of the hippocampus; copies of a half have less explained.
        fewest: registration alone tells strangers apart, however few the volumes are.
    """

    changed: Share = 0.98
    same_detail: Share = 0.99
    certain: Share = 0.92
    fewest: Count = 2

    def is_changed(self, explained: float, fine: float) -> bool:
        return fine >= self.changed
