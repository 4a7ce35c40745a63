"""A dossier is whole, says what was not tested, names nobody unless asked to, and knows the files that it was made of."""

from __future__ import annotations

import csv
import json
import re
from html import unescape

import jsonschema
import pytest
from doppelscan.errors import InputError
from doppelscan.filing import check, dossier
from doppelscan.locations import PACKAGE
from made_audits import made_audit, made_test
from made_files import save_png

SCHEMA = json.loads((PACKAGE / "filing" / "schemas" / "dossier.schema.json").read_text())
NAMES = re.compile(r"training-patient\d|synthetic/\d|training/\d|anna")


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    return made_audit(tmp_path_factory.mktemp("made") / "audit", 30)


def page_text(path) -> str:
    """What a reader of the page reads."""
    page = re.sub(r"(?s)<(script|style).*?</\1>", "", path.read_text())
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def failed(found) -> list[str]:
    return [one.name for one in found if one.passed is False]


def test_its_json_obeys_the_schema_and_every_patient_and_image_is_in_it(audit, tmp_path):
    filed = dossier(audit=audit, output=tmp_path / "d.json", redact=False)
    content = json.loads(filed.path.read_text())
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(content, SCHEMA)
    with open(audit / "exposure.csv", newline="") as file:
        assert [one["patient"] for one in content["patients"]] == [row["patient"] for row in csv.DictReader(file)]
    assert len(content["images"]) == 30 and content["conclusion"] == "memorization found"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "conclusion": "all is well"}, SCHEMA)


def test_a_redacted_dossier_names_nobody_and_its_pseudonyms_are_the_same_all_through(audit, tmp_path):
    decisions = tmp_path / "decisions.csv"
    decisions.write_text("image,decision,comment,reviewer,date\nsynthetic/0.png,memorized,it is training-patient0,ab,\n")
    files = [tmp_path / f"d.{kind}" for kind in ("json", "html")]
    for file in files:
        dossier(audit=audit, output=file, decisions=decisions, key=tmp_path / f"{file.suffix}.csv")
        assert not NAMES.search(file.read_text()), file
    content = json.loads(files[0].read_text())
    (decided,) = content["review"]["decisions"]
    assert decided["comment"] == "(left out)" and decided["image"] in {one["image"] for one in content["images"]}
    assert {one["match_patient"] for one in content["images"] if one["finding"] == "copy"} <= {
        one["patient"] for one in content["patients"]
    }
    with open(tmp_path / ".json.csv", newline="") as file:
        names = {row["pseudonym"]: row["name"] for row in csv.DictReader(file)}
    assert names[decided["image"]] == "synthetic/0.png"
    other = {row for row in re.findall(r"[0-9a-f]{12}", (tmp_path / ".html.csv").read_text())}
    assert not other & set(names), "two dossiers cannot be linked"


def test_one_that_names_is_asked_for_and_says_so(audit, tmp_path):
    filed = dossier(audit=audit, output=tmp_path / "d.html", redact=False)
    assert "training-patient0" in page_text(filed.path) and "anna/training" in page_text(filed.path)
    assert "names patients and files" in filed.words[0]


def test_what_was_not_tested_and_what_nobody_gave_stands_in_it(audit, tmp_path):
    text = page_text(dossier(audit=audit, output=tmp_path / "d.html").path)
    for words in (
        "Membership inference not tested", "Attribute inference not tested", "Singling out shown", "Linkability shown", "Opinion 05/2014", "Opinion 28/2024",
        "arXiv 2406.11143", "Compliance tested", "Nobody said: Title, Purpose", "no person is known to have looked", "no signature of a person",
        "changed by rotation 18 of 18 81 %", "Data protection officer", "Threat model", "doppelscan audit --training '(not told)'",
    ):  # fmt: skip
        assert words in text, words


def test_details_decisions_and_an_earlier_audit_are_filed_with_it(audit, tmp_path):
    details, decisions = tmp_path / "details.json", tmp_path / "decisions.csv"
    details.write_text(
        json.dumps({"title": "Brains v2", "licence": "CC BY 4.0", "mitigation": "duplicates taken out", "expires": "2020-01-31"})
    )
    decisions.write_text(
        "image,decision,comment,reviewer,date\nsynthetic/0.png,memorized,clear <b>,ab,2026-11-29\nsynthetic/34.png,unclear,,ab,\n"
    )
    before = made_audit(tmp_path / "before", 34, 40, change=lambda c: c["sets"]["synthetic"].update(sha256="b" * 64))
    filed = dossier(audit=audit, output=tmp_path / "d.html", details=details, decisions=decisions, before=before, redact=False)
    text = page_text(filed.path)
    for words in (
        "Dossier: Brains v2",
        "CC BY 4.0",
        "it has expired",
        "memorized 1 0",
        "unclear 0 1",
        "1 of 30",
        "clear <b>",
        "audit before and after",
        "duplicates taken out",
    ):
        assert words in text, words
    assert "<b>," not in filed.path.read_text() and filed.record.before.before.images == 40
    jsonschema.validate(filed.record.as_dict(), SCHEMA)


