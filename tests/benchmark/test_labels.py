"""Labels of samples by pixels: what is plain is told, what is not is left to a person."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from doppelscan.benchmark import label_samples, read_labels, write_labels
from doppelscan.benchmark.labels import SampleLabel
from doppelscan.errors import InputError
from doppelscan.images import ImageRecord
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
    assert labels[12].truth != "novel" and labels[13].truth == "unsure"


def test_criteria_that_disagree_are_unsure(labels):
    for one in labels:
        assert one.truth != "novel" or one.in_pixels == one.registered == "novel"
        assert one.truth != "copy" or one.in_pixels == one.registered == "copy"


def test_the_papers_classes_are_cut_by_registered_ssim(labels):
    assert [SampleLabel("copy", (0,), "copy", "copy", 0.1, 0.1, value).paper_class for value in (0.5, 0.7, 0.9)] == [
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


def test_a_persons_labels_replace_those_by_pixels_and_nothing_else(tmp_path, labels):
    samples, training = records(range(len(labels))), records(range(14))
    write_labels(tmp_path / "labels.csv", labels, samples, training)
    with open(tmp_path / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["source_patient"] == "patient of 0" and {row["by"] for row in rows} == {"pixels"}
    assert read_labels(tmp_path / "labels.csv", labels, samples) == labels, "by pixels they are what they were"
    (tmp_path / "person.csv").write_text("image,truth,by\nelsewhere/12.png,blend,person\n")
    read = read_labels(tmp_path / "person.csv", labels, samples)
    assert (read[12].truth, read[12].by) == ("blend", "person") and read[:12] == labels[:12]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (
            "image,truth\n0.png,copied\n",
            "'truth' of the 'labels' table must be copy, same patient, blend, novel, unsure. Got 'copied'",
        ),
        ("image,truth\nx.png,copy\n", "Got 'x.png', which is none"),
        ("image,label\n0.png,copy\n", "must have the columns image and truth. Got image, label"),
    ],
)
def test_a_label_that_says_nothing_is_refused(tmp_path, labels, table, words):
    (tmp_path / "person.csv").write_text(table)
    with pytest.raises(InputError, match=words):
        read_labels(tmp_path / "person.csv", labels, records(range(len(labels))))
