"""The bundles on whole volumes, as MONAI runs them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import jsonschema
import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
from doppelscan.images import axis_pose, generate_head
from doppelscan.verify import VolumePose
from made_files import save_png
from made_volumes import write_nifti
from monai.bundle import ConfigWorkflow, ckpt_export, onnx_export, verify_net_in_out

ROOT = Path(__file__).parents[2]
CONFIGS = {"deepssim_encoder": ("inference_3d",), "mi_scorer": ("train_3d", "inference_3d")}
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def workflow(bundle: str, name: str, **overrides) -> ConfigWorkflow:
    made = ConfigWorkflow(
        str(ROOT / "bundles" / bundle / "configs" / f"{name}.json"), workflow_type="train" if name == "train_3d" else "infer",
        logging_file=False, **overrides,
    )  # fmt: skip
    made.initialize()
    return made


def metadata(bundle: str) -> str:
    return str(ROOT / "bundles" / bundle / "configs" / "metadata_3d.json")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Ten training heads, a copy of the fourth in another axis pose and a stranger; and a folder of pictures."""
    folder = tmp_path_factory.mktemp("volumes")
    for name in ("training", "synthetic"):
        (folder / name).mkdir()
    for i in range(10):
        write_nifti(folder / "training" / f"p{i}.nii.gz", generate_head(i, 32), AFFINE)
    posed = axis_pose(torch.from_numpy(generate_head(3, 32)), 19).numpy()
    write_nifti(folder / "synthetic" / "copy.nii.gz", posed, AFFINE)
    write_nifti(folder / "synthetic" / "novel.nii.gz", generate_head(50, 32), AFFINE)
    save_png(folder / "pictures" / "picture.png", generate_head(3, 32)[16])
    return folder


@pytest.fixture(scope="module")
def fitted(folders) -> Path:
    """The folder that train_3d wrote."""
    run = workflow("mi_scorer", "train_3d", dataset_dir=str(folders / "training"), output_dir=str(folders / "index"), view_images=2)
    run.run()
    return folders / "index"


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("bundle", "name"), [(bundle, name) for bundle, names in CONFIGS.items() for name in names])
def test_check_properties_returns_nothing(bundle, name, tmp_path):
    assert workflow(bundle, name, output_dir=str(tmp_path)).check_properties() == []


@pytest.mark.parametrize("bundle", list(CONFIGS))
def test_metadata_of_volumes_follows_the_schema_and_is_what_the_network_takes_and_gives(bundle):
    schema = json.loads((ROOT / "tests" / "bundles" / "meta_schema_20240725.json").read_text())
    told, of_images = (json.loads(Path(metadata(bundle).replace("_3d", kind)).read_text()) for kind in ("_3d", ""))
    jsonschema.validate(told, schema)
    assert told["network_data_format"]["inputs"]["image"]["spatial_shape"] == [64, 64, 64]
    differs = {"task", "image_classes", "pred_classes", "eval_metrics", "network_data_format"}
    assert told.keys() == of_images.keys() and {name for name in told if told[name] != of_images[name]} <= differs
    config = str(ROOT / "bundles" / bundle / "configs" / "inference_3d.json")
    verify_net_in_out("network_def", meta_file=metadata(bundle), config_file=config, device="cpu")


def test_preprocessing_and_encoder_are_the_same_in_every_config_of_volumes():
    parts = [
        json.loads((ROOT / "bundles" / b / "configs" / f"{n}.json").read_text()) for b, names in CONFIGS.items() for n in names
    ]
    prepared = [part.get("preprocessing") or part["train"]["preprocessing"] for part in parts]
    assert prepared[0] == prepared[1] == prepared[2]
    encoders = [{**part.get("slice_encoder_def", part["encoder_def"]), "outputs": None, "feature_grid": None} for part in parts]
    assert encoders[0] == encoders[1] == encoders[2]


