"""Is the control of the same kind as the training set? A classifier that tells them apart says no."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import mannwhitneyu
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedGroupKFold

__all__ = ["TwoSampleResult", "classifier_two_sample_test"]

FEWEST = 5


@dataclass(frozen=True)
class TwoSampleResult:
    """Of a classifier two-sample test.

    Attributes:
        auc: how well held-out patients of the two sets are told apart, 0.5 not at all, 1 without error.
        p_value: chance of that when both are of one kind (Mann-Whitney on patients).
    """

    auc: float
    p_value: float


def classifier_two_sample_test(
    first: np.ndarray, first_patients: Sequence[Hashable], second: np.ndarray, second_patients: Sequence[Hashable]
) -> TwoSampleResult:
    """Lopez-Paz and Oquab 2017, with a shrunk linear discriminant, folds by patient and one vote a patient.

    Args:
        first: float [n, C], features of one set.
        first_patients: of each image.
        second: float [m, C], of the other.
        second_patients: of each image.

    Returns:
        the result; AUC 0.5 and p 1 with fewer than 5 patients in either set.
    """
    sets = [
        (np.asarray(values, np.float64), [str(patient) for patient in patients])
        for values, patients in ((first, first_patients), (second, second_patients))
    ]
    if any(len(set(patients)) < FEWEST for _, patients in sets):
        return TwoSampleResult(0.5, 1.0)
    features = np.concatenate([values for values, _ in sets])
    label = np.repeat([0, 1], [len(values) for values, _ in sets])
    # One person who is in both sets is one group, so that nobody is learned by heart.
    groups = np.array([patient for _, patients in sets for patient in patients])
    scale = features.std(0)
    features = (features - features.mean(0))[:, scale > 0] / scale[scale > 0]
    votes = np.zeros(len(label))
    folds = min(5, *(len(set(patients)) for _, patients in sets))
    for inside, outside in StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(features, label, groups):
        if len(set(label[inside])) == 2:
            model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(features[inside], label[inside])
            votes[outside] = model.decision_function(features[outside])
    patient = [np.array([votes[(groups == g) & (label == k)].mean() for g in sorted(set(groups[label == k]))]) for k in (0, 1)]
    test = mannwhitneyu(patient[1], patient[0], alternative="greater")
    return TwoSampleResult(float(test.statistic / (len(patient[0]) * len(patient[1]))), float(test.pvalue))
