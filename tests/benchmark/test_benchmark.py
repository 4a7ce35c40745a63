"""The command from images to table: every scorer, samples with their labels, and mistakes in one line."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from doppelscan.benchmark import benchmark, scorers
from doppelscan.benchmark.benchmark import named_rivals
from doppelscan.errors import InputError
from doppelscan.images import find_images, read_pixels
from doppelscan.rivals import Ranking
from made_files import save_png
from scipy import ndimage
from warm import run_warm


def correlating_audit(training, synthetic, holdout, output, **settings):
    """An audit that correlates: what the benchmark makes of an audit's rows is tested, not the audit."""

    def vectors(table):
        records = find_images(table, name="synthetic").records
        made = [np.resize(read_pixels(list(one.paths)).astype(float), (96, 96)).ravel() for one in records]
        return records, np.stack([(one - one.mean()) / one.std() / np.sqrt(one.size) for one in made])

    (known, own), (asked, images) = vectors(training), vectors(synthetic)
    found = images @ own.T
    rows = [
        {"image": one.id, "score": f"{found[i].max():.6f}", "match": known[int(found[i].argmax())].id, "part_match": known[0].id, "reason": "",
         "finding": "copy" if found[i].max() > 0.95 else "same patient?" if found[i].max() > 0.9 else ""}
        for i, one in enumerate(asked)
    ]  # fmt: skip
    return SimpleNamespace(scores=rows[::-1])


class Chance:
    """A rival without a threshold that knows nothing."""

    name = "chance"

    def rank(self, training, images, holdout=None):
        assert training.shape[1:] == images.shape[1:] == holdout.shape[1:] and 0 <= float(images.min()) <= float(images.max()) <= 1
        rng = np.random.default_rng(0)
        return Ranking(rng.random(len(images)), rng.integers(0, len(training), len(images)))


class Refusing:
    """A rival that cannot."""

    name = "refusing"

    def rank(self, training, images, holdout=None):
        raise InputError("The 'holdout' parameter must be larger. Got little.")


class Broken:
    """A rival with a fault of its own."""

    name = "broken"

    def rank(self, training, images, holdout=None):
        raise RuntimeError("shape mismatch\n  in layer 3")


class Ranked:
    """A rival that gives back what it was made with."""

    def __init__(self, name, make):
        self.name, self.make = name, make

    def rank(self, training, images, holdout=None):
        return self.make(len(images), len(training))


@pytest.fixture
def place(tmp_path, cohort):
    """24 training images and 12 others of 96 pixels, and 8 samples: 4 copies, blurred, and 4 other people."""
    for i in range(24):
        save_png(tmp_path / "training" / f"t{i:02d}.png", cohort[i])
    for i in range(24, 36):
        save_png(tmp_path / "holdout" / f"h{i:02d}.png", cohort[i])
    for i in range(4):
        save_png(tmp_path / "samples" / f"a{i}.png", ndimage.gaussian_filter(cohort[i], 1))
        save_png(tmp_path / "samples" / f"b{i}.png", cohort[50 + i])
    return tmp_path


