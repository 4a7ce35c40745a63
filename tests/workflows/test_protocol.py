"""The contamination protocol on generated patients: truth known, tables beside the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from doppelscan.images import InputError, generate_cohort
from doppelscan.memorization import MemorizationIndex
from doppelscan.workflows import ContaminationProtocol, EvaluationImages, IndexVariant
from made_files import save_png
from monai.bundle import ConfigWorkflow

CONFIG = Path(__file__).parents[2] / "bundles" / "mi_scorer" / "configs" / "evaluate.json"


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory) -> list[Path]:
    """Two data sets of generated patients, one of them with three slices a patient."""
    folder = tmp_path_factory.mktemp("cohorts")
    for name, patients, slices in (("one", 50, 1), ("three", 24, 3)):
        images, _ = generate_cohort(patients, slices, 96, seed=len(name))
        for i, image in enumerate(images.reshape(-1, 96, 96).numpy()):
            save_png(folder / name / f"p{i // slices:02d}_s{i % slices}.png", image / 255)
    return [folder / "one", folder / "three"]


@pytest.fixture(scope="module")
def evaluated(cohorts, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluation")
    made = ConfigWorkflow(
        str(CONFIG), workflow_type="infer", logging_file=False, dataset_dir=[str(c) for c in cohorts], output_dir=str(output),
        patient_pattern=r"(p\d\d)", repeats=2, transforms=["clean", "rotation +-5", "h-flip"], spatial_size=64, view_images=24,
    )  # fmt: skip
    made.initialize()
    assert made.check_properties() in ([], None)
    made.run()
    return output, made.parser.get_parsed_content("evaluator")


def test_copies_are_found_and_the_share_is_the_true_one(evaluated):
    _, protocol = evaluated
    for source, variants in protocol.samples.items():
        for transform, found in variants["ours"].items():
            assert found["auc"] > 0.99 and found["ap"] > 0.98, (source, transform)
    for source, transforms in protocol.sets.items():
        for levels in transforms.values():
            for level, scores in levels.items():
                assert abs(scores["ours: share"] - level) < 0.06, (source, level)


def test_one_pose_misses_flips_and_the_published_form_flags_novel_images(evaluated):
    _, protocol = evaluated
    for variants in protocol.samples.values():
        assert variants["one pose, cohort only"]["h-flip"]["auc"] < 0.9
    for variants in protocol.null.values():
        assert variants["published form"]["share"] > 0.9 > 0.1 > variants["ours"]["share"]


def test_other_slices_of_training_patients_are_told_apart(evaluated):
    _, protocol = evaluated
    assert protocol.null["three"]["ours"]["other slices"] == 12 and "other slices" not in protocol.null["one"]["ours"]


def test_tables_stand_beside_the_published_figures(evaluated):
    output, _ = evaluated
    text = (output / "evaluation.md").read_text()
    for words in ("| rotation +-5 | 0.758 (0.711) |", "| published MI | 0.163 | 0.069 | 0.035 | 0.019 |", "CT score", "coverage"):
        assert words in text
    assert "nan" not in text.replace("variance", "")
    content = json.loads((output / "evaluation.json").read_text())
    assert content["summary"]["ours: share"]["monotony"] == 1.0 and set(content["sets"]) == {"one", "three"}
    assert (output / "contamination.png").stat().st_size > 10_000


def test_no_patient_is_in_two_parts(cohorts):
    images = EvaluationImages(None, None)
    images.cohorts["x"] = [(f"p{i // 4}", None) for i in range(60)]
    parts = ContaminationProtocol(images, _Embedder(), {"ours": IndexVariant(MemorizationIndex())}).split(images.cohorts["x"])
    inside = {p for p, _ in parts.training}
    assert {p for p, _ in parts.other_slices} == inside and len(parts.other_slices) == len(inside)
    assert not inside & {p for p, _ in parts.novel + parts.held_out}
    assert not {p for p, _ in parts.novel} & {p for p, _ in parts.held_out}


class _Embedder:
    def __init__(self):
        self.network = SimpleNamespace(output_slices={"layer": slice(0, 2)})


def test_settings_that_cannot_work_are_refused():
    images, variants = EvaluationImages(None, None), {"ours": IndexVariant(MemorizationIndex())}
    with pytest.raises(InputError, match="'transforms'"):
        ContaminationProtocol(images, _Embedder(), variants, transforms=["magic"])
    with pytest.raises(InputError, match="'levels'"):
        ContaminationProtocol(images, _Embedder(), variants, levels=[1.5])
    with pytest.raises(InputError, match="10 patients"):
        ContaminationProtocol(images, _Embedder(), variants).split([("a", None)] * 5)
    with pytest.raises(InputError, match="no readable image"):
        ContaminationProtocol(images, _Embedder(), variants).run()
