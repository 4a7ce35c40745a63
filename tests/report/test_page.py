"""What the page tells without a browser: everybody who is exposed, near misses with their reason, decisions, and nothing of anybody when redacted."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from doppelscan.decide import Finding, Reason, ReviewedImages, Rule, ScoredImage, Verdict, kept_from_flag
from doppelscan.pages import file_name
from doppelscan.report import audit_facts, gallery, write_report
from doppelscan.report import page as page_module
from doppelscan.report.agreement_scale import AgreementScale, colour_bars
from doppelscan.report.entries import entries_of, short_names
from doppelscan.report.histogram import distributions, histogram
from doppelscan.report.may_sign import may_sign, to_quote
from doppelscan.report.pose_words import pose_sentence
from doppelscan.report.tables import score_rows
from doppelscan.reviewers import ReviewerSaid
from doppelscan.verify import FullSizePair
from made_audits import made_test
from made_records import made_decision, made_pair, made_summary, made_unnamed
from markupsafe import escape
from PIL import Image


class Parsed(HTMLParser):
    """Tags with their attributes, and the text of the page's data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
        assert found is not None
        self.data = json.loads(found[1])

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    @property
    def images(self) -> list[dict]:
        rows = [dict(zip(self.data["columns"], row, strict=True)) for row in self.data["rows"]]
        return [{**row, "image": self.data["names"][row["image"]][0]} for row in rows]


def written(folder, decision, **given) -> str:
    summary = made_summary(decision, **({"reviews": given["reviews"]} if "reviews" in given else {}))
    write_report(folder, decision, summary, given.pop("redact", False), pair=made_pair, **given)
    return (folder / "report.html").read_text()


def test_every_flagged_image_and_every_exposed_patient_is_in_the_page_and_every_image_can_be_looked_up(tmp_path, cohort):
    decision = made_decision(250, 400, cohort=cohort)
    page = written(tmp_path, decision)
    parsed = Parsed(page)
    cards = [given for tag, given in parsed.tags if tag == "article"]
    assert [int(one["data-n"] or 0) for one in cards] == list(range(1, 263)), "250 flagged, 12 near misses"
    assert {one["image"] for one in parsed.images} == {one.record.id for one in decision.images}
    with open(tmp_path / "exposure.csv", newline="") as file:
        exposed = page[page.index('id="exposed"') : page.index('id="filters"')]
        assert all(f">{row['patient']}<" in exposed for row in csv.DictReader(file))
    pictures = {given["src"] for tag, given in parsed.tags if tag == "img"} | {
        row["picture"] for row in parsed.images if row["picture"]
    }
    assert len(pictures) == 400 and all((tmp_path / str(one)).is_file() for one in pictures)


def test_near_misses_come_first_with_the_rule_that_kept_them(cohort):
    decision = made_decision(2, 8, cohort=cohort)
    scores = (0.3, 0.2, 0.71, 0.9, 0.1, 0.4)
    images = [
        replace(one, scored=replace(one.scored, score=score, detail=score, agreement=score))
        for one, score in zip(decision.images[2:], scores, strict=True)
    ]
    images[0] = replace(images[0], unlike=True)
    decision = replace(decision, images=(*decision.images[:2], *images))
    entries = entries_of(decision, score_rows(decision.images))
    assert [one.image.scored.score for one in entries.others] == [0.9, 0.71, 0.4, 0.2, 0.1, 0.3], "another domain comes last"
    assert (
        "q 0.6 is above the rate of 0.05" in entries.others[0].kept
        and "agrees as copies do (verified 0.90)" in entries.others[0].kept
    )
    assert "agrees as copies do" not in entries.others[1].kept and entries.others[-1].kept.startswith("unlike the training set")
    weak = replace(images[1], flag=replace(images[1].flag, q_value=0.01))
    assert "verified score 0.20 is below 0.6" in kept_from_flag(weak, decision) and not kept_from_flag(decision.images[0], decision)


@pytest.mark.parametrize("many", [False, True])
def test_a_page_asks_nobody_but_its_own_folder_and_runs_nothing_but_its_own_script(tmp_path, cohort, many):
    page = written(tmp_path, made_decision(301 if many else 3, cohort=cohort))
    places = [given[name] for _, given in Parsed(page).tags for name in ("src", "href") if given.get(name)]
    assert all(re.match(r"data:image/webp|#|report_files/" if many else r"data:image/webp|#", str(one)) for one in places)
    assert "://" not in page.replace("http://www.w3.org", "")
    policy = next(given["content"] for tag, given in Parsed(page).tags if given.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy) and "unsafe" not in str(policy)
    assert not any("style" in given or any(name.startswith("on") for name in given) for _, given in Parsed(page).tags)