@pytest.mark.parametrize("kind", ["json", "html"])
def test_a_changed_file_or_word_is_seen(tmp_path, kind):
    audit = made_audit(tmp_path / "audit")
    path = dossier(audit=audit, output=tmp_path / f"d.{kind}").path
    assert not failed(check(dossier=path, audit=audit))
    original = path.read_text()
    path.write_text(original.replace("memorization found", "no memorization found"))
    assert set(failed(check(dossier=path, audit=audit))) >= {"the dossier's content"}
    path.write_text(original)
    if kind == "html":
        path.write_text(original.replace("<h1>memorization found</h1>", "<h1>no memorization found</h1>"))
        assert failed(check(dossier=path, audit=audit)) == ["the page's text"]
        path.write_text(original)
    with open(audit / "scores.csv", "a") as file:
        file.write("\n")
    assert failed(check(dossier=path, audit=audit)) == ["scores.csv", "the whole audit"]
    (audit / "control.csv").unlink()
    assert "is missing" in next(one.words for one in check(dossier=path, audit=audit) if one.name == "control.csv")


def test_only_who_holds_the_secret_can_seal_it(audit, tmp_path):
    secret, other = tmp_path / "secret", tmp_path / "other"
    secret.write_text("0123456789abcdef-one")
    other.write_text("0123456789abcdef-two")
    path = dossier(audit=audit, output=tmp_path / "d.json", secret=secret).path
    assert not failed(check(dossier=path, audit=audit, secret=secret))
    assert failed(check(dossier=path, audit=audit, secret=other)) == ["the HMAC"]
    assert next(one.passed for one in check(dossier=path, audit=audit) if one.name == "the HMAC") is None
    bare = dossier(audit=audit, output=tmp_path / "bare.json").path
    assert failed(check(dossier=bare, audit=audit, secret=secret)) == ["the HMAC"]
    other.write_text("short")
    with pytest.raises(InputError, match="at least 16 bytes"):
        dossier(audit=audit, output=tmp_path / "d.json", secret=other)


def test_what_is_no_dossier_is_refused(audit, tmp_path):
    for name, content in (("x.json", "{}"), ("x.html", "<p>"), ("x.pdf", "%PDF-1.4 nothing"), ("x.bin", "\0\1")):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match="'check' parameter must be a dossier"):
            check(dossier=tmp_path / name, audit=audit)


def test_a_redacted_audit_stays_redacted(tmp_path):
    audit = made_audit(tmp_path / "audit", redact=True)
    filed = dossier(audit=audit, output=tmp_path / "d.json")
    assert filed.record.redacted and not NAMES.search(filed.path.read_text().replace("anna/", ""))
    assert filed.record.patients[0].patient in (audit / "exposure.csv").read_text(), "the pseudonyms of the audit are kept"
    with pytest.raises(InputError, match="must be true for a redacted audit"):
        dossier(audit=audit, output=tmp_path / "d.json", redact=False)
    with pytest.raises(InputError, match="'key' parameter"):
        dossier(audit=audit, output=tmp_path / "d.json", key=tmp_path / "key.csv")


@pytest.mark.parametrize("flagged", [0, 1])
def test_a_set_without_findings_or_self_test_claims_nothing_more(tmp_path, flagged):
    audit = made_audit(tmp_path / "audit", flagged, change=lambda c: c.update(self_test=None))
    text = page_text(dossier(audit=audit, output=tmp_path / "d.html").path)
    assert "There was no self-test: nobody knows what would have been found" in text and "no bound" in text
    assert ("No image is flagged." in text) == (flagged == 0)


