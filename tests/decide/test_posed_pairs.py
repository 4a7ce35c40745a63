"""What registration found of pairs is met again under their own names, and under no others."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.decide.posed_pairs import PosedPairs, pair_names
from doppelscan.search import EmbeddingStore
from doppelscan.verify import STAGES


@pytest.fixture
def kept(tmp_path):
    return PosedPairs(EmbeddingStore(tmp_path, "made"))


def stages(*values: float) -> np.ndarray:
    """Of each candidate of one image, NaN of those that were not registered."""
    return np.array([[np.full(STAGES, value) for value in values]], np.float32)


def found(kept: PosedPairs, names: np.ndarray, image: str = "image") -> list[float]:
    kept.store.flush()
    return kept.known([image], names)[0, :, 0].tolist()


NAN = float("nan")


def test_a_pair_is_named_by_its_candidate_and_the_poses_that_are_searched_in_any_order():
    keys = [["a", "b", ""]]
    poses = np.array([[[0, 4], [0, 4], [0, 0]]])
    first = pair_names(keys, poses)
    assert first.shape == (1, 3) and len(set(first[0].tolist())) == 3 and first[0, 2] == 0
    assert (pair_names(keys, poses[..., ::-1]) == first).all()
    assert (pair_names(keys, poses + 1)[0, :2] != first[0, :2]).all() and (pair_names(keys, None)[0, :2] != first[0, :2]).all()


def test_candidates_are_met_again_in_another_order_and_new_ones_are_not_known(kept):
    names = pair_names([["a", "b", "c"]], None)
    kept.keep(["image"], names, stages(NAN, NAN, NAN), stages(1, NAN, 3))
    assert found(kept, pair_names([["new", "c", "b", "a"]], None)) == pytest.approx([NAN, 3, NAN, 1], nan_ok=True)
    assert found(kept, names, "other") == pytest.approx([NAN] * 3, nan_ok=True)


def test_what_a_later_search_found_of_a_pair_is_added(kept):
    names = pair_names([["a", "b"]], None)
    before = stages(NAN, 2)
    before[0, 0, :8] = 1
    kept.keep(["image"], names, stages(NAN, NAN), before)
    kept.store.flush()
    after = before.copy()
    after[0, 0] = 1
    kept.keep(["image"], names, kept.known(["image"], names), after)
    kept.store.flush()
    assert np.array_equal(kept.known(["image"], names), after, equal_nan=True) and len(kept.store) == 2
    kept.keep(["image"], names, after, after)
    kept.store.flush()
    assert len(kept.store) == 2, "what is known is not written again"


def test_more_candidates_than_a_row_holds_are_all_kept(kept):
    names = pair_names([[f"{i}" for i in range(70)]], None)
    kept.keep(["image"], names, stages(*[NAN] * 70), stages(*range(70)))
    assert found(kept, names) == list(range(70)) and len(kept.store) == 3