def test_decisions_stand_beside_the_statistics_and_change_none_of_them(tmp_path, cohort):
    decision = made_decision(3, 8, cohort=cohort)
    said = [("synthetic/0.png", "not a copy"), ("synthetic/1.png", "copy"), ("synthetic/6.png", "copy")]
    reviews = ReviewedImages(tuple(ReviewerSaid(image, told, "anna knows", "Dr. B", "2026-11-29") for image, told in said))
    for name in ("with", "without", "redacted"):
        (tmp_path / name).mkdir()
    page = " ".join(written(tmp_path / "with", decision, reviews=reviews).split())
    written(tmp_path / "without", decision)
    assert "1 flagged, but no copy to reviewers:" in page and "1 not flagged, but a copy to reviewers:" in page
    summary = json.loads((tmp_path / "with" / "summary.json").read_text())
    counted = summary.pop("decisions")
    assert (counted["copy"], counted["not_a_copy"], counted["unsure"], counted["disagree"]) == (2, 1, 0, 2)
    assert summary == json.loads((tmp_path / "without" / "summary.json").read_text())
    for table in ("scores.csv", "control.csv"):
        assert (tmp_path / "with" / table).read_bytes() == (tmp_path / "without" / table).read_bytes()
    removed = [row.split(",")[0] for row in (tmp_path / "with" / "remove.csv").read_text().splitlines()]
    assert removed == ["image", "synthetic/1.png", "synthetic/2.png", "synthetic/6.png"]
    assert len((tmp_path / "without" / "remove.csv").read_text().splitlines()) == 4
    redacted = written(tmp_path / "redacted", decision, reviews=reviews, redact=True)
    assert not re.search(r"anna|Dr\. B|synthetic/\d|training-patient", redacted) and "reviewer 1" in redacted
    pseudonyms = {row["image"] for row in Parsed(redacted).images}
    assert {row[0] for row in Parsed(redacted).data["decisions"]} <= pseudonyms and not (
        tmp_path / "redacted" / "report_files"
    ).exists()


def test_a_redacted_page_tells_no_condition_and_leaves_no_pictures_of_an_earlier_one(tmp_path, cohort):
    decision = made_decision(301, cohort=cohort)
    images = tuple(replace(one, record=replace(one.record, condition="of anna")) for one in decision.images)
    decision = replace(decision, images=images)
    assert "of anna" in written(tmp_path, decision) and (tmp_path / "report_files").is_dir()
    assert "of anna" not in written(tmp_path, decision, redact=True) and not (tmp_path / "report_files").exists()


def test_names_are_as_short_as_they_can_be_told_apart():
    found = short_names(["/data/one/a.png", "/data/two/a.png", "/data/two/b.png", "x/two/c.png", "y/two/c.png", "plain"])
    assert list(found.values()) == ["one/a.png", "two/a.png", "b.png", "x/two/c.png", "y/two/c.png", "plain"]


@pytest.mark.parametrize(
    ("pose", "volume", "words"),
    [
        ("identity", False, "in place, as it is"),
        ("flip-x turn 90 rot -4.8 scale 1.18 shift 3,-2", False,
         "mirrored left to right, turned by 90° counter-clockwise, turned by 4.8° clockwise, enlarged by 18 %, shifted 3 px to the right and 2 px up"),
        ("inverted flip-y scale 0.90", False, "dark and bright exchanged, mirrored top to bottom, made smaller by 10 %"),
        ("axes 2 0 1 flip-z rot x 9.8 y -0.3 z 1.2 shift 3.0,-2.1,0.0 mm", True,
         "its axes exchanged: x was z, y was x, z was y, mirrored top to bottom, turned by 9.8° about the left-right axis (front up), "
         "0.3° about the back-front axis (top to the left), 1.2° about the vertical axis (counter-clockwise seen from above), "
         "shifted 3 mm to the right, 2.1 mm to the back"),
        ("stretch 1.00,0.90,1.87", True, "along y made smaller by 10 %, z enlarged by 87 %"),
    ],
)  # fmt: skip
def test_a_pose_is_a_sentence(pose, volume, words):
    assert pose_sentence(pose, volume) == words


