"""Every threshold of a decision in one record, which configs/audit.json names and summary.json repeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from doppelscan.arguments import Correction, Number, Rate, Score, Share, Whole, check_fields

__all__ = ["Rules", "VolumeRules"]


@dataclass(frozen=True)
class Rules:
    """Thresholds of an audit; docs/interpretation.md has the rules in words, docs/benchmarks.md how the numbers were chosen.

    Attributes:
        fdr: false discovery rate of all flags together, in (0, 1).
        correction: "bh" (Benjamini and Hochberg 1995) or "by" (Benjamini and Yekutieli 2001).
        score: what ranks and is calibrated: "combined", "verified", "deepssim" or "mi".
        identical: squared correlation at 64 pixels from which two images have the same pixels: 8-bit windows keep 0.9999, resizing 0.999; slices
            1 mm apart reached 0.994.
        identical_small: likewise at 16 pixels, for images that were resized to less than 80 pixels: 0.9985 to 0.9999; of slices 1 mm apart,
            resized to 64, 4 of 180 reached it.
        whole_rate: share of the rate that whole images have; regions are a second family of tests and have the rest. At 1 no region is tested.
        least_verified: a flag also needs a pair that agrees: unrelated people reach this now and then, copies nearly always.
        least_part: the same of a region.
        close_pair: a pair of at least this verified score agrees as copies do: unrelated people reached 0.65 in five cohorts.
        tail_confidence: p-values beyond the control's highest score are upper confidence bounds of its tail, see
            :class:`~doppelscan.calibrate.TailControl`.
        tail_extrapolation: and never smaller than the smallest that counting gives by more than this factor.
        position_patients: slices of one part of a volume have a control of their own from this many patients on.
        power: with at least this probability, as a lower 95 % limit, planted copies must be found for the words "no memorization found".
        bound: confidence of the upper bound of the share that may still be memorized.
        bounded_power: and planted copies must be found with at least this probability, as a lower 95 % limit, for any bound: of changes that are
            mostly missed, a little more misses all.
        owed_p: a set that is nearer to training than to other patients with a p-value of at most this is not called clean.
        beyond_part: the same for a region: by this factor less is left to perfect agreement than in the control's best region.
        close_part: and its agreement is at least this.
        beyond_control: of fewer control images the highest region says little; some dozen strangers may agree by accident.
        beyond_share: a region of this share of the structure is beyond the control whatever its size,
        beyond_widest: when it is by this factor larger than the control's largest.
        shared_part: and its agreement is at least this.
        explained: of the structure, at the image's own sharpness and noise, what the match must explain for the image and not only its patient
            to be the source; the next slice of four cohorts explains 0.5 to 0.91, of thick sagittal spine slices to 0.965.
        alone: and how much nearer it must be to that than to another patient's image: copies that were blurred by 2 of 128 pixels began at 0.1;
            of 1,296 means one that was explained so was as much nearer.
        beyond_plain: where a control image is explained as a copy is, by this factor less must be left unexplained than the best explained of these leaves,
        beyond_alone: and the pair must be nearer to its match than to other patients by this factor more than any of these is.
        no_source: an image that is no copy and this little nearer to its match is of no single patient: means of 3 to 10 reached 0.18.
        one_source: and is of one patient from here on: copies and neighbouring slices of whole brains begin at 0.3.
        coarse_explained: a blurred image that is explained to this share, but not as a copy is, may be either.
        same_patient_p: what is left open so, as it is blurred or as near to another patient's, is of its match's patient when the same-patient score says so, with
            this share of strangers' pairs as high,
        same_patient_lead: and by so much more than of that other patient (in natural logarithms of odds).
        usual_loss: what an image loses when it is moved by half a pixel; images of few pixels lose more, and
        loss_allowed: of that this share is allowed for.
        explained_twice: what is as near to another patient's image must be explained to this share to be a copy: means reached 0.966.
        mixed: agreement of what the match leaves unexplained with another training image, for a blend.
        third: no blend, but a mean of many, is what is as near to another patient, agrees so with a third image in what both leave,
        both: and is explained by both to less than this: blends of two reached 0.52 and began at 0.97, means of three began at 0.45 and reached 0.95.
        set_in: agreement of one cell with another training image, where the match disagrees, for a region that was set in.
        set_in_share: share of the structure where that image agrees.
        part_explained: a part leaves this much of the image unexplained by its match, and
        part_agrees: has cells that agree at least so, and
        part_disagrees: others that agree less than so:
        part_agreeing: of the cells at least this share agrees, and
        part_disagreeing: this one does not.
        smallest_patients: fewer patients in training or control cannot tell a copy from a look-alike.
        close_share: share of the control that agrees with training images as copies do, above which a copy would not stand out.
        apart_auc: a classifier that tells control from training patients with this AUC, and
        apart_p: by accident with at most this probability, says that the control is of another kind.
        same_person: share of the fine structure that one real image explains of another, at a verified score of a close pair, which makes them
            of one person: slices of one person 1 mm apart reach 0.885 to 0.965, other people stayed below 0.62 (T1 brain, spine) and 0.884 (T1ce,
            none of them a close pair).
        names_apart: of pairs that are of one person, the share that names of files may part and still name people; registration errs too.
        names_found: of the images that share a name which says nothing of a person, the share that must be in such pairs.
        names_people: or names that make at least this many people,
        names_most: none of them with more images than this, are believed without pairs: sites and scanners are few and large.
        names_p: and images of one name are each other's nearest by accident with at most this probability.
        names_refuted: names by a standard (BIDS) are believed without any of this, unless at least so many pairs of one person, and most of them, are of two.
        unlike: an image is unlike the training set when it lies this much further from it than its people lie from each other: strangers of
            the same kind reached 1.29 (T1 brain) and 1.44 (hippocampus), another plane began at 1.46, other scans at 1.45.
        unlike_usual: "from each other" is this quantile of the distances between people, or of the holdout's where it is larger
        unlike_holdout: and of at least so many images.
        unlike_images: of fewer training images the distances say too little: strangers of the same kind would be called unlike.
        unlike_most: a set of which a larger share is unlike is not called clean, whatever the others are,
        left_out: nor is one of which a larger share of the files could not be read or compared.
        idle: names of those that never act, which a summary leaves out.
    """

    idle: ClassVar[frozenset[str]] = frozenset()

    fdr: Rate = 0.05
    correction: Correction = "bh"
    score: Score = "combined"
    identical: Share = 0.998
    identical_small: Share = 0.9985
    whole_rate: Share = 0.8
    least_verified: Share = 0.6
    least_part: Share = 0.8
    close_pair: Share = 0.72
    tail_confidence: Rate = 0.95
    tail_extrapolation: Number = 100.0
    position_patients: Whole = 30
    power: Rate = 0.8
    bound: Rate = 0.95
    bounded_power: Share = 0.5
    owed_p: Share = 0.01
    beyond_part: Number = 8.0
    close_part: Share = 0.995
    beyond_control: Whole = 50
    beyond_share: Share = 0.3
    beyond_widest: Number = 2.0
    shared_part: Share = 0.98
    explained: Share = 0.96
    alone: Number = 0.1
    beyond_plain: Number = 4.0
    beyond_alone: Number = 2.0
    no_source: Number = 0.2
    one_source: Number = 0.25
    coarse_explained: Share = 0.9
    same_patient_p: Rate = 0.01
    same_patient_lead: Number = 1.0
    usual_loss: Number = 0.03
    loss_allowed: Share = 0.15
    explained_twice: Share = 0.985
    mixed: Share = 0.6
    third: Share = 0.45
    both: Share = 0.96
    set_in: Share = 0.9
    set_in_share: Share = 0.03
    part_explained: Share = 0.9
    part_agrees: Share = 0.9
    part_disagrees: Share = 0.5
    part_agreeing: Share = 0.1
    part_disagreeing: Share = 0.25
    smallest_patients: Whole = 5
    close_share: Share = 0.05
    apart_auc: Share = 0.9
    apart_p: Share = 0.001
    same_person: Share = 0.86
    names_apart: Share = 0.02
    names_found: Share = 0.33
    names_people: Whole = 20
    names_most: Whole = 20
    names_p: Share = 0.001
    names_refuted: Whole = 3
    unlike: Number = 1.35
    unlike_usual: Share = 0.99
    unlike_holdout: Whole = 20
    unlike_images: Whole = 80
    unlike_most: Share = 0.5
    left_out: Share = 0.05

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def tests_regions(self) -> bool:
        """Regions are a family of tests of their own."""
        return self.whole_rate < 1

    def same_image(self, explained: float, margin: float, loss: float = 0.0) -> bool:
        """Whether a pair is one image: the match explains ``explained`` of it, and agrees better than any other patient's by ``margin``.

        ``loss`` is what moving the match loses, see :func:`~doppelscan.verify.interpolation_losses`.
        """
        if margin < self.alone:
            # As near to another patient: one person under two names, whose copy is explained to the last, or nobody's.
            return explained >= self.explained_twice
        return explained >= self.explained - self.loss_allowed * max(0.0, loss - self.usual_loss)


@dataclass(frozen=True)
class VolumeRules(Rules):
    """:class:`Rules` of volumes: verified scores and explained shares are other measures than those of images.

    Verified is the agreement of the better half of the structure, explained the share of the structure in cells of an agreement above 0.7. The values were
    chosen on 72 T1 brains (shared/data/mri3d: 10 copies and 10 strangers through each of 24 transforms, blends and halves of five people) before other
    volumes were looked at. ``idle`` are those that never act here, as what they look at is not measured of volumes.

    Attributes:
        least_part: regions of 32 strangers among T1 brains reached 0.75; of eight thirds that were set into strangers seven were above 0.78, of quarters
            four. Of hippocampus crops 7 to 14 of 100 strangers reach it, up to 0.891: there the control alone keeps them out. From 0.9 on, which none
            reached, 3 of the 8 thirds would be left (of 10 others 2, where 0.78 leaves 5), and no quarter.
        close_part, beyond_part: a region is far beyond those of 50 controls that leaves less than half of what the best of them leaves.
        least_verified: strangers reached 0.846.
        close_pair: bent copies began at 0.93, all others at 0.95.
        explained: copies began at 0.99, strangers reached 0.55, copies of a half 0.83.
        alone, no_source, one_source: copies were by 0.13 or more nearer than the next patient, strangers of the same match by 0.03 as a rule.
        mixed: of blends of two with a quarter of the second, what the first leaves agreed with it to 0.735 to 0.90, and of 12 copies with anybody to 0.684.
        part_agrees, part_agreeing, part_disagrees, part_disagreeing: of halves that were replaced 0.38 or more of the cells agree above 0.9, and
            those of the other half, a stranger's, below 0.75.
        unlike, unlike_images: of 24 training people, strangers reached 0.97 (T1 brain) and 1.73 (hippocampus), volumes through 32 transforms 1.22 and 1.65
            but for those of which half was emptied; other anatomy, inverted volumes and noise began at 2.3 beside brains, noise at 2.1 beside hippocampus
            crops, where the others are not told so. Of 8 people strangers reached 2.9.
        smallest_extent: a volume is also unlike that holds less anatomy than this share of the training volume with the least: a half of a brain began
            at 0.58, thirds, ten slices and the middle reached 0.39 (of hippocampus crops 0.61); what went through the transforms began at 0.79, half
            emptied at 0.60.
        largest_extent: or more than so many times that of the largest: enlarged ones reached 1.5, a whole brain is 20 times a hippocampus crop.
    """

    idle: ClassVar[frozenset[str]] = frozenset({
        "third", "both", "set_in", "set_in_share", "coarse_explained", "usual_loss", "loss_allowed", "position_patients", "identical_small", "same_patient_p", "same_patient_lead",
    })  # fmt: skip

    least_verified: Share = 0.85
    least_part: Share = 0.78
    close_part: Share = 0.85
    beyond_part: Number = 2.0
    close_pair: Share = 0.9
    explained: Share = 0.9
    alone: Number = 0.05
    no_source: Number = 0.05
    one_source: Number = 0.07
    mixed: Share = 0.72
    part_agreeing: Share = 0.3
    part_disagrees: Share = 0.75
    part_disagreeing: Share = 0.1
    unlike: Number = 2.0
    unlike_images: Whole = 24
    smallest_extent: Share = 0.6
    largest_extent: Number = 5.0