def test_the_generator_is_told_by_the_samplers_manifest(tmp_path, cohort):
    from doppelscan.images import content_hash, find_images

    for i in range(3):
        save_png(tmp_path / "samples" / f"sample_{i:06d}.png", cohort[i])
    manifest = tmp_path / "samples" / "manifest.csv"
    rows = "".join(f"sample_{i:06d}.png,{i},,{'e' * 64},2000,50\n" for i in range(3))
    manifest.write_text("path,seed,condition,checkpoint,step,sampling_steps\n" + rows)
    keys = sorted(content_hash(one) for one in find_images(manifest, name="synthetic").records)

    def of_samples(content) -> None:
        import hashlib

        content["sets"]["synthetic"]["sha256"] = hashlib.sha256("\n".join(keys).encode()).hexdigest()
        content["command"] = f"doppelscan audit --training x --synthetic {manifest} --output y"

    audit = made_audit(tmp_path / "audit", change=of_samples)
    made = dossier(audit=audit, output=tmp_path / "d.json").record.generator
    assert made.checkpoints == ("e" * 64,) and made.sampling_steps == ("50",) and (made.first_seed, made.last_seed) == ("0", "2")
    assert made.same_images is True
    save_png(tmp_path / "samples" / "sample_000001.png", cohort[9])
    assert dossier(audit=audit, output=tmp_path / "d.json", manifest=manifest).record.generator.same_images is False
    with pytest.raises(InputError, match="must be a sampler's manifest"):
        dossier(audit=audit, output=tmp_path / "d.json", manifest=audit / "scores.csv")


def test_power_that_is_too_low_is_marked(tmp_path):
    audit = made_audit(tmp_path / "audit", test=made_test(found=12))
    assert "12 of 18 41 % (too few)" in page_text(dossier(audit=audit, output=tmp_path / "d.html").path)