def test_a_histogram_tells_in_words_what_it_shows_and_takes_no_values():
    drawn = histogram({"synthetic": [0.1, 0.2, float("nan")], "control": []}, "score", {0.15: "lowest <flagged>"})
    assert (
        'aria-label="score: synthetic 2 images, median 0.15, highest 0.20; control none"' in drawn
        and "lowest &lt;flagged&gt;" in drawn
    )
    assert "style=" not in drawn and histogram({"synthetic": []}, "score", {}) == ""


@pytest.mark.parametrize("many", [False, True])
def test_a_pair_is_there_at_the_resolution_of_its_files_in_the_page_or_beside_it(tmp_path, cohort, many, monkeypatch):
    monkeypatch.setattr(gallery, "MOST_INLINE", 30)
    monkeypatch.setattr(page_module, "LARGE_PAIRS", 10)
    flagged = 20 if many else 2
    decision = made_decision(flagged, flagged + 20, cohort=cohort)

    def full(scored: ScoredImage) -> FullSizePair | None:
        tile = np.full((256, 256), scored.row % 256, np.uint8)
        return None if scored.row == 1 else FullSizePair(tile, tile, tile)

    write_report(tmp_path, decision, made_summary(decision), redact=False, pair=made_pair, full=full)
    page = (tmp_path / "report.html").read_text()
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page, re.S)[0])
    rows = [dict(zip(data["columns"], row, strict=True)) for row in data["rows"]]
    by_image = {data["names"][row["image"]][0]: row for row in rows}
    large = by_image["synthetic/0.png"]
    content = (tmp_path / large["large"]).read_bytes() if many else base64.b64decode(large["large"].split(",")[1])
    assert Image.open(io.BytesIO(content)).size == (5 * 256, 256) and large["side"] == 256
    assert by_image["synthetic/1.png"]["large"] == "" and by_image["synthetic/1.png"]["side"] == 0, "its files hold no more"
    with_large = sum(bool(row["large"]) for row in rows)
    assert with_large == (10 - 1 + 12 if many else 1 + 12), "the first of the flagged, and the near misses"


def test_every_flagged_pair_has_its_picture_in_the_page_itself_for_paper(tmp_path, cohort):
    """Scripts draw what is looked at; paper has what is there."""
    decision = made_decision(230, 250, cohort=cohort)
    write_report(tmp_path, decision, made_summary(decision), redact=False, pair=made_pair)
    page = (tmp_path / "report.html").read_text()
    assert page.count('<img class="strip"') == 230 + 12 and page.count('class="pair brief"') == 30


def test_a_page_of_volumes_speaks_of_volumes_and_of_no_measure_that_they_do_not_have(tmp_path, cohort):
    decision = made_decision(6, 8, cohort=cohort)
    images = tuple(replace(one, record=replace(one.record, whole=True)) for one in decision.images)
    images = tuple(replace(one, scored=replace(one.scored, part=0.5)) for one in images)
    decision = replace(decision, images=images)
    write_report(tmp_path, decision, made_summary(decision), redact=False)
    page = (tmp_path / "report.html").read_text()
    told = page.split("<main>")[1].split('<h2 id="made">')[0]
    assert "DeepSSIM" not in told and "Memorization Index" not in told and "nan" not in told
    assert "neighbouring slice" not in told and "a training volume came back" in told
    assert not re.search(r"\bimages?\b", re.sub(r"<[^>]+>", " ", told)), "every word of the page"


@pytest.mark.parametrize("whole", [False, True])
def test_the_region_of_a_volume_is_drawn_among_regions_and_not_among_whole_volumes(whole):
    """Its score is a stranger's: as the lowest flagged it stood far left of every copy, and its own histogram was hidden."""
    decision = made_decision(6, 8)
    images = [replace(one, record=replace(one.record, whole=whole)) for one in decision.images]
    images[2] = replace(images[2], scored=replace(images[2].scored, score=0.31, part=0.93))
    score, region, _ = distributions(replace(decision, images=tuple(images)), "volume" if whole else "image")
    assert "agreement of the best region" in region and "lowest flagged part" in region
    drawn = float(score.partition('class="mark" x1="')[2].partition('"')[0])
    assert drawn > 200, "at 1.0, where the whole volumes are, of a width of 340"


def test_a_redacted_page_says_why_it_shows_no_picture(tmp_path, cohort):
    decision = made_decision(3, 8, cohort=cohort)
    write_report(tmp_path, decision, made_summary(decision), redact=True, pair=made_pair)
    page = (tmp_path / "report.html").read_text()
    assert '<body class="redacted">' in page and "Redacted: there are no pictures;" in page
    assert "This report is redacted: it holds no pictures." in page and "<img" not in page


