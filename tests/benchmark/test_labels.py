"""Labels of samples by pixels: what is plain is told, what is not is left to a person."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from doppelscan.benchmark import label_samples, read_labels, write_labels
from doppelscan.benchmark import labels as by_pixels
from doppelscan.benchmark.labels import LabelTable, SampleLabel, named_samples
from doppelscan.errors import InputError
from doppelscan.images import ImageRecord, plant_copy
from scipy import ndimage


def records(names):
    return [ImageRecord(f"made/{name}.png", (f"made/{name}.png",), name, f"patient of {name}") for name in names]


@pytest.fixture(scope="module")
def small(cohort) -> np.ndarray:
    """float32 [60, 48, 48]: registration of them takes a quarter of the time."""
    return cohort.reshape(60, 48, 2, 48, 2).mean((2, 4))


@pytest.fixture(scope="module")
def labels(small):
    """4 copies, blurred and moved by a pixel; 8 other people; a mean of two people; a mirrored copy."""
    copies = np.roll([ndimage.gaussian_filter(image, 0.5) for image in small[:4]], 1, axis=1)
    mean = 0.5 * (small[4:5] + small[50:51])
    return label_samples(
        np.concatenate([copies, small[40:48], mean, small[5:6, :, ::-1]]), small[:14], [f"p{i}" for i in range(14)], small[14:40]
    )


def test_copies_are_told_with_their_source(labels):
    assert [one.truth for one in labels[:4]] == ["copy"] * 4
    assert [one.sources[0] for one in labels[:4]] == [0, 1, 2, 3]
    assert all(one.ratio < 0.7 and one.registered_ratio < 0.8 for one in labels[:4])


def test_other_people_are_never_called_copies_and_half_copies_are_never_called_novel(labels):
    assert "copy" not in [one.truth for one in labels[4:12]] and [one.truth for one in labels[4:12]].count("novel") >= 5
    assert labels[12].truth != "novel"


def test_a_mirrored_copy_is_unsure_by_its_mirror_image_alone(labels):
    assert labels[13].in_pixels == labels[13].registered == "novel", "in place both see nobody"
    assert labels[13].truth == "unsure" and labels[13].turned == "copy" and labels[13].sources[0] == 5


def test_a_planted_copy_is_never_called_novel_whatever_its_pose(small):
    transforms = ("crop 15 %", "flip, rotation, noise", "quarter turn", "rotation 10", "shift 6 %")
    made = np.stack([plant_copy(small[i], one, np.random.default_rng(i)) for i, one in enumerate(transforms)])
    found = label_samples(made, small[:14], [f"p{i}" for i in range(14)], small[14:30])
    assert "novel" not in [one.truth for one in found]
    assert [one.sources[0] for one in found] == list(range(len(transforms))), "the one that a person is shown first"


def test_criteria_that_disagree_are_unsure(labels):
    for one in labels:
        assert one.truth != "novel" or one.in_pixels == one.registered == one.turned == "novel"
        assert one.truth != "copy" or one.in_pixels == one.registered == "copy"


def test_the_papers_classes_are_cut_by_registered_ssim(labels):
    assert [SampleLabel("copy", (0,), "copy", "copy", "copy", 0.1, 0.1, value).paper_class for value in (0.5, 0.7, 0.9)] == [
        "different",
        "similar",
        "duplicate",
    ]
    assert min(one.ssim for one in labels[:4]) > max(one.ssim for one in labels[4:12])


def test_another_slice_of_a_training_patient_is_no_copy(small):
    """Two slices of each person in training, two thirds of the way between them and other people lies a third."""
    other = np.roll(small, 3, axis=2) * 0.5 + small * 0.5
    third = np.roll(small, 4, axis=1) * 0.6 + small * 0.4
    training = np.stack([small[:10], other[:10]], 1).reshape(-1, 48, 48)
    people = [f"p{i // 2}" for i in range(20)]
    found = label_samples(np.concatenate([third[:4], training[:2]]), training, people, small[10:25])
    assert [one.truth for one in found[4:]] == ["copy"] * 2, "each is itself"
    for one in found[:4]:
        assert one.truth in ("same patient", "unsure") and one.sources[0] // 2 in range(4)


def test_an_image_as_far_from_two_of_a_patient_as_they_are_is_of_the_same_patient(small):
    noise = 0.03 * np.random.default_rng(0).normal(size=(3, 10, 48, 48)).astype(np.float32)
    first, second, third = (np.clip(small[:10] + scale * one, 0, 1) for scale, one in zip((1, 1, 1.5), noise, strict=True))
    training = np.stack([first, second], 1).reshape(-1, 48, 48)
    found = label_samples(third[:2], training, [f"p{i // 2}" for i in range(20)], small[10:22])
    assert [(one.truth, one.sources[0] // 2) for one in found] == [("same patient", 0), ("same patient", 1)]


def test_a_persons_labels_replace_those_by_pixels_and_nothing_else(tmp_path, labels):
    samples, training = records(range(len(labels))), records(range(14))
    write_labels(tmp_path / "labels.csv", labels, samples, training)
    with open(tmp_path / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["source_patient"] == "patient of 0" and {row["by"] for row in rows} == {"pixels"}
    assert read_labels(tmp_path / "labels.csv", labels, samples, training) == labels, "by pixels they are what they were"
    (tmp_path / "person.csv").write_text("image,truth,by\nelsewhere/12.png,blend,person\n")
    read = read_labels(tmp_path / "person.csv", labels, samples, training)
    assert (read[12].truth, read[12].by) == ("blend", "person") and read[:12] == labels[:12]


def test_a_persons_source_is_the_one_that_was_named_and_no_other(tmp_path, labels):
    samples, training = records(range(len(labels))), records(range(14))
    (tmp_path / "person.csv").write_text("image,truth,source\n1.png,copy,made/7.png\n2.png,copy,\n3.png,same patient,moved/9.png\n")
    read = read_labels(tmp_path / "person.csv", labels, samples, training)
    assert [one.source for one in read[:4]] == [0, 7, -1, 9] and labels[2].source == 2
    write_labels(tmp_path / "labels.csv", read, samples, training)
    rows = LabelTable.read(tmp_path / "labels.csv").rows
    assert [(row["source"], row["source_patient"]) for row in rows[1:3]] == [("made/7.png", "patient of 7"), ("", "")]
    assert read_labels(tmp_path / "labels.csv", labels, samples, training) == read, "written and read again"
    (tmp_path / "person.csv").write_text("image,truth,source\n1.png,copy,made/70.png\n")
    with pytest.raises(InputError, match=r"'source' of the 'labels' table must name a training image\. Got 'made/70\.png'"):
        read_labels(tmp_path / "person.csv", labels, samples, training)


def test_samples_of_two_folders_with_one_name_are_not_taken_for_each_other(tmp_path):
    samples = ["few/s0.png", "few/s1.png", "many/s0.png"]

    def named(*images):
        return named_samples(LabelTable(tmp_path / "labels.csv", tuple({"image": one, "truth": "copy"} for one in images)), samples)

    assert named("many/s0.png", "moved/s1.png", "x.png") == [2, 1, None]
    assert named("many/s0.png", "moved/s0.png") == [2, 0], "one is left of that name"
    for images in (["s0.png"], ["one/s1.png", "two/s1.png"]):
        with pytest.raises(InputError, match="must name each sample by its path, or by a file name that it alone has"):
            named(*images)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"must be a \.csv in UTF-8\. Got .*labels\.csv"),
        (b"", "must have the columns image and truth. Got none"),
        (b"path,truth\n0.png,copy\n", "must have the columns image and truth. Got path, truth"),
        ("image,truth\nJos\u00e9.png,copy\n".encode("latin-1"), r"must be a \.csv in UTF-8\. Got .*labels\.csv"),
        (b"image,truth\n0.png\n", "Got '' for '0.png'"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "labels.csv"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=words) as told:
        LabelTable.read(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("size", [16, 33])
def test_correlations_are_the_same_in_blocks(monkeypatch, size):
    rng = np.random.default_rng(0)
    images, others = rng.normal(size=(3, size, size)), rng.normal(size=(7, size, size))
    monkeypatch.setattr(by_pixels, "BLOCK", 3)
    found = by_pixels._correlations(images, others)
    reach = max(1, round(by_pixels.SHIFT * size))
    shifts = [(a, b) for a in range(-reach, reach + 1) for b in range(-reach, reach + 1)]
    expected = [[max((np.roll(other, shift, (0, 1)) * image).sum() for shift in shifts) for other in others] for image in images]
    assert found == pytest.approx(np.array(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (
            "image,truth\n0.png,copied\n",
            "'truth' of the 'labels' table must be copy, same patient, blend, novel, unsure. Got 'copied'",
        ),
        ("image,truth\nx.png,copy\n", r"Got 'x\.png' in .*, which is none"),
        ("image,label\n0.png,copy\n", "must have the columns image and truth. Got image, label"),
    ],
)
def test_a_label_that_says_nothing_is_refused(tmp_path, labels, table, words):
    (tmp_path / "person.csv").write_text(table)
    with pytest.raises(InputError, match=words):
        read_labels(tmp_path / "person.csv", labels, records(range(len(labels))), records(range(14)))