@pytest.mark.parametrize(("reason", "match", "p"), [("region, false", "training/1.png", 0.7), ("false", "training/2.png", 0.01)])
def test_a_part_is_filed_with_the_source_and_the_p_value_of_what_flags_it(tmp_path, reason, match, p):
    """Of a half of a volume, which the whole volume tells, a stranger's volume and its p-value were filed."""
    folder = made_audit(tmp_path / "audit", 6, rename={"region, false": reason})
    with open(folder / "scores.csv", newline="") as file:
        rows = [{**row, "part_p_value": "0.7"} for row in csv.DictReader(file)]
    with open(folder / "scores.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    content = json.loads(dossier(audit=folder, output=tmp_path / "d.json", redact=False).path.read_text())
    (part,) = [one for one in content["images"] if one["finding"] == "part"]
    assert (part["match"], part["p_value"]) == (match, p)
    assert part["match_patient"] == ("" if "region" in reason else "training-patient2"), "the table names the match's patient alone"


def test_an_audit_of_volumes_of_which_a_half_was_copied_is_filed(tmp_path):
    """Regions of volumes have no p-value of their own, and an earlier version left that of their patient out."""
    folder = made_audit(tmp_path / "audit", 6, whole=True)
    for table, columns in (("scores.csv", ["part_p_value", "part_q_value"]), ("exposure.csv", ["smallest_p_value"])):
        with open(folder / table, newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            row |= dict.fromkeys(columns, "nan") if table == "scores.csv" or row["part"] != "0" else {}
        with open(folder / table, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    filed = dossier(audit=folder, output=tmp_path / "d.json")
    content = json.loads(filed.path.read_text())
    (part,) = [one for one in content["images"] if one["finding"] == "part"]
    assert part["p_value"] == 0.01 and all(0 < one["smallest_p_value"] <= 1 for one in content["patients"])
    told = {one["topic"]: one["says"] for one in content["tested"]}
    assert "compared whole and in 3D" in told["Copies of training volumes"]
    assert "slice" not in told["The same person in another volume"]


def test_a_dossier_of_volumes_speaks_of_volumes_and_says_that_nobody_looked_for_another_domain(tmp_path):
    """It said "0 images" unlike the training set, where that was never measured."""
    folder = made_audit(tmp_path / "audit", 4, whole=True)
    decided = tmp_path / "decisions.csv"
    decided.write_text("image,decision,comment,reviewer,date\nsynthetic/0.png,memorized,,ab,\n")
    earlier = made_audit(tmp_path / "before", 5, whole=True)
    given = {"audit": folder, "decisions": decided, "before": earlier}
    content = json.loads(dossier(**given, output=tmp_path / "d.json").path.read_text())
    jsonschema.validate(content, SCHEMA)
    assert content["of"] == content["before"]["of"] == "volume" and content["results"]["unlike"] is None
    text = page_text(dossier(**given, output=tmp_path / "d.html").path)
    assert (
        "Unlike the training set not measured" in text
        and "synthetic volumes flagged" in text
        and "30 volumes of 30 patients" in text
    )
    spoken = re.sub(
        r"(--training|--synthetic) \S+|public images|models? and images|[^ ]*\.(png|csv)", "", text.split("Sources WP29")[0]
    )
    assert not re.findall(r".{30}\bimages?\b.{30}", spoken)


def test_of_images_it_is_said_how_many_are_of_another_domain_or_that_nobody_looked(tmp_path):
    measured = made_audit(tmp_path / "measured", change=lambda content: content["images"].update(unlike=1))
    not_measured = made_audit(tmp_path / "not")
    assert json.loads((not_measured / "summary.json").read_text())["images"]["unlike"] is None
    with open(not_measured / "scores.csv", newline="") as file:
        assert {row["unlike"] for row in csv.DictReader(file)} == {""}
    told = [page_text(dossier(audit=one, output=tmp_path / f"{one.name}.html").path) for one in (measured, not_measured)]
    assert "Unlike the training set 1 image, of which nothing is said" in told[0]
    assert "Unlike the training set not measured" in told[1]


def test_one_of_each_is_told_in_the_singular(tmp_path):
    folder = made_audit(
        tmp_path / "audit", 1, change=lambda content: content.update(near_duplicates=content["near_duplicates"][:1])
    )
    filed = dossier(audit=folder, output=tmp_path / "d.html")
    text = page_text(filed.path)
    assert ": 1 training patient shown, 1 image flagged; " in filed.words[0]
    for words in (
        "1 training patient shown listed below",
        "1 training patient is shown by synthetic images",
        "The 1 flagged image,",
        "1 pair of real images under two names agrees",
    ):
        assert words in text, words
    assert not re.findall(r".{20}\b1 (?:images|patients|pairs|training patients|control images)\b.{20}", text)


def test_a_dossier_counts_no_patients_whom_nobody_named_and_says_so_where_it_is_signed(tmp_path):
    folder = made_audit(tmp_path / "audit", 4, named=False)
    content = json.loads(dossier(audit=folder, output=tmp_path / "d.json").path.read_text())
    jsonschema.validate(content, SCHEMA)
    assert content["control"]["patients"] is None and all(one["patients"] is None for one in content["sets"])
    filed = dossier(audit=folder, output=tmp_path / "d.html")
    text = page_text(filed.path)
    assert (
        "30 images, patients not named" in text and "training images shown" in text and "4 training patient" not in filed.words[0]
    )
    assert "name them and audit again before this is signed" in text[text.rindex("Sign-off") :]
    assert re.search(r": \d training images shown, 4 images flagged; how many patients that are is not known; ", filed.words[0])


def test_a_dossier_of_nobody_flagged_says_that_no_training_image_is_shown(tmp_path):
    """It said "training patients, who are not named, shown" under whatever conclusion."""
    folder = made_audit(tmp_path / "audit", 0, named=False)
    assert ": 0 training images shown, 0 images flagged; " in dossier(audit=folder, output=tmp_path / "d.html").words[0]


def test_a_dossier_says_how_many_patients_another_image_tells(tmp_path):
    recall = {"count": 6, "total": 12, "share": 0.5, "lower": 0.21, "upper": 0.79}
    told = {"patients": 12, "strangers": 199, "auc": {}, "recall": recall, "rate": 0.01}
    texts = [
        page_text(dossier(audit=made_audit(tmp_path / name, 2, change=change), output=tmp_path / f"{name}.html").path)
        for name, change in {
            "told": lambda content: content.update(same_patient=told),
            "few": lambda content: content.update(same_patient={**told, "recall": None}),
            "none": lambda content: None,
        }.items()
    ]
    assert "another image tells 50 % (21 to 79 %) of 12 training patients from strangers, at 1 % of strangers" in texts[0]
    assert all("would be found was not measured." in text for text in texts[1:])


def test_a_dossier_says_which_p_values_are_upper_limits_and_that_flags_rest_on_the_tail(tmp_path):
    folder = made_audit(tmp_path / "audit", 3, 60, change=lambda summary: summary.update(p_value_floors=[0.01]))
    content = json.loads(dossier(audit=folder, output=tmp_path / "d.json").path.read_text())
    jsonschema.validate(content, SCHEMA)
    text = page_text(dossier(audit=folder, output=tmp_path / "d.html").path)
    assert "≤ 0.01 " in text and "3 of 3 flags by rate rest on a tail" in text