def with_reasons(decision, rules):
    """The flagged images of ``decision`` as flagged by ``rules`` in turn, each a copy."""
    images = list(decision.images)
    for i, rule in enumerate(rules):
        reason = Reason(rule, 1.0, 0.998, 0.02)
        images[i] = replace(
            images[i], flag=replace(images[i].flag, reason=reason), finding=Finding("copy", reason, 0.98), second_match=None
        )
    return replace(decision, images=tuple(images))


def test_what_the_same_pixels_decide_shows_no_p_and_no_q(tmp_path, cohort):
    """The page told p and q of a rule that had not decided."""
    page = written(tmp_path, with_reasons(made_decision(2, 4, cohort=cohort), [Rule.PIXELS, Rule.RATE]))
    first, second = re.findall(r"<article.*?</article>", page, re.S)[:2]
    assert "identical pixels" in first and not re.search(r"\b[pq] 0\.", first) and re.search(r"p 0\.0100, q 0\.0200", second)
    told = {row["image"]: (row["p"], row["q"]) for row in Parsed(page).images}
    assert told["synthetic/0.png"] == (None, None) and told["synthetic/1.png"] == (0.01, 0.02)
    with open(tmp_path / "exposure.csv", newline="") as file:
        assert [row["smallest_p_value"] for row in csv.DictReader(file)] == ["nan", "0.01"]
    assert page.count("identical</span></td>") == 1


def test_a_page_of_volumes_speaks_of_voxels_and_has_no_class_that_was_made_for_images(tmp_path):
    """SSIM above 0.85 is usual among registered brains: strangers were called duplicates."""
    decision = with_reasons(made_decision(3, 6, whole=True), [Rule.PIXELS, Rule.PLAIN, Rule.RATE])
    close = [replace(one, scored=replace(one.scored, ssim=0.95)) for one in decision.images]
    decision = replace(decision, images=tuple(close))
    summary = made_summary(decision)
    write_report(tmp_path, decision, summary, False)
    page = (tmp_path / "report.html").read_text()
    for table in ("scores.csv", "control.csv", "volumes.csv", "patients.csv"):
        with open(tmp_path / table, newline="") as file:
            assert {row["verdict"] for row in csv.DictReader(file)} == {""}, table
    with open(tmp_path / "scores.csv", newline="") as file:
        reasons = {row["reason"].split(":")[0] for row in csv.DictReader(file)} - {""}
    assert reasons == {"identical voxels", "the same volume, registered", "false discovery rate"}
    assert summary.as_dict()["verdicts"] is None and "duplicate" not in page.replace("near duplicates", "").replace(
        "Near duplicates", ""
    )
    spoken = re.sub(r"(?s)<style.*?</style>|<script.*?</script>", "", page)
    assert not re.search(r"\b(images?|pixels)\b", re.sub(r"<[^>]*>", " ", spoken)), "volumes are volumes"


def test_one_of_each_is_told_in_the_singular(tmp_path, cohort):
    page = " ".join(re.sub(r"<[^>]*>", " ", written(tmp_path, made_decision(1, 1, cohort=cohort))).split())
    for words in (
        "synthetic image flagged",
        "training patient exposed",
        "of 40 in 40 training images",
        "1 of 1 image is flagged",
        "1 synthetic image 30 of",
    ):
        assert words in page, words
    assert not re.search(r"\b1 (?:synthetic images|images|training images|patients|reviewers|pairs)\b", page)


SIGNED = {
    (Rule.PIXELS,): ("that this image shows this training patient, with the kind of finding below; the same pixels leave no doubt", "the other images are safe"),
    (Rule.RATE,): ("it is flagged by rate, and of such flags at most 5 % are false on average", "the other images are safe"),
    (Rule.PLAIN, Rule.PLAIN): (
        "that these 2 images show these 2 training patients, with the kind of findings below; each flag states its own error in its reason", "the other images are safe",
    ),
    (Rule.PIXELS, Rule.RATE, Rule.RATE): (
        "1 flag is of the same pixels, which leave no doubt; of the 3 flags by rate or of the same pixels together at most 5 % are false on average", "the other images are safe",
    ),
}  # fmt: skip


