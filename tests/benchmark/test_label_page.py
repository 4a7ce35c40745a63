"""The page on which samples are labelled: what a person sets in a browser comes back as CSV."""

from __future__ import annotations

import csv
import html
import io
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from doppelscan.benchmark import SampleLabel, label_page, read_labels
from made_sets import made_set

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture
def samples(cohort):
    return made_set(cohort[30:34], [f"s{i}" for i in range(4)], folder='a "quoted", name')


@pytest.fixture
def labels() -> list[SampleLabel]:
    return [
        SampleLabel(truth, (i, i + 1, i + 2), vote, vote, vote, 0.5 + 0.1 * i, 0.6, 0.9)
        for i, (truth, vote) in enumerate([("novel", "novel"), ("unsure", "unsure"), ("copy", "copy"), ("unsure", "copy")])
    ]


@pytest.fixture
def page(cohort, labels, samples) -> str:
    return label_page(labels, samples, made_set(cohort[:10], [f"t{i}" for i in range(10)]))


def test_unsure_samples_come_first_and_the_page_asks_no_other_host(page):
    order = re.findall(r'data-truth="([^"]*)"', page)
    assert order == ["unsure", "unsure", "copy", "novel"]
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]*"', page) and "http://" not in page and "https://" not in page
    assert page.count("data:image/webp;base64,") == 4 * 7, "each sample, three training images, and a difference with each"


def test_the_difference_is_that_of_the_pixels(cohort, labels, samples):
    training = made_set(np.concatenate([cohort[30:34], cohort[:6]]), [f"t{i}" for i in range(10)])
    page = label_page([SampleLabel("copy", (0,), "copy", "copy", "copy", 0.1, 0.1, 1.0)], samples.at([0]), training)
    pictures = re.findall(r"base64,([^\"]+)", page)
    assert len(pictures) == 3 and pictures[0] == pictures[1] and len(pictures[2]) < len(pictures[0]) / 4, "black"


# Presses keys and buttons as a person does, then writes what would be exported into the page.
PERSON = """
const press = key => document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
press("b"); press("p");
samples[3].querySelector('button[data-set="copy"]').click();
samples[2].querySelector('button[data-set="unsure"]').click(); press("x");
samples[0].querySelectorAll(".candidate")[2].click();
samples[1].click(); press("2"); press("1");
const chosen = samples.map(one => one.querySelectorAll('.candidate[aria-pressed="true"]').length).join("");
const pressed = samples.map(one => one.querySelector('.answers [aria-pressed="true"]').dataset.set).join("|");
document.body.innerHTML = '<pre id="csv"></pre><p id="pressed"></p><p id="kept"></p><p id="chosen"></p>';
document.getElementById("chosen").textContent = chosen;
document.getElementById("csv").textContent = csv();
document.getElementById("pressed").textContent = pressed;
document.getElementById("kept").textContent = localStorage.getItem(STORE);
"""


def browsed(path, profile, script: str) -> dict[str, str]:
    path.write_text(path.read_text().replace("</script>", script + "</script>"))
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
        "--dump-dom",
        f"file://{path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return {name: html.unescape(text) for name, text in re.findall(r'id="(\w+)">([^<]*)<', done.stdout)}


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium; CHROMIUM=FILE names one")
def test_what_a_person_sets_is_kept_and_exported(tmp_path, page, cohort, labels, samples):
    training = made_set(cohort[:10], [f"t{i}" for i in range(10)]).records
    (tmp_path / "labels.html").write_text(page)
    told = browsed(tmp_path / "labels.html", tmp_path / "profile", PERSON)
    rows = {row["image"]: (row["truth"], row["by"], row["source"]) for row in csv.DictReader(io.StringIO(told["csv"]))}
    names = [one.id for one in samples.records]
    assert rows == {
        names[1]: ("blend", "person", "set/3.png"),
        names[3]: ("same patient", "person", "set/3.png"),
        names[2]: ("copy", "pixels", "set/2.png"),
        names[0]: ("copy", "person", ""),
    }
    assert told["pressed"] == "blend|same patient|copy|copy" and told["chosen"] == "1100"
    (tmp_path / "labels.csv").write_text(told["csv"])
    read = read_labels(tmp_path / "labels.csv", labels, samples.records, training)
    assert [one.source for one in read] == [-1, 3, 2, 3]
    assert [one.truth for one in read] == ["copy", "blend", "copy", "same patient"]
    assert [one.by for one in read] == ["person", "person", "pixels", "person"]
    # Opened again, the browser has kept it.
    (tmp_path / "labels.html").write_text(page)
    again = browsed(tmp_path / "labels.html", tmp_path / "profile", PERSON[PERSON.index("const chosen") :])
    assert again["csv"] == told["csv"] and again["kept"] == told["kept"]
