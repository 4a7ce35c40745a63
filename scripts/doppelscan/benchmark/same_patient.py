"""Our same-patient score as a ranking of its own: of which training patient is an image, at whatever place of the anatomy."""

from __future__ import annotations

import numpy as np
import torch

from doppelscan.rivals import Ranking, nearest, require_squares
from doppelscan.verify import Framing, all_same_patient_scores

__all__ = ["SAME_PATIENT", "SamePatientRanking"]

SAME_PATIENT = "doppelscan, same patient"
# Of the control's scores of a training image this share lies below what counts as none: some people look like many.
USUAL = 0.98
# Of the control that may be taken for training patients.
RATE = 0.01


class SamePatientRanking:
    """Ranks by the largest same-patient score with a training image, less what that image's score with strangers usually reaches.

    Images are compared as they lie in their frames, in no other pose. The first half of a holdout says what is usual, the other half, which had no part in
    that, what 1 % of strangers exceed: the threshold, where it holds 100 images. Without a holdout of two images there is neither.
    """

    name = SAME_PATIENT

    def rank(self, training: torch.Tensor, images: torch.Tensor, holdout: torch.Tensor | None = None) -> Ranking:
        """See :meth:`Rival.rank <doppelscan.rivals.ranking.Rival.rank>`."""
        require_squares(training, images, holdout)
        known, asked = Framing.of(training), Framing.of(images)
        scores = all_same_patient_scores(asked, known)
        if holdout is None or len(holdout) < 2:
            return nearest(scores)
        strangers = all_same_patient_scores(Framing.of(holdout), known)
        half = len(strangers) // 2
        usual = np.quantile(strangers[:half], USUAL, axis=0)
        reached = (strangers[half:] - usual).max(1)
        # Of fewer strangers the highest is no limit of one in a hundred: 44 % of the spine's strangers were above that of 9 control people.
        threshold = float(np.quantile(reached, 1 - RATE, method="higher")) if len(reached) * RATE >= 1 else None
        return nearest(scores - usual, threshold)
