"""Rivals: published ways to find copies, each as a ranking of images against the training set."""

from doppelscan.rivals.ranking import Ranking, Rival, nearest, require_squares

__all__ = ["Ranking", "Rival", "nearest", "require_squares"]