def test_ours_and_rivals_are_asked_the_same_and_written_with_intervals(place, monkeypatch):
    monkeypatch.setattr(scorers, "audit", correlating_audit)
    sets = {name: place / name for name in ("training", "holdout", "samples")}
    (place / "person.csv").write_text("image,truth\na3.png,blend\nb0.png,unsure\n")
    result = benchmark(
        **sets,
        output=place / "out",
        labels=place / "person.csv",
        rival=[Chance(), Refusing()],
        images=4,
        transforms="exact; flip-x",
        spatial_size=48,
    )
    assert [one.name for one in result.scorers] == ["doppelscan", "doppelscan, same patient", "chance", "refusing"]
    ours, same, chance = result.of("samples", "copy of the image", "samples")
    assert ours.scorer == "doppelscan" and ours.area.share == 1 and ours.source.share == 1 and ours.area.lower < 1
    assert same.scorer == "doppelscan, same patient" and same.recall is None
    assert chance.recall is None and chance.area.lower < 0.5 < chance.area.upper
    exact = result.of("planted", "copy of the image", "planted copies", "exact")[0]
    assert exact.area.share == 1 and exact.recall.share == 1 and exact.source.share == 1

    with open(place / "out" / "benchmark.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    kept = json.loads((place / "out" / "benchmark.json").read_text())
    assert len(rows) == len(kept["rows"]) == len(result.measured) and {row["scorer"] for row in rows} == {
        "doppelscan",
        "doppelscan, same patient",
        "chance",
    }
    for row in rows:
        assert float(row["auc_lower"]) <= float(row["auc"]) <= float(row["auc_upper"])
    with open(place / "out" / "queries.csv", newline="") as file:
        queries = list(csv.DictReader(file))
    exact_rows = [row for row in queries if row["case"] == "exact" and row["source"]]
    assert exact_rows and all(row["doppelscan match"] == row["source"] for row in exact_rows)

    with open(place / "out" / "labels.csv", newline="") as file:
        labels = {row["image"].rpartition("/")[2]: row for row in csv.DictReader(file)}
    assert labels["a3.png"]["truth"] == "blend" and labels["a3.png"]["by"] == "person" and labels["b0.png"]["truth"] == "unsure"
    assert [labels[f"a{i}.png"]["truth"] for i in range(3)] == ["copy"] * 3 and labels["a0.png"]["by"] == "pixels"
    assert kept["labels"]["copy"] == 3 and kept["labels"]["blend"] == 1
    assert (place / "out" / "labels.html").read_text().count('class="sample"') == 8

    page = (place / "out" / "benchmark.html").read_text()
    assert page.index('class="ours"') < page.index("<td>chance</td>") and "http" not in page
    assert "refusing could not be asked about planted: The &#39;holdout&#39; parameter must be larger." in page
    assert any("Nothing names the patient of 24 training images" in note for note in result.notes)


def test_labels_of_an_earlier_run_are_not_written_over(place, monkeypatch):
    monkeypatch.setattr(scorers, "audit", correlating_audit)
    given = {name: place / name for name in ("training", "holdout", "samples")}
    given |= {"output": place / "out", "rival": "none", "images": 2, "transforms": "exact", "spatial_size": 48}
    (place / "out").mkdir()
    source = place / "training" / "t05.png"
    (place / "out" / "labels.csv").write_text(
        f"image,truth,by,source\n{place}/samples/b1.png,copy,person,{source}\n{place}/samples/b2.png,blend,person,\nb3.png,copy,pixels,\n"
    )
    result = benchmark(**given)
    with open(place / "out" / "labels.csv", newline="") as file:
        rows = {row["image"].rpartition("/")[2]: (row["truth"], row["by"], row["source"]) for row in csv.DictReader(file)}
    assert rows["b1.png"] == ("copy", "person", str(source)) and rows["b2.png"] == ("blend", "person", "")
    assert rows["b3.png"][1] == "pixels" and rows["a0.png"][1] == "pixels"
    assert any(note.startswith("2 labels that a person has set were taken from") for note in result.notes)
    queries = result.asked[1].experiment.queries
    assert queries[5].source == 5 and (queries[6].source, queries[6].patient) == (-1, "sample 6")
    right = result.of("samples", "copy of the image", "samples")[0]
    assert right.source.total == len(right.question.positive) - 1 >= 1, "of one copy nobody said of what"
    # Of other samples, the labels are refused before anything is written over.
    (place / "out" / "labels.csv").write_text("image,truth,by\nx.png,copy,person\n")
    with pytest.raises(InputError, match="pass its own --samples, or another --output"):
        benchmark(**given)
    assert (place / "out" / "labels.csv").read_text() == "image,truth,by\nx.png,copy,person\n"


def test_one_bad_rival_loses_nothing_but_itself(place, monkeypatch):
    monkeypatch.setattr(scorers, "audit", correlating_audit)
    bad = {
        "nan": lambda m, n: Ranking(np.append(np.zeros(m - 1), np.nan), np.zeros(m, np.int64)),
        "short": lambda m, n: Ranking(np.zeros(m - 1), np.zeros(m - 1, np.int64)),
        "elsewhere": lambda m, n: Ranking(np.zeros(m), np.full(m, n)),
        "nothing": lambda m, n: None,
    }
    result = benchmark(
        training=place / "training",
        holdout=place / "holdout",
        output=place / "out",
        rival=[Broken(), *(Ranked(*one) for one in bad.items()), Chance()],
        images=2,
        transforms="exact",
        spatial_size=48,
    )
    why = {one.name: one.failed.get("planted", "") for one in result.scorers}
    assert why["doppelscan"] == why["chance"] == "" and {one.scorer for one in result.measured} == {
        "doppelscan",
        "doppelscan, same patient",
        "chance",
    }
    assert why["broken"] == "RuntimeError: shape mismatch in layer 3"
    assert "rival 'nan'" in why["nan"] and "Got 1 scores that are not finite" in why["nan"]
    assert (
        "rival 'short'" in why["short"] and "rival 'elsewhere'" in why["elsewhere"] and why["nothing"].startswith("AttributeError")
    )
    assert json.loads((place / "out" / "benchmark.json").read_text())["failed"]["broken"] == {"planted": why["broken"]}
    assert f"broken could not be asked about planted: {why['broken']}" in result.words


def test_mistakes_are_told_before_anything_is_read(place):
    sets = {name: place / name for name in ("training", "holdout")}
    with pytest.raises(InputError, match="'labels' parameter must come with --samples"):
        benchmark(**sets, output=place / "out", labels=place / "training")
    with pytest.raises(InputError, match="There is no rival 'nccc'; did you mean ncc"):
        benchmark(**sets, output=place / "out", rival="nccc")
    with pytest.raises(InputError, match="NAME:FILE"):
        named_rivals("dinov2:")
    with pytest.raises(InputError, match=r"parameter must name images of other patients than training\. Got 24 patients"):
        benchmark(training=place / "training", holdout=place / "training", output=place / "out", rival="none", spatial_size=48)
    (place / "labels.csv").write_bytes(b"image,label\n")
    for labels in ("labels.csv", "samples"):
        with pytest.raises(InputError, match=r"The 'labels' (table|parameter) must"):
            benchmark(
                training=place / "holdout",
                holdout=place / "holdout",
                output=place / "out",
                samples=place / "samples",
                labels=place / labels,
            )
    assert not (place / "out").exists()
    assert named_rivals("none") == [] and named_rivals(None)[0].name == "NCC"


@pytest.mark.slow
def test_the_command_measures_the_whole_audit_on_the_sample_cohort(sample, tmp_path):
    words = [
        "--training",
        sample / "training",
        "--holdout",
        sample / "holdout",
        "--output",
        tmp_path / "out",
        "--samples",
        sample / "synthetic",
    ]
    words += [
        "--patient-pattern",
        r"(train\d+|other\d+)",
        "--images",
        "4",
        "--transforms",
        "exact;rotation 10;flip-x",
        "--rival",
        "ncc,calibrated",
    ]
    done = run_warm(["-m", "doppelscan.cli", "benchmark", *words], tmp_path, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "planted, copy of the image: AUC" in done.stdout and "Page: " in done.stdout
    kept = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    found = {
        (row["task"], row["family"], row["case"], row["scorer"]): row for row in kept["rows"] if row["experiment"] == "planted"
    }
    copies = found["copy of the image", "planted copies", "all of them", "doppelscan"]
    assert copies["auc"] > 0.99 and copies["right_source"] > 0.9
    assert found["copy of the image", "planted copies", "flip-x", "NCC"]["auc"] < 0.95, "in one pose"
    assert kept["experiments"]["planted"]["truths"]["same patient"] > 0
