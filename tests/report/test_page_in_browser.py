"""The page in a browser: every control, both colour schemes, a phone's width, paper; and axe-core finds nothing.

Needs Playwright (extra ``browser``) and a Chromium, named by DOPPELSCAN_CHROMIUM or on the PATH; none is downloaded.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doppelscan.decide import ReviewedImages, read_reviews
from doppelscan.filing import compare, dossier
from doppelscan.report import write_report
from doppelscan.reviewers import ReviewerSaid
from doppelscan.verify import AlignedVolume
from made_audits import made_audit, made_test
from made_links import write_made_overlap
from made_preliminary import so_far, write_so_far
from made_records import made_decision, made_pair, made_summary

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
CHROMIUM = os.environ.get("DOPPELSCAN_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.loopback,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: set DOPPELSCAN_CHROMIUM to its executable, or put it on the PATH"),
]
FLAGGED, TOTAL = 130, 300


@pytest.fixture(scope="module")
def report(tmp_path_factory, cohort) -> Path:
    """A page of more pairs than are shown at once, with conditions."""
    decision = made_decision(FLAGGED, TOTAL, cohort=cohort)
    images = tuple(replace(one, record=replace(one.record, condition=("t1", "t2")[i % 2])) for i, one in enumerate(decision.images))
    decision, folder = replace(decision, images=images), tmp_path_factory.mktemp("report")
    write_report(folder, decision, made_summary(decision), redact=False, pair=made_pair)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def pages(report, tmp_path_factory, cohort) -> dict[str, Path]:
    """Kind -> a page of it."""
    place = tmp_path_factory.mktemp("pages")
    (place / "overlap").mkdir()
    write_made_overlap(place / "overlap", cohort)
    before, after = made_audit(place / "before", 20, 60), made_audit(place / "after", 2, 60, test=made_test(lower=0.0, upper=0.12))
    dossier(audit=before, output=place / "dossier.html", redact=False)
    compare(before=before, after=after, output=place / "compare")
    (place / "early").mkdir()
    write_so_far(place / "early", so_far(cohort, scored=True))
    return {
        "audit": report / "report.html",
        "overlap": place / "overlap" / "report.html",
        "dossier": place / "dossier.html",
        "compare": place / "compare" / "compare.html",
        "early": place / "early" / "report.html",
    }


KINDS = ("audit", "overlap", "dossier", "compare", "early")


@pytest.fixture
def page(browser, report) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    opened, told = context.new_page(), []
    opened.on("console", lambda message: told.append(message.text))
    opened.on("pageerror", lambda error: told.append(str(error)))
    opened.goto((report / "report.html").as_uri())
    yield opened
    context.close()
    assert not told, "the page's own policy lets it run, and nothing fails"


def shown(page) -> int:
    return page.locator("#pairs .pair:visible").count()


def test_every_filter_and_sort_changes_the_lists(page):
    assert shown(page) == 100 and page.locator("#more").is_visible()
    page.click("#more")
    assert shown(page) == FLAGGED and not page.locator("#more").is_visible()
    page.select_option("#kind", "copy")
    assert shown(page) == sum(i % 6 == 0 for i in range(FLAGGED))
    page.select_option("#condition", "t2")
    assert shown(page) == 0, "copies are even, t2 is odd"
    page.click("#reset")
    sync_api.expect(page.locator("#pairs .pair:not([hidden])")).to_have_count(100)
    page.fill("#text", "synthetic/17.png")
    assert shown(page) == 1 and page.locator("#rows tr").count() == 0
    page.fill("#text", "")
    page.fill("#least", "0.9")
    assert page.locator("#rows tr").count() == 0 and shown(page) == 100
    page.fill("#least", "")
    page.select_option("#patient", "training-patient2")
    assert 0 < shown(page) < 100
    page.select_option("#patient", "")
    page.select_option("#kind", "-")
    assert shown(page) == 0 and page.locator("#rows tr").count() == 100
    page.click("#morerows")
    assert page.locator("#rows tr").count() == TOTAL - FLAGGED
    page.select_option("#kind", "")
    page.select_option("#sort", "image")
    first = page.locator("#pairs .pair:visible .name").first.inner_text()
    page.click("#turn")
    assert page.locator("#pairs .pair:visible .name").first.inner_text() != first
    page.select_option("#decided", "copy")
    assert shown(page) == 0


def test_a_pair_opens_large_in_every_view_by_mouse_and_by_key(page):
    page.locator("#pairs .open").first.click()
    dialog = page.locator("#dialog")
    assert dialog.is_visible() and page.locator("#views figure:visible").count() == 5
    for mode, visible in (("flicker", 2), ("wipe", 2), ("difference", 1), ("agreement", 1), ("side", 5)):
        page.click(f'#modes [data-mode="{mode}"]')
        assert page.locator("#views figure:not(.off)").evaluate_all(
            "all => all.filter(one => getComputedStyle(one).display !== 'none').length"
        ) in (visible, visible - (mode == "flicker")), mode
    page.click('[data-mode="flicker"]')
    page.wait_for_selector("#views figure.off", state="attached")
    page.click("#swap")
    assert page.inner_text("#swap") == "swap"
    page.keyboard.press("3")
    page.locator("#wipe").fill("25")
    assert "75%" in page.locator("#views figure").nth(1).get_attribute("style")
    page.keyboard.press("4")
    assert page.locator(".scale.difference").is_visible()
    title = page.inner_text("#title")
    page.locator("#title").focus()
    page.keyboard.press("n")
    assert page.inner_text("#title") != title
    page.keyboard.press("p")
    assert page.inner_text("#title") == title and "synthetic/" in page.inner_text("#values")
    page.locator("#values button").first.click()
    sync_api.expect(page.locator("#heard")).not_to_be_empty()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_decisions_are_kept_saved_read_again_and_name_what_to_remove(page, report, tmp_path):
    page.fill("#reviewer", "Dr. A")
    page.locator("#pairs .open").first.click()
    page.fill("#comment", 'other gyri, "clearly"\nnot him')
    page.keyboard.press("Tab")
    page.check('input[value="not a copy"]')
    page.locator("#title").focus()
    page.keyboard.press("n")
    page.keyboard.press("u")
    page.click("#close")
    page.locator("#near .open").first.click()
    page.check('input[name="decision"][value="copy"]')
    page.click("#close")
    assert "2 against the audit" in page.inner_text("#status")
    page.reload()
    assert "1 copy, 1 not a copy, 1 unsure" in page.inner_text("#status"), "this browser kept them"
    with page.expect_download() as saved:
        page.click("#export")
    saved.value.save_as(tmp_path / "decisions.csv")
    ids = [row["image"] for row in read(report / "scores.csv")]
    found = read_reviews(tmp_path / "decisions.csv", ids)
    assert sorted(found.by_image.values()) == ["copy", "not a copy", "unsure"]
    assert found.said[0].comment == 'other gyri, "clearly"\nnot him' and {one.reviewer for one in found.said} == {"Dr. A"}
    with page.expect_download() as saved:
        page.click("#remove")
    saved.value.save_as(tmp_path / "remove.csv")
    assert len(read(tmp_path / "remove.csv")) == FLAGGED - 1 + 1
    page.evaluate("localStorage.clear()")
    page.reload()
    assert page.inner_text("#status") == ""
    page.set_input_files("#import", tmp_path / "decisions.csv")
    sync_api.expect(page.locator("#status")).to_contain_text("3 decisions read")
    (tmp_path / "wrong.csv").write_text("image,decision,comment,reviewer,date\nnobody.png,copy,,,\n")
    page.set_input_files("#import", tmp_path / "wrong.csv")
    sync_api.expect(page.locator("#status")).to_contain_text("line 2 names the image nobody.png")
    for date in ("29.11.2026", "2026-02-30", "soon"):
        (tmp_path / "wrong.csv").write_text(f"image,decision,comment,reviewer,date\n{ids[0]},copy,,,{date}\n")
        page.set_input_files("#import", tmp_path / "wrong.csv")
        sync_api.expect(page.locator("#status")).to_contain_text(f"line 2 has the date {date}; write it as 2026-11-29")


def test_a_decision_that_was_withdrawn_does_not_come_back(browser, tmp_path, cohort):
    """Of a page that was written with decisions; those of a later page of the same audit are not lost to what the browser kept of an earlier one."""
    decision = made_decision(3, cohort=cohort)
    reviews = [
        ReviewedImages(tuple(ReviewerSaid(f"synthetic/{i}.png", "copy", "", "", "2026-11-29") for i in range(count)))
        for count in (1, 2)
    ]
    write_report(tmp_path, decision, made_summary(decision), redact=False, reviews=reviews[0])
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert "1 copy" in page.inner_text("#status")
    page.locator("#pairs .open").first.click()
    page.locator("#title").focus()
    page.keyboard.press("0")
    page.click("#close")
    assert "copy" not in page.inner_text("#status")
    page.reload()
    assert "copy" not in page.inner_text("#status"), "it was withdrawn"
    write_report(tmp_path, decision, made_summary(decision), redact=False, reviews=reviews[1])
    page.reload()
    assert "2 copy" in page.inner_text("#status")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser, report, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python").Axe()
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto((report / "report.html").as_uri())
    page.locator(".gloss summary").first.click()
    found = axe.run(page)
    assert found.violations_count == 0, found.generate_report()
    page.locator("#pairs .open").first.click()
    found = axe.run(page, "#dialog")
    assert found.violations_count == 0, found.generate_report()
    context.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_nothing_on_any_page_in_the_light_and_in_the_dark(browser, pages, kind, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python").Axe()
    context = browser.new_context(viewport={"width": width, "height": 800}, bypass_csp=True)
    page = context.new_page()
    page.goto(pages[kind].as_uri())
    grounds = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        if kind != "audit":  # which has its own test, with what it opens
            # The page of an unfinished audit loads itself again: that is what it is for.
            found = axe.run(page, options={"rules": {"meta-refresh": {"enabled": False}}})
            assert found.violations_count == 0, found.generate_report()
        grounds[scheme] = page.evaluate(
            "['body', 'header'].map(one => getComputedStyle(document.querySelector(one)).backgroundColor)"
        )
    assert all(light != dark for light, dark in zip(*grounds.values(), strict=True)), grounds
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.emulate_media(color_scheme="dark", media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)", "paper is white"
    context.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(browser, report, width):
    context = browser.new_context(viewport={"width": width, "height": 740})
    page = context.new_page()
    page.goto((report / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.querySelectorAll('.scroll:has(.stacked)')].every(one => one.scrollWidth <= one.clientWidth)")
    page.locator("#pairs .open").first.click()
    assert page.evaluate("document.getElementById('dialog').scrollWidth") <= width
    context.close()


def test_paper_holds_every_flagged_pair_and_every_exposed_patient_whatever_is_filtered(page, report, tmp_path):
    pypdf = pytest.importorskip("pypdf", reason="pip install pypdf")
    page.fill("#text", "nothing has this name")
    assert shown(page) == 0
    page.pdf(path=tmp_path / "page.pdf")
    text = "".join("".join(sheet.extract_text().split()) for sheet in pypdf.PdfReader(tmp_path / "page.pdf").pages)
    for row in read(report / "scores.csv"):
        assert row["flagged"] == "false" or row["image"] in text, row["image"]
    for row in read(report / "exposure.csv"):
        assert row["patient"] in text


@pytest.mark.parametrize("flagged", [1, 50, pytest.param(500, marks=pytest.mark.slow)])
def test_paper_shows_a_picture_of_every_flagged_pair(browser, tmp_path, cohort, flagged):
    """Of 500 the pictures lie beside the page, and 300 of them were never on the screen."""
    pypdf = pytest.importorskip("pypdf", reason="pip install pypdf")
    decision = made_decision(flagged, flagged + 20, cohort=cohort)
    write_report(tmp_path, decision, made_summary(decision), redact=False, pair=made_pair)
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    page.pdf(path=tmp_path / "page.pdf")
    drawn = 0
    for sheet in pypdf.PdfReader(tmp_path / "page.pdf").pages:
        kinds = {name: one.get_object()["/Subtype"] for name, one in sheet["/Resources"].get("/XObject", {}).items()}
        called = re.findall(r"(/\S+) Do\b", sheet.get_contents().get_data().decode("latin-1"))
        drawn += sum(kinds[name] == "/Image" for name in called)
    assert drawn == flagged + 12, "the flagged ones and the near misses"
    page.close()


@pytest.mark.slow
def test_5000_flagged_pairs_load_in_two_seconds(browser, tmp_path, cohort):
    """The best of three loads, until every script has run; with ``-s`` the numbers of docs/review.md are told."""
    decision = made_decision(5000, 7000, cohort=cohort, training=400)
    write_report(tmp_path, decision, made_summary(decision), redact=False, pair=made_pair)
    size = (tmp_path / "report.html").stat().st_size / 1e6
    beside = sum(one.stat().st_size for one in (tmp_path / "report_files").iterdir()) / 1e6
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    loads = []
    for _ in range(3):
        page = context.new_page()
        page.goto((tmp_path / "report.html").as_uri())
        loads.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
        assert shown(page) == 100 and "100 shown" in page.inner_text("#count")
        page.close()
    context.close()
    print(
        f"5,000 flagged pairs of 7,000 images: {size:.1f} MB, {beside:.1f} MB beside it, loads in {', '.join(f'{one:.2f}' for one in loads)} s"
    )
    assert size < 20 and min(loads) < 2


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


SIDE = 16


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> Path:
    """A page of three pairs of volumes that are brighter from slice to slice along every axis."""
    decision = made_decision(2, 3)
    ramp = np.add.outer(np.add.outer(np.arange(SIDE), np.arange(SIDE)), np.arange(SIDE)) * 5
    for one in (decision.synthetic.images, decision.training):
        made: Any = one.store
        made.pixels = ramp.astype(np.uint8)[None, None]
    images = tuple(replace(one, record=replace(one.record, whole=True), shape=(SIDE,) * 3) for one in decision.images)
    decision, folder = replace(decision, images=images), tmp_path_factory.mktemp("volumes")
    pair: Any = AlignedVolume(
        (ramp / 255).astype(np.float32), np.ones(ramp.shape, np.float32), np.full(ramp.shape, 0.9, np.float32)
    )
    write_report(folder, decision, made_summary(decision), redact=False, pair=lambda scored: pair)
    return folder


def test_the_slider_goes_through_the_slices_of_a_pair_of_volumes(browser, volumes):
    """No test had moved it: the planes are drawn by a script, of mosaics that are decoded in the page."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, told = context.new_page(), []
    page.on("console", lambda message: told.extend([message.text] * (message.type == "error")))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.goto((volumes / "report.html").as_uri())
    page.locator("#pairs .pair img").first.click()
    slider = page.locator("#slice")
    assert slider.is_visible() and page.locator("#place").inner_text() == f"{SIDE // 2 + 1} of {SIDE}"
    brightness = []
    for place in (0, SIDE - 1):
        slider.evaluate("(one, k) => { one.value = k; one.dispatchEvent(new Event('input')); }", place)
        page.wait_for_selector("dialog canvas")
        assert page.locator("#place").inner_text() == f"{place + 1} of {SIDE}"
        brightness.append(
            page.locator("dialog canvas").first.evaluate(
                "one => { const all = one.getContext('2d').getImageData(0, 0, one.width, one.height).data;"
                " let sum = 0; for (let i = 0; i < all.length; i += 4) sum += all[i]; return 4 * sum / all.length; }"
            )
        )
    assert brightness[1] == pytest.approx(brightness[0] + 5 * (SIDE - 1), abs=12), "the planes are those of the slice"
    context.close()
    assert not told, "the page's own policy lets it run, and nothing fails"