@pytest.mark.parametrize("rules", SIGNED)
def test_what_may_be_signed_names_only_what_is_there(rules):
    """It spoke of flags by rate, of a share and of other flags where there were none, and of one in the plural."""
    decision = with_reasons(made_decision(len(rules), len(rules) + 3), rules)
    yes, no = may_sign(decision, made_summary(decision))
    told, others = SIGNED[rules]
    assert told in yes and others in no and "share" not in no, "without a self-test there is no share to see"
    assert ("by rate" in yes) is (Rule.RATE in rules) and ("own error" in yes) is (Rule.PLAIN in rules)
    tested = replace(decision, test=made_test(bound=0.4))
    assert "see the share that may be memorized" in may_sign(tested, made_summary(tested))[1]
    unbounded = replace(decision, test=made_test(bound=1.0))
    assert "share" not in may_sign(unbounded, made_summary(unbounded))[1]


def test_where_all_are_flagged_nobody_speaks_of_the_others():
    decision = with_reasons(made_decision(2, 2), [Rule.PIXELS, Rule.PIXELS])
    yes, no = may_sign(decision, made_summary(decision))
    assert yes.endswith("the same pixels leave no doubt") and no == "anything of other images of the same generator"


def test_a_clean_set_is_signed_for_the_declared_ways_alone():
    clean = replace(made_decision(0, 9), test=made_test(bound=0.2))
    signed, not_signed = may_sign(clean, made_summary(clean, skipped=[]))
    assert not_signed.endswith("nor that no training patient is shown in another slice or visit, which is no copy")
    assert "in the ways of the table" in signed and "at most 20.0 % of this set is" in signed
    assert "at most 20.0 % of the 9 images that could be judged is" in may_sign(clean, made_summary(clean))[0], "one was left out"
    partly = replace(clean.test.copies[0], declared=False)
    some = replace(clean, test=replace(clean.test, copies=(partly, *clean.test.copies[1:])))
    assert "in the declared ways of the table" in may_sign(some, made_summary(some))[0]


SCALE = AgreementScale(0.5, 0.9, 0.41)


def test_where_strangers_agree_is_of_another_colour_than_where_copies_do():
    """All that agreed a little was green: of strangers most of the picture."""
    image = np.full((1, 5), 200, np.uint8)
    made = SCALE.tinted(image, np.array([[0.3, 0.5, 0.7, 0.95, np.nan]]))[0].astype(int)
    grey = [160, 160, 160]
    assert made[0].tolist() == made[1].tolist() and made[0][0] > made[0][1] > made[0][2], "orange, up to the limit of strangers"
    assert made[3][1] > made[3][2] > made[3][0], "green, from that of copies on"
    assert made[2].tolist() == made[4].tolist() == grey, "between the two, and where there is no structure, neither"
    assert (SCALE.tinted(np.zeros((1, 5), np.uint8), np.full((1, 5), 0.95)) == 0).all(), "the ground agrees with everything"


def test_the_bars_carry_the_limits_of_the_rules_and_what_strangers_reach(tmp_path, cohort):
    decision = made_decision(2, cohort=cohort)
    scale = AgreementScale.of(decision)
    rules = decision.calibrations[0].rules
    assert (scale.low, scale.high) == (rules.part_disagrees, rules.part_agrees) and scale.strangers == pytest.approx(0.2145)
    bars = colour_bars(scale, "one")
    assert ">0.50<" in bars["agreement"] and ">0.90<" in bars["agreement"] and "control 0.21<" in bars["agreement"]
    assert ">25 %<" in bars["difference"] and ">50 % and more<" in bars["difference"]
    page = written(tmp_path, decision)
    assert page.count('class="colours"') == 4 and len(set(re.findall(r'linearGradient id="([^"]+)"', page))) == 4
    nobody = AgreementScale.of(replace(decision, control=()))
    assert np.isnan(nobody.strangers) and "control" not in colour_bars(nobody, "two")["agreement"]


