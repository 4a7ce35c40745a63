"""Views, stores and handlers of the embedding stage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.deepssim import DeepSSIMEncoder, quarter_turn_poses, rotated
from doppelscan.images import ForegroundSquared, LoadSliced, SquareThumbnaild, Windowd
from doppelscan.search import EmbeddingStore
from doppelscan.workflows import EmbeddingEvaluator, PoseInferer, RecordDataset


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return DeepSSIMEncoder(channels=(4, 8, 8, 16), blocks=(1, 1, 1, 1), embedding_size=12, reduced_channels=4).eval()


def test_views_are_rotations_times_poses(network):
    images = torch.randn(3, 1, 64, 64)
    made = PoseInferer(8, (0, 10), batch_size=5)(images, network)
    assert made.shape == (3, 16, 24)
    expected = network(quarter_turn_poses(rotated(images, 10))[6])
    torch.testing.assert_close(made[:, 8 + 6], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(PoseInferer(1, (0, 10))(images, network)[:, 0], made[:, 0], atol=1e-5, rtol=1e-4)


def test_a_view_turns_as_a_pose_says(cohort):
    image = torch.from_numpy(cohort[0])[None, None]
    torch.testing.assert_close(
        rotated(image, 90)[..., 2:-2, 2:-2], torch.rot90(image, 1, (-2, -1))[..., 2:-2, 2:-2], atol=1e-3, rtol=1e-3
    )


def test_number_of_poses_is_checked():
    with pytest.raises(ValueError, match="1 or 8"):
        PoseInferer(4)


def test_only_what_is_missing_is_embedded_and_equal_files_once(network, folders, tmp_path):
    from monai.transforms import Compose

    (folders["training"] / "again.png").write_bytes((folders["training"] / "p00.png").read_bytes())
    read = Compose([LoadSliced("image"), Windowd("image"), SquareThumbnaild("image", 32), ForegroundSquared("image", 64)])
    dataset = RecordDataset(folders["training"], read)
    evaluator = EmbeddingEvaluator("cpu", network, dataset, PoseInferer(), batch_size=4)
    store = EmbeddingStore(tmp_path / "store", "f")
    records, keys = evaluator.embed(dataset, store, 1, "training")
    assert len(records) == 11 and len(set(keys)) == 10 and len(store) == 10
    seen = []
    evaluator.pose_inferer.__class__.__call__, original = (
        lambda self, inputs, net, *a, **k: seen.append(len(inputs)) or original(self, inputs, net),
        evaluator.pose_inferer.__class__.__call__,
    )
    try:
        evaluator.embed(RecordDataset(folders["training"], read), EmbeddingStore(tmp_path / "store", "f"), 1, "again")
        assert not seen
        evaluator.embed(RecordDataset(folders["synthetic"], read), EmbeddingStore(tmp_path / "store", "f"), 1, "more")
        assert sum(seen) == 4
    finally:
        evaluator.pose_inferer.__class__.__call__ = original
    read_back = store.read(keys[:1], ["embedding"])["embedding"]
    assert read_back.shape == (1, 1, 24) and np.isfinite(read_back).all()


def test_a_fault_of_ours_is_not_listed_as_an_unreadable_image(network, folders):
    def broken(item):
        raise KeyError("a bug")

    with pytest.raises((KeyError, RuntimeError), match=r"a bug|applying transform"):
        RecordDataset(folders["training"], broken)[0]
