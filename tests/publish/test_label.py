"""The MONAI Label app beside stand-ins for MONAI Label, which needs an environment of its own (make test-monailabel): what a volume is answered with."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from doppelscan.workflows import ReviewedImage

NAMES = {
    "interfaces.app": ("MONAILabelApp",),
    "interfaces.exception": ("MONAILabelError", "MONAILabelException"),
    "interfaces.tasks.infer_v2": ("InferTask", "InferType"),
    "interfaces.tasks.scoring": ("ScoringMethod",),
    "interfaces.tasks.strategy": ("Strategy",),
    "tasks.activelearning.first": ("First",),
    "tasks.activelearning.random": ("Random",),
}


class StandIn:
    """Keeps what it is made with."""

    def __init__(self, *words, **settings) -> None:
        self.words = words
        self.__dict__.update(settings)


class Refusal(Exception):
    """As MONAI Label's, of a kind and words."""


@pytest.fixture
def label(monkeypatch):
    for name, classes in NAMES.items():
        parts = f"monailabel.{name}".split(".")
        for depth in range(1, len(parts) + 1):
            whole = ".".join(parts[:depth])
            if whole not in sys.modules:
                monkeypatch.setitem(sys.modules, whole, ModuleType(whole))
        for one in classes:
            made = (
                Refusal
                if one == "MONAILabelException"
                else type(one, (StandIn,), {"OTHERS": "others", "APP_INIT_ERROR": 1, "INVALID_INPUT": 2})
            )
            setattr(sys.modules[f"monailabel.{name}"], one, made)
    monkeypatch.delitem(sys.modules, "doppelscan.publish.label", raising=False)
    yield importlib.import_module("doppelscan.publish.label")
    sys.modules.pop("doppelscan.publish.label", None)


AFFINE = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, 3.0, 1], [0, 0, 0, 1]])


def reviewer(whole: bool, **values) -> SimpleNamespace:
    """A reviewer that takes volumes or not, and answers with a map of 3 x 4 x 5."""
    found = ReviewedImage({"score": 0.9, "match": "p2.nii.gz", **values}, np.full((3, 4, 5), 0.25, np.float32), AFFINE)
    return SimpleNamespace(takes=lambda path: whole, of_volumes=whole, image=lambda path: found)


def test_a_volume_is_answered_whole_with_a_map_in_its_own_affine(label):
    task = label.MemorizationTask("mi_scorer", reviewer(False), reviewer(True, mi=7.5))
    assert task.dimension == 3
    path, told = task({"image": "/studies/v.nii.gz"})
    assert told["result"]["score"] == 7.5 and told["result"]["combined_score"] == 0.9 and told["result"]["match"] == "p2.nii.gz"
    image = nib.load(path)
    assert image.shape == (3, 4, 5) and np.allclose(image.affine, AFFINE) and float(image.get_fdata().max()) == 0.25
    Path(path).unlink()


def test_of_too_few_training_volumes_there_is_an_answer_without_an_index(label):
    path, told = label.MemorizationTask("mi_scorer", reviewer(False), reviewer(True))({"image": "/studies/v.nii.gz"})
    assert told["result"]["score"] is None and told["result"]["combined_score"] == 0.9
    Path(path).unlink()


def test_slices_are_reviewed_where_volumes_cannot_be_compared_whole(label):
    task = label.MemorizationTask("deepssim_encoder", reviewer(False, slice=3), reviewer(False))
    path, told = task({"image": "/studies/v.nii.gz"})
    assert task.dimension == 2 and told["result"]["slice"] == 3
    Path(path).unlink()


def test_an_unknown_way_to_compare_volumes_is_refused_in_one_line(label, tmp_path):
    for name in label.SCORE_OF:
        (tmp_path / "app" / "model" / name).mkdir(parents=True)
    (tmp_path / "training").mkdir()
    with pytest.raises(Refusal, match=r"'volumes' setting must be whole or as-slices\. Got 'half'"):
        label.DoppelscanApp(str(tmp_path / "app"), "", {"training": str(tmp_path / "training"), "volumes": "half"})