def test_an_exact_copy_is_said_to_differ_nowhere_and_another_is_not(tmp_path, cohort):
    """Its difference was a white rectangle without a word."""

    def pair(scored):
        made = made_pair(scored)
        own = decision.synthetic.images.thumbnails([scored.row])[0][0].numpy().astype(np.float32) / 255
        return replace(made, moved=own + (0.2 if scored.row else 0.004) * (own < 0.5))

    decision = made_decision(2, 2, cohort=cohort)
    write_report(tmp_path, decision, made_summary(decision), False, pair=pair)
    page = (tmp_path / "report.html").read_text()
    captions = re.findall(r'<p class="captions".*?</p>', page)
    assert "<span>no difference</span>" in captions[0] and "<span>difference</span>" in captions[1]
    assert [row["same"] for row in Parsed(page).images] == [True, False]
    assert "match in its pose, no difference, where they agree" in page


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("long_name_of_a_scan.nii.gz", ".nii.gz"),
        ("a/b.png", ".png"),
        ("v.nii#slice=12", ".nii#slice=12"),
        ("e3b0c44298fc", ""),
        (".png", ""),
        ("<b>.png", ".png"),
    ],
)
def test_no_line_breaks_an_extension(name, end):
    made = str(file_name(name))
    assert made.endswith(f'<span class="ext">{end}</span>') if end else "span" not in made
    assert re.sub(r"<span[^>]*>|</span>", "", made) == str(escape(name)) and "<b>" not in made


def test_where_nobody_named_the_patients_no_number_of_them_is_offered_to_be_signed(tmp_path, cohort):
    """The page of the sample said 24 patients where there are 18, offered that to be signed, and said at its end that nobody was named."""
    decision = made_unnamed(made_decision(4, 9, cohort=cohort))
    signed = may_sign(decision, made_summary(decision))[0]
    assert "show 4 training images, whose patients are not named" in signed and "training patients" not in signed
    page = written(tmp_path, decision)
    header = page[page.index("<header") : page.index("</header>")]
    assert "Nobody named the patients of 40 training and 30 control images" in header and "before you sign" in header
    assert "training images shown" in header and "patients exposed" not in header
    assert "30 images (patients not named: each counts as one)" in page
    text = re.sub(r"<[^>]*>", " ", page[page.index("<body") : page.index('<script type="application/json"')])
    assert not re.search(r"\b\d+ (?:training |control )?patients", text.replace("the control counts as 30 patients", ""))


def test_a_p_value_at_the_end_of_the_tail_is_told_as_an_upper_limit(tmp_path, cohort):
    """All copies of the sample had p 0.0002, as if that had been measured."""
    decision = made_decision(2, 9, cohort=cohort)
    floor = decision.floors[0]
    first = replace(decision.images[0], flag=replace(decision.images[0].flag, p_value=floor, q_value=0.0021))
    page = written(tmp_path, replace(decision, images=(first, *decision.images[1:])))
    header = page[page.index("<header") : page.index("</header>")]
    assert "rest on a tail fitted to the control" in header
    assert "p ≤ 0.00033, q ≤ 0.0021" in page and "p 0.0100, q 0.0200" in page
    exposed = page[page.index('id="exposed"') : page.index('id="filters"')]
    assert ">≤ 0.00033<" in exposed and ">0.0100<" in exposed
    told = {(one["pWords"], one["qWords"]) for one in Parsed(page).images if one["kind"]}
    assert told == {("≤ 0.00033", "≤ 0.0021"), ("0.0100", "0.0200")}


def test_one_share_is_to_be_quoted_and_the_others_are_told_apart(tmp_path, cohort):
    """Three shares of the sample stood side by side, and nobody said which to quote."""
    found = replace(made_decision(24, 66, cohort=cohort), test=made_test(bound=0.6))
    told = to_quote(made_summary(found))
    assert told.startswith("24 of 66 images flagged, 36.4 % (95 % interval 25.8 to 48.4 %)") and "may have been missed" in told
    assert "owed" not in told, "nothing competed"
    assert f"<b>Quote</b> {told}." in written(tmp_path, found)
    clean = replace(made_decision(0, 9), test=made_test(bound=0.2))
    assert to_quote(made_summary(clean)).startswith("at most 20.0 % of the set memorized")
    open_ = replace(clean, conclusion=replace(clean.conclusion, verdict=Verdict.CANNOT))
    assert to_quote(made_summary(open_)) == ""


def test_a_control_that_is_topped_up_is_said_to_be_where_it_is_first_named(tmp_path, cohort):
    """Of a control of 50 that was called the holdout 30 were training images: only a note at the end said so."""
    made = made_decision(2, 9, cohort=cohort)
    decision = replace(made, control_set=replace(made.control_set, first_training=10))
    page = written(tmp_path, decision)
    assert "10 of the holdout, 20 training images" in page[page.index("<header") : page.index("</header>")]
    facts = audit_facts(made_summary(decision).as_dict())
    assert facts["images"].endswith("30 control of 30 patients: 10 of the holdout, 20 training images")
