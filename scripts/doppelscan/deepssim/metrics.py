"""Metrics in MONAI's form, so that ignite handlers collect them across ranks and any workflow can use them."""

from __future__ import annotations

import numpy as np
import torch
from monai.metrics import Cumulative
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score, silhouette_score

from doppelscan.deepssim.classes import VERDICTS, verdict_number
from doppelscan.deepssim.loss import require_head_sizes
from doppelscan.errors import InputError

__all__ = ["CopyDetectionMetric", "CopyRetrieval", "SSIMAgreement", "SSIMError"]


class CopyRetrieval(Cumulative):
    """Share of augmented copies whose nearest image of the batch is their source; in [0, 1], higher is better.

    Called with the prediction [2B, 2 * embedding_size] and the targets of ``MakeViews``; measured on the identity head.
    """

    def __init__(self, embedding_size: int = 256) -> None:
        super().__init__()
        self.embedding_size = embedding_size

    def __call__(self, y_pred: torch.Tensor, y: dict[str, torch.Tensor]) -> torch.Tensor:
        require_head_sizes(y_pred, self.embedding_size, with_identity=True)
        first, second = y_pred[:, self.embedding_size : 2 * self.embedding_size].float().chunk(2)
        nearest = (second @ first.T).argmax(1)
        hits = (nearest == torch.arange(len(nearest), device=nearest.device))[y["is_copy"]].float()
        self.extend(hits[:, None])
        return hits

    def aggregate(self) -> torch.Tensor:
        hits = self.get_buffer()
        return hits.mean()


class SSIMError(Cumulative):
    """Mean absolute difference between the deepssim head's cosine and the SSIM target; lower is better.

    Args:
        embedding_size: size of the deepssim head, the first values of the prediction.
        negative: aggregate to minus the error, for a key metric, of which higher is better.
        squared: mean squared difference, by which arXiv 2509.16582 chooses its weights.
    """

    def __init__(self, embedding_size: int = 256, negative: bool = False, squared: bool = False) -> None:
        super().__init__()
        self.embedding_size, self.sign, self.power = embedding_size, -1 if negative else 1, 2 if squared else 1

    def __call__(self, y_pred: torch.Tensor, y: dict[str, torch.Tensor]) -> torch.Tensor:
        require_head_sizes(y_pred, self.embedding_size, with_identity=False)
        target = y["ssim"]
        first, second = y_pred[:, : self.embedding_size].float().chunk(2)
        groups, members, _ = target.shape
        cosine = first.view(groups, members, -1) @ second.view(groups, members, -1).transpose(1, 2)
        error = (cosine - target).abs().flatten() ** self.power
        self.extend(error[:, None])
        return error

    def aggregate(self) -> torch.Tensor:
        errors = self.get_buffer()
        return self.sign * errors.mean()


class SSIMAgreement(Cumulative):
    """How well predicted similarities agree with SSIM (arXiv 2509.16582, section 4).

    Called with predicted similarities float [B], or [B, C] of which ``column`` is taken, and SSIM targets float [B]. :meth:`aggregate` gives ``mae``, ``bias``,
    ``pearson``, ``spearman``, ``macro_f1`` over the classes that occur, ``silhouette`` of the predictions under the targets'
    classes, and ``precision_*``, ``recall_*``, ``count_*`` of each class; what is not defined (one class only, constant values)
    is NaN.

    Args:
        column: of predictions of several kinds.
        key: the one value that :meth:`aggregate` gives, such as ``mae``: an engine takes one number as its key metric. None gives all.

    Attributes:
        pairs: float32 [n, 2], predicted and target, of all ranks, at the last :meth:`aggregate`.
        result: all values of that.
    """

    def __init__(self, column: int = 0, key: str | None = None) -> None:
        super().__init__()
        self.column, self.key = column, key
        self.pairs = np.zeros((0, 2), np.float32)
        self.result: dict[str, float] = {}

    def __call__(self, y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        predicted = y_pred.detach().float()
        predicted = predicted[:, self.column] if predicted.ndim == 2 else predicted
        pair = torch.stack([predicted.flatten(), y.float().flatten()], 1)
        self.extend(pair)
        return (pair[:, 0] - pair[:, 1]).abs()

    def aggregate(self) -> dict[str, float] | float:
        # Engines reset a metric when they are done with it; a report wants the pairs too.
        self.pairs = self.get_buffer().cpu().numpy()
        predicted, target = self.pairs.T.astype(np.float64)
        varied = len(predicted) > 1 and predicted.std() > 0 and target.std() > 0
        truth, found = verdict_number(target), verdict_number(predicted)
        present = np.unique(truth)
        precision, recall, f1, count = precision_recall_fscore_support(truth, found, labels=range(3), zero_division=0.0)
        grouped = 1 < len(present) < len(truth)
        result = {
            "mae": float(np.abs(predicted - target).mean()),
            "bias": float((predicted - target).mean()),
            "pearson": float(pearsonr(predicted, target)[0]) if varied else float("nan"),
            "spearman": float(spearmanr(predicted, target)[0]) if varied else float("nan"),
            "macro_f1": float(f1[present].mean()),
            "silhouette": float(silhouette_score(predicted[:, None], truth)) if grouped else float("nan"),
        }
        for i, name in enumerate(VERDICTS):
            result |= {f"precision_{name}": float(precision[i]), f"recall_{name}": float(recall[i]), f"count_{name}": int(count[i])}
        self.result = result
        return result if self.key is None else result[self.key]


class CopyDetectionMetric(Cumulative):
    """Detection of planted copies: does the score tell copies from novel images, and is the right source named?

    Called with scores float [B] (higher is more a copy), ``is_copy`` [B], and the rank [B] of the true source among the
    candidates (0 is the first; ignored for novel images). :meth:`aggregate` gives ``auc``, ``recall_at_1pc`` and
    ``recall_at_0.1pc`` false positives (above that quantile of the novel images, the highest where there are too few),
    ``source_accuracy`` and ``source_in_20``.
    """

    def __call__(self, scores: torch.Tensor, is_copy: torch.Tensor, rank: torch.Tensor) -> torch.Tensor:
        rows = torch.stack([torch.as_tensor(part).double().flatten() for part in (scores, is_copy, rank)], 1)
        self.extend(rows)
        return rows

    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores float64 [n] and truth bool [n] so far."""
        rows = self.get_buffer().cpu().numpy()
        return rows[:, 0], rows[:, 1] > 0.5

    def named(self) -> np.ndarray:
        """Whether the true source is the first candidate, bool [copies] so far."""
        rows = self.get_buffer().cpu().numpy()
        return rows[rows[:, 1] > 0.5, 2] == 0

    def found(self, rate: float) -> np.ndarray:
        """Whether it scores above all but ``rate`` of the novel images, bool [copies] so far."""
        scores, truth = self.scores()
        return scores[truth] > np.quantile(scores[~truth], 1 - rate, method="higher")

    def aggregate(self) -> dict[str, float]:
        scores, truth = self.scores()
        rank = self.get_buffer().cpu().numpy()[truth, 2]
        if truth.all() or not truth.any():
            raise InputError(f"Detection needs both copies and novel images. Got {int(truth.sum())} and {int((~truth).sum())}.")
        return {
            "auc": float(roc_auc_score(truth, scores)),
            "recall_at_1pc": float(self.found(0.01).mean()),
            "recall_at_0.1pc": float(self.found(0.001).mean()),
            "source_accuracy": float((rank == 0).mean()),
            "source_in_20": float((rank < 20).mean()),
        }
