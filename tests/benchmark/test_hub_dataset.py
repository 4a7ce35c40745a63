"""The pack for the Hub: what may be given on, with who made it, described for people and for machines."""

from __future__ import annotations

import csv
import hashlib
import json

import pytest
import yaml
from doppelscan.benchmark import benchmark_pack, licence_of
from doppelscan.benchmark.croissant import CONTEXT
from doppelscan.benchmark.hub_dataset import COLUMNS
from doppelscan.errors import InputError
from made_files import save_png


@pytest.mark.parametrize(
    ("words", "licence"),
    [
        ("CC0 (OpenNeuro ds002748)", "cc0-1.0"),
        ("cc-0", "cc0-1.0"),
        ("CC BY 4.0 (figshare doi 10.6084/m9.figshare.1512427)", "cc-by-4.0"),
        ("CC-BY-4.0", "cc-by-4.0"),
        ("CC BY-SA 4.0", None),
        ("CC BY-NC 4.0", None),
        ("CC-BY-NC-4.0", None),
        ("CC BY", None),
        ("MIT", None),
        ("", None),
    ],
)
def test_only_two_licences_are_let_through(words, licence):
    assert licence_of(words) == licence


@pytest.fixture
def place(tmp_path, cohort):
    rows = ["path,subject,source,licence,kind"]
    for i, (source, licence) in enumerate(
        [("open", "CC0 (doi one)"), ("open", "CC0 (doi one)"), ("named", "CC BY 4.0 (doi two)"), ("shared", "CC BY-SA 4.0")]
    ):
        save_png(tmp_path / "set" / f"{i}.png", cohort[i])
        rows.append(f"{i}.png,p{i},{source},{licence},real")
    rows.append("9.png,p0,made,MIT,generated")
    (tmp_path / "set" / "manifest.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "set" / "PROVENANCE.md").write_text("Where they come from.\n")
    save_png(tmp_path / "samples" / "s0.png", cohort[0])
    save_png(tmp_path / "samples" / "s1.png", cohort[9])
    (tmp_path / "labels.csv").write_text(
        f"image,truth,by,source\nelsewhere/s0.png,copy,person,{tmp_path / 'set' / '0.png'}\ns1.png,novel,pixels,x.png\n"
    )
    (tmp_path / "generator.pt").write_bytes(b"weights")
    return tmp_path


def rows_of(pack) -> dict[str, dict[str, str]]:
    with open(pack / "metadata.csv", newline="") as file:
        return {row["file_name"]: row for row in csv.DictReader(file)}


@pytest.fixture
def packed(place):
    return benchmark_pack(
        place / "pack",
        place / "set" / "manifest.csv",
        place / "samples",
        place / "labels.csv",
        [place / "generator.pt"],
        ["open", "named"],
        "me/data",
    )


def test_what_is_packed_is_what_the_table_names(place, packed):
    with open(packed / "metadata.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 5
    assert sorted(f"images/{one.name}" for one in (packed / "images").iterdir()) == sorted(row["file_name"] for row in rows)
    by_name = {row["file_name"]: row for row in rows}
    assert (packed / "images" / "open-0.png").read_bytes() == (place / "set" / "0.png").read_bytes(), "not changed"
    copy = by_name["images/generated-s0.png"]
    assert (copy["truth"], copy["truth_by"], copy["nearest"], copy["licence"]) == (
        "copy",
        "person",
        "images/open-0.png",
        "cc-by-4.0",
    )
    assert by_name["images/generated-s1.png"]["nearest"] == "" and by_name["images/open-1.png"]["licence"] == "cc0-1.0"
    assert (packed / "weights" / "generator.pt").read_bytes() == b"weights" and (packed / "PROVENANCE.md").is_file()


def test_the_card_attributes_every_source(packed):
    front, body = (packed / "README.md").read_text().split("---\n")[1:3]
    told = yaml.safe_load(front)
    assert told["license"] == "cc-by-4.0" and told["configs"][0]["data_files"][0]["path"] == ["metadata.csv", "images/*"]
    assert "| open | 2 | 2 | CC0 (doi one) |" in body and "| named | 1 | 1 | CC BY 4.0 (doi two) |" in body and "shared" not in body
    assert "| copy | 1 |" in body and "| novel | 1 |" in body


def test_croissant_has_what_the_specification_requires(packed):
    told = json.loads((packed / "croissant.json").read_text())
    assert (
        told["@context"] == CONTEXT and told["conformsTo"] == "http://mlcommons.org/croissant/1.0" and told["@type"] == "sc:Dataset"
    )
    for name in ("name", "description", "license", "url", "datePublished", "version", "citeAs", "distribution", "recordSet"):
        assert told[name], name
    files = {one["@id"]: one for one in told["distribution"]}
    assert files["metadata.csv"]["sha256"] == hashlib.sha256((packed / "metadata.csv").read_bytes()).hexdigest()
    assert {one["@type"] for one in files.values()} == {"cr:FileObject", "cr:FileSet"} and "me/data" in files["folder"][
        "contentUrl"
    ]
    fields = {one["@id"]: one for record in told["recordSet"] for one in record["field"]}
    for field in fields.values():
        (place,) = (field["source"].get(kind) for kind in ("fileObject", "fileSet") if kind in field["source"])
        assert place["@id"] in files and field["dataType"].startswith("sc:") and field["@type"] == "cr:Field"
    columns = [one["source"]["extract"]["column"] for one in fields.values() if "column" in one["source"]["extract"]]
    assert tuple(columns) == COLUMNS
    assert fields["metadata/file_name"]["references"]["field"]["@id"] in fields


def test_what_must_not_be_given_on_is_refused_in_one_line(place):
    table = place / "set" / "manifest.csv"
    with pytest.raises(
        InputError, match=r"must say CC0 or CC BY 4\.0\. Got 'CC BY-SA 4\.0' for 'shared'; leave it out with --sources"
    ):
        benchmark_pack(place / "pack", table)
    assert not (place / "pack").exists()
    with pytest.raises(InputError, match="Got none in"):
        benchmark_pack(place / "pack", table, sources=["elsewhere"])
    (place / "volumes.csv").write_text("path,source,licence\na.nii.gz,open,CC0\n")
    with pytest.raises(InputError, match=r"PNG and JPEG pictures alone. Got .*a.nii.gz"):
        benchmark_pack(place / "pack", place / "volumes.csv")
    with pytest.raises(InputError, match="'output' parameter must be a new or empty folder, or an earlier pack"):
        benchmark_pack(place / "set", table, sources=["open"])


def test_samples_of_two_conditions_with_one_name_are_both_packed_with_their_own_labels(place, cohort):
    save_png(place / "samples" / "few" / "s0.png", cohort[1])
    few, many = place / "samples" / "few" / "s0.png", place / "samples" / "s0.png"
    (place / "labels.csv").write_text(
        f"image,truth,by,paper_class,ssim\n{few},novel,pixels,different,0.31\n{many},copy,pixels,duplicate,0.93\n"
    )
    table = place / "set" / "manifest.csv"
    rows = rows_of(benchmark_pack(place / "pack", table, place / "samples", place / "labels.csv", sources=["open"]))
    told = {name: (row["truth"], row["paper_class"], row["ssim"]) for name, row in rows.items() if row["kind"] == "generated"}
    assert told == {
        "images/generated-few__s0.png": ("novel", "different", "0.31"),
        "images/generated-s0.png": ("copy", "duplicate", "0.93"),
        "images/generated-s1.png": ("", "", ""),
    }
    assert (place / "pack" / "images" / "generated-few__s0.png").read_bytes() == few.read_bytes()
    (place / "labels.csv").write_text("image,truth\ns0.png,copy\n")
    with pytest.raises(InputError, match=r"or by a file name that it alone has\. Got 's0\.png': 1 rows and 2 samples"):
        benchmark_pack(place / "pack", table, place / "samples", place / "labels.csv", sources=["open"])
    with pytest.raises(InputError, match=r"'labels' parameter must be a \.csv in UTF-8"):
        benchmark_pack(place / "pack", table, place / "samples", place / "samples", sources=["open"])


def test_what_the_generator_has_seen_is_told_by_the_tables_of_its_sets(place):
    """Of a study, whose tables name images made of slices; of a generator's training_images.csv, which names them as they are."""
    folder = place / "set"
    (place / "sets").mkdir()
    (place / "sets" / "some.csv").write_text(f"path,patient,source\nimages/000000.png,p0,{folder / '0.png'}#slice=12\n")
    (place / "others.csv").write_text(f"index,path,source\n0,{folder / '2.png'},named\n")
    (place / "labels.csv").write_text(f"image,truth,by,source\ns0.png,copy,person,{place / 'sets' / 'images' / '000000.png'}\n")
    given = (place / "pack", folder / "manifest.csv", place / "samples", place / "labels.csv")
    chosen = {"sources": ["open", "named"], "training": place / "sets" / "some.csv"}
    rows = rows_of(benchmark_pack(*given, **chosen, holdout=place / "others.csv"))
    assert {name: row["role"] for name, row in rows.items()} == {
        "images/open-0.png": "training",
        "images/open-1.png": "unused",
        "images/named-2.png": "holdout",
        "images/generated-s0.png": "",
        "images/generated-s1.png": "",
    }
    assert rows["images/generated-s0.png"]["nearest"] == "images/open-0.png", "over the table's source"
    with pytest.raises(InputError, match="'holdout' table must name other images than training"):
        benchmark_pack(*given, **chosen, holdout=place / "sets" / "some.csv")
    (place / "others.csv").write_text("path\nelsewhere.png\n")
    with pytest.raises(InputError, match="'holdout' table must name images of the 'images' table"):
        benchmark_pack(*given, **chosen, holdout=place / "others.csv")


def test_croissant_tells_both_formats_and_the_weights(packed):
    files = {one["@id"]: one for one in json.loads((packed / "croissant.json").read_text())["distribution"]}
    assert files["image-files"]["encodingFormat"] == ["image/png", "image/jpeg"]
    weights = files["weights/generator.pt"]
    assert weights["sha256"] == hashlib.sha256(b"weights").hexdigest() and weights["contentUrl"] == "weights/generator.pt"


def test_a_pack_replaces_an_earlier_one(place, packed):
    again = benchmark_pack(place / "pack", place / "set" / "manifest.csv", sources=["open"])
    assert again == packed and not (packed / "weights").exists() and len(list((packed / "images").iterdir())) == 2