def test_a_folder_of_volumes_becomes_one_row_a_volume(folders, tmp_path):
    run = workflow("deepssim_encoder", "inference_3d", dataset_dir=str(folders / "synthetic"), output_dir=str(tmp_path))
    run.run()
    table = read(tmp_path / "images.csv")
    shard = pq.read_table(next((tmp_path / "embeddings").glob("*.parquet"))).to_pydict()
    assert [Path(row["image"]).name for row in table] == ["copy.nii.gz", "novel.nii.gz"]
    assert set(shard["key"]) == {row["key"] for row in table} and len(shard["embedding"][0]) == 4608


def test_a_folder_of_pictures_is_refused_in_one_line(folders, tmp_path):
    with pytest.raises(RuntimeError) as told:
        workflow("deepssim_encoder", "inference_3d", dataset_dir=str(folders / "pictures"), output_dir=str(tmp_path)).run()
    assert "'dataset_dir' parameter must name volumes. Got 1 2D images" in str(told.value.__cause__)


def test_a_volume_in_another_pose_is_found_and_its_pose_told(folders, fitted, tmp_path):
    run = workflow(
        "mi_scorer", "inference_3d", dataset_dir=str(folders / "synthetic"), output_dir=str(tmp_path), reference=str(fitted)
    )
    run.run()
    rows = {Path(row["image"]).name: row for row in read(tmp_path / "scores.csv")}
    copy, novel = rows["copy.nii.gz"], rows["novel.nii.gz"]
    assert Path(copy["match"]).name == "p3.nii.gz" and float(copy["similarity"]) > 0.98 and copy["consensus"] == "3"
    assert float(copy["mi"]) > 10 and abs(float(novel["mi"])) < 5
    assert copy["pose"] == VolumePose(19).words()  # what maps the match on the image


def test_a_reference_of_slices_does_not_score_volumes(folders, fitted, tmp_path):
    (tmp_path / "reference.safetensors").write_bytes((fitted / "reference.safetensors").read_bytes())
    run = ConfigWorkflow(
        str(ROOT / "bundles/mi_scorer/configs/inference.json"), workflow_type="infer", logging_file=False,
        dataset_dir=str(folders / "synthetic"), output_dir=str(tmp_path), reference=str(tmp_path), poses=8,
    )  # fmt: skip
    run.initialize()
    with pytest.raises((RuntimeError, SystemExit)) as told:
        run.run()
    assert "fitted with other weights or preprocessing" in str(told.value.__cause__)


def test_a_fitted_scorer_of_volumes_is_one_file_that_says_what_the_table_says(folders, fitted, tmp_path):
    config = str(ROOT / "bundles/mi_scorer/configs/inference_3d.json")
    given = {
        "ckpt_file": str(fitted / "model.pt"),
        "meta_file": metadata("mi_scorer"),
        "config_file": config,
        "reference": str(fitted),
    }
    ckpt_export("network_def", filepath=str(tmp_path / "scorer.ts"), **given)
    axes = {"image": {0: "batch"}, "pred": {0: "batch"}}
    onnx_export(
        "network_def", filepath=str(tmp_path / "scorer.onnx"), use_trace=True,
        converter_kwargs={"input_names": ["image"], "output_names": ["pred"], "dynamic_axes": axes, "dynamo": False}, **given,
    )  # fmt: skip
    run = workflow(
        "mi_scorer", "inference_3d", dataset_dir=str(folders / "synthetic"), output_dir=str(tmp_path), reference=str(fitted)
    )
    run.run()
    dataset = run.parser.get_parsed_content("dataset")
    image = torch.stack([dataset[number]["image"] for number in (0, 1)])
    table = np.array([[float(row[name]) for name in ("similarity", "mi", "oni")] for row in read(tmp_path / "scores.csv")])
    session = onnxruntime.InferenceSession(str(tmp_path / "scorer.onnx"))
    with torch.no_grad():
        script = torch.jit.load(tmp_path / "scorer.ts")(image).numpy()
    for found in (script, session.run(None, {"image": image.numpy()})[0]):
        np.testing.assert_allclose(found[:, 0], table[:, 0], atol=1e-4)
        np.testing.assert_allclose(found[:, 1:], table[:, 1:], atol=2e-2, rtol=1e-2)
