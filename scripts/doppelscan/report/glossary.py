"""The terms of the page, each explained once, in the words of docs/interpretation.md."""

from __future__ import annotations

__all__ = ["glossary", "kinds_told"]

GLOSSARY = {
    "flagged": "An image that is too near to one training image to be explained by chance, as the control measures it.",
    "interval": "The true share lies in this range with 95 % confidence (Wilson 1927; images of one volume, or of one patient of the control, count as far as they differ). Few images make it wide.",
    "control": "Real images of other patients, of the holdout or of training held against the others, looked for in the training set in the same way: how near do strangers come?",
    "residual risk": "Share of the set that shows a patient beyond what chance explains: (share that shows a patient - share of the control) / (1 - share of the control).",
    "exposed": "A training patient whom at least one flagged image shows.",
    "memorized share": "At most so much of the set is a copy, also of copies that were missed: what planted copies of this cohort show, with 95 % confidence.",
    "score": "The one number that ranks, about 0 to 1: mostly how well the image agrees with its match after registration (verified), a little what the encoder and the Memorization Index say.",
    "verified": "Agreement of the registered pair: 0.35 x correlation of fine detail + 0.65 x agreement of local structure. Other people stay below 0.65, copies mostly above 0.8.",
    "p-value": "How often a stranger, as the control shows them, would score as high. Beyond the control it is an upper limit of a tail fitted to it; ≤ where that was cut off.",
    "q-value": "Flagging all images down to this one, about this share of the flags would be false.",
    "SSIM": "Structural similarity of image and match in its pose: 1 is the same picture. Above 0.85 duplicate, above 0.60 similar.",
    "DeepSSIM": "The encoder's estimate of that similarity, without aligning.",
    "Memorization Index": "MI: how many standard deviations nearer to the training set than other patients are. ONI is its gauge, -1 memorized, +1 novel.",
    "best region": "Agreement of the region that agrees best with any training image, in the same place.",
    "field of view": "Share of the picture in which the two agree as one person's images do.",
    "pose": "What has to be done to the training image so that it lies on the synthetic one.",
}  # fmt: skip

KINDS_TOLD = {
    "copy": "a training image came back, perhaps turned, mirrored, noisy, blurred or of other contrast",
    "blend": "two training images in one, mixed or side by side",
    "part": "only a region is copied",
    "same patient?": "the patient came back, but perhaps not this image: a neighbouring slice, another visit, or a copy too blurred to tell from one",
    "no single source": "derived from training images, of no patient alone",
    "unresolved": "a patient came back, but the picture does not tell whether as a copy, or whose",
}

# What volumes have another word for, or another measure.
OF_VOLUMES = {
    "flagged": "A volume that is too near to one training volume to be explained by chance, as the control measures it.",
    "interval": "The true share lies in this range with 95 % confidence (Wilson); few volumes make it wide.",
    "control": "Real volumes of other patients, of the holdout or of training held against the others, looked for in the training set in the same way: how near do strangers come?",
    "exposed": "A training patient whom at least one flagged volume shows.",
    "score": "The one number that ranks, about 0 to 1: mostly how well the volume agrees with its match after registration in 3D (verified), a little what the encoder says of its slices.",
    "verified": "Agreement of the better half of the structure of the registered pair, so that half a copy counts as one. Of T1 brains strangers stayed below 0.85, copies began at 0.93.",
    "q-value": "Flagging all volumes down to this one, about this share of the flags would be false.",
    "SSIM": "Structural similarity in 3D of volume and match in its pose: 1 is the same volume. No class follows: brains of two people, registered, usually exceed 0.85.",
    "field of view": "Share of the structure, where both show some, in which the two agree.",
    "pose": "What has to be done to the training volume so that it lies on the synthetic one; x runs to the right, y to the front, z up.",
}  # fmt: skip
KINDS_OF_VOLUMES = {
    "copy": "a training volume came back, perhaps turned, mirrored, noisy, blurred or of other contrast",
    "blend": "two training volumes in one, mixed or side by side",
    "same patient?": "the patient came back, but perhaps not this volume: another visit",
    "no single source": "derived from training volumes, of no patient alone",
    "unresolved": "a patient came back, but the volume does not tell whether as a copy, or whose",
}


def glossary(volumes: bool) -> dict[str, str]:
    """The terms of a page of images, or of volumes."""
    return GLOSSARY | OF_VOLUMES if volumes else GLOSSARY


def kinds_told(volumes: bool) -> dict[str, str]:
    """What each kind of finding says, of images or of volumes."""
    return KINDS_TOLD | KINDS_OF_VOLUMES if volumes else KINDS_TOLD
