"""What is planted: copies of one image a patient, changed as is said, and images of nobody; nothing of it stays."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doppelscan.arguments import IMAGE_CHANGES
from doppelscan.decide import ScoredSet
from doppelscan.errors import InputError
from doppelscan.images import ImageRecord, SquareThumbnaild, Windowd, generate_cohort
from doppelscan.search import EmbeddedSet
from doppelscan.settings import AuditSettings
from doppelscan.workflows.selftest import CopyPlanter, change_of, planted_scores, size_of
from made_records import made_reference, made_score, made_set
from PIL import Image


class Prepared:
    """Stands for the store: thumbnails as an audit makes them."""

    def __init__(self, images: list[np.ndarray]) -> None:
        square, windowed = SquareThumbnaild("image", 128), Windowd("image")
        made = [square(windowed({"image": image[None]})) for image in images]
        self.arrays = {
            name: np.stack([one[name] for one in made]) for name in ("thumbnail", "native_shape", "as_read", "read_shape")
        }

    def read(self, keys, names, keep: bool = False) -> dict[str, np.ndarray]:
        return {name: self.arrays[name][[int(key) for key in keys]] for name in names}


def people(first: int, count: int, each: int = 1, shape: tuple[int, int] = (150, 200)) -> EmbeddedSet:
    """Wide images of look-alikes, ``each`` of every one."""
    images = generate_cohort(first + count, each, 96, seed=3)[0][first * each :, 0].float()
    images = torch.nn.functional.interpolate(images[:, None], shape, mode="bicubic")[:, 0].clamp(0, 255)
    records = [ImageRecord(f"{i}.png", (f"{i}.png",), f"{i}.png", f"p{first + i // each}") for i in range(count * each)]
    store: Any = Prepared(list(images.numpy()))
    return EmbeddedSet(records, [str(i) for i in range(count * each)], store, {})


@pytest.fixture(scope="module")
def planter() -> CopyPlanter:
    return CopyPlanter(people(0, 12, 2), people(20, 8), people(30, 10), 20)


def test_copies_are_of_one_image_a_patient_in_its_own_shape(planter):
    groups = list(planter.copies())
    assert len(groups) == 11 and len({group.name for group in groups}) == 11
    for group in groups:
        assert len(group.pixels) == len(set(group.patients)) == 12, "one of each patient"
        assert [planter.training.patients[row] for row in group.sources] == group.patients
        for pixels in group.pixels:
            assert sorted(pixels.shape) == [96, 128] and pixels.dtype == np.float32 and pixels.min() >= 0 and pixels.max() <= 1


def test_copies_are_changed_and_still_resemble_what_they_are_copies_of(planter):
    for group in planter.copies():
        moved = group.name in ("rotation 10", "flip, rotation, noise", "shift 6 %", "crop 15 %")
        for pixels, plain in zip(group.pixels, planter.own, strict=True):
            assert np.abs(pixels - plain).max() > 0.01, group.name
            assert moved or np.corrcoef(pixels.ravel(), plain.ravel())[0, 1] > 0.8, group.name


def test_copies_of_small_images_are_as_small_and_half_the_resolution_is_half_of_their_own():
    small = CopyPlanter(people(0, 12, shape=(36, 48)), people(20, 8, shape=(36, 48)), None, 20)
    for group in small.copies():
        assert {tuple(sorted(pixels.shape)) for pixels in group.pixels} == {(36, 48)}, group.name
    half = next(group for group in small.copies() if group.name == "half resolution")
    lost = [
        np.abs(np.diff(pixels, axis=1)).mean() / np.abs(np.diff(own, axis=1)).mean()
        for pixels, own in zip(half.pixels, small.own, strict=True)
    ]
    assert max(lost) < 0.95, "detail is gone that the small image had"


def test_nobody_is_blended_with_himself(planter):
    blend = next(group for group in planter.copies() if group.name == "blend 75/25")
    assert all(np.abs(one - plain).mean() > 0.01 for one, plain in zip(blend.pixels, planter.own, strict=True))


def test_images_of_nobody_are_strangers_and_means(planter):
    groups = {group.name: group for group in planter.negatives()}
    assert set(groups) == {"noise 0.1", "blur 2", "half resolution", "spectrum", "components 12", "means"}
    assert all(set(group.sources) == {-1} for group in groups.values())
    mean, whole = groups["means"].pixels[0], np.stack(planter.whole)
    nearest = np.sort(((whole - mean) ** 2).mean((1, 2)))
    assert nearest[0] > 0, "a mean of five is none of them"
    without = CopyPlanter(people(0, 12, 2), people(20, 8), None, 20)
    assert [group.name for group in without.negatives()] == ["means"]


def test_as_many_copies_as_time_allows_and_enough_for_a_claim():
    assert size_of(20) == 18 and size_of(1300) == 30 and 18 < size_of(600) < 30
    assert 0.025 ** (1 / 18) > 0.8 > 0.025 ** (1 / 16), "all of 18 found say at least 80 %"


def test_the_users_autoencoder_is_one_more_transform_or_is_told_in_one_line(tmp_path):
    class Halved(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0.5 * x

    class Pooled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    for name, network in (("halved", Halved()), ("pooled", Pooled())):
        torch.jit.script(network).save(str(tmp_path / f"{name}.ts"))
    made = CopyPlanter(people(0, 6), people(20, 4), None, 6, reconstruct=tmp_path / "halved.ts")
    last = list(made.copies())[-1]
    assert last.name == "reconstruct" and np.allclose(last.pixels[0], 0.5 * made.own[0], atol=1e-6)
    (tmp_path / "text.ts").write_text("no network")
    for name in ("pooled", "text"):
        with pytest.raises(InputError, match="'reconstruct' parameter must be a TorchScript autoencoder") as told:
            CopyPlanter(people(0, 6), people(20, 4), None, 6, reconstruct=tmp_path / f"{name}.ts")
        assert "\n" not in str(told.value)


def test_planted_files_are_gone_and_unreadable_ones_are_left_out(planter, tmp_path):
    seen: list[str] = []

    def embed(place: str) -> EmbeddedSet:
        seen.extend(sorted(os.listdir(place)))
        first = np.asarray(Image.open(Path(place) / seen[0]))
        assert first.dtype == np.uint8 and first.shape == (96, 128)
        made = made_set("planted", len(seen))
        records = [replace(r, paths=(f"{place}/{name}",)) for r, name in zip(made.records, seen, strict=True)]
        return replace(made, records=records[1:], keys=made.keys[1:])  # the first cannot be used

    class Reference:
        def scored(self, images: EmbeddedSet, label: str) -> ScoredSet:
            scores = tuple(made_score(i, int(Path(r.paths[0]).stem) / 1000) for i, r in enumerate(images.records))
            return ScoredSet(images, scores, made_reference(made_set("training", 24)))

    reference: Any = Reference()
    found = planted_scores(planter, reference, embed, tmp_path / "store")
    assert not list((tmp_path / "store").iterdir())
    assert [len(one.sources) for one in found[:3]] == [11, 12, 12] and len(found) == 17
    assert [round(1000 * s.score) for s in found[0].images.scored] == list(range(1, 12))
    assert [round(1000 * s.score) for s in found[1].images.scored] == list(range(12, 24))
    assert found[0].patients == tuple(planter.training.patients[row] for row in planter.rows[1:])


def test_each_transform_is_declared_by_a_word_that_users_may_pass(planter):
    words = {change_of(one.name) for one in planter.copies()}
    assert words == set(IMAGE_CHANGES) - {"reconstruct"} and all(one.declared for one in planter.copies())
    planter.declared = ("rotation", "resolution")
    try:
        assert [one.name for one in planter.copies() if one.declared] == ["rotation 10", "half resolution"]
    finally:
        planter.declared = None


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("rotation,blurr", "of which 'blurr' is none; did you mean blur?"),
        ("reconstruct", "pass --reconstruct FILE.ts"),
        ((), "changes of planted copies"),
    ],
)
def test_what_is_not_planted_cannot_be_declared(declared, message):
    with pytest.raises(InputError, match=re.escape(message)):
        AuditSettings(declared=declared)
    assert AuditSettings(declared="rotation, blur,blur").declared == ("rotation", "blur")
