"""The description of a dataset that machines read: Croissant 1.0 (mlcommons.org/croissant/1.0), JSON-LD of schema.org."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from doppelscan.version import __version__

__all__ = ["CONTEXT", "croissant"]

HUB = "https://huggingface.co/datasets"
# As the specification gives it.
CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs", "column": "cr:column", "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/", "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "dct": "http://purl.org/dc/terms/", "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract", "field": "cr:field", "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject", "fileSet": "cr:fileSet", "format": "cr:format", "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath", "key": "cr:key", "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path", "recordSet": "cr:recordSet",
    "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated", "replace": "cr:replace", "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/", "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField", "transform": "cr:transform",
}  # fmt: skip


def croissant(
    columns: Sequence[str], sha256: str, licence: str, attributions: Mapping[str, str], repo: str, weights: Mapping[str, str]
) -> dict[str, Any]:
    """The JSON-LD of a folder with ``metadata.csv``, ``images/`` and, with weights, ``weights/``.

    Args:
        columns: of metadata.csv; ``file_name`` is the path of a picture.
        sha256: of metadata.csv.
        licence: address of the licence of the whole.
        attributions: source -> where its images come from.
        repo: OWNER/NAME of the dataset on the Hub.
        weights: name of a file in ``weights/`` -> its sha256.
    """
    picture = {
        "@type": "cr:RecordSet", "@id": "pictures", "name": "pictures", "key": {"@id": "pictures/filename"},
        "field": [
            _field("pictures/filename", "sc:Text", {"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": "filename"}}),
            _field("pictures/content", "sc:ImageObject", {"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": "content"}}),
        ],
    }  # fmt: skip
    fields = []
    for column in columns:
        source: dict[str, Any] = {"fileObject": {"@id": "metadata.csv"}, "extract": {"column": column}}
        if column == "file_name":
            source["transform"] = {"regex": "^images/(.+)$"}
        field = _field(f"metadata/{column}", "sc:Text", source)
        if column == "file_name":
            field["references"] = {"field": {"@id": "pictures/filename"}}
        fields.append(field)
    table = {"@type": "cr:RecordSet", "@id": "metadata", "name": "metadata", "key": {"@id": "metadata/file_name"}, "field": fields}
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": repo.rpartition("/")[2],
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "description": "Real medical images with open licences, and images that generators made of them, labelled as copies or not.",
        "citeAs": "; ".join(f"{source}: {words}" for source, words in attributions.items()),
        "license": licence,
        "url": f"{HUB}/{repo}",
        "version": __version__.partition("+")[0],
        "datePublished": date.today().isoformat(),
        "distribution": [
            {"@type": "cr:FileObject", "@id": "metadata.csv", "name": "metadata.csv", "contentUrl": "metadata.csv", "encodingFormat": "text/csv", "sha256": sha256},
            {"@type": "cr:FileObject", "@id": "folder", "name": "folder", "contentUrl": f"{HUB}/{repo}", "encodingFormat": "git+https", "sha256": "https://github.com/mlcommons/croissant/issues/80"},
            {"@type": "cr:FileSet", "@id": "image-files", "name": "image-files", "containedIn": {"@id": "folder"}, "encodingFormat": ["image/png", "image/jpeg"], "includes": "images/*"},
            *(
                {"@type": "cr:FileObject", "@id": f"weights/{name}", "name": name, "contentUrl": f"weights/{name}", "encodingFormat": "application/octet-stream", "sha256": digest}
                for name, digest in weights.items()
            ),
        ],
        "recordSet": [picture, table],
    }  # fmt: skip


def _field(name: str, kind: str, source: Mapping[str, Any]) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": name, "name": name, "dataType": kind, "source": dict(source)}
