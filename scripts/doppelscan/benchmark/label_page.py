"""labels.html: one offline page on which a person says what each sample is, and that gives the labels back as CSV."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from doppelscan.benchmark.labels import TRUTHS, SampleLabel
from doppelscan.benchmark.sets import PreparedImages
from doppelscan.pages import page_templates
from doppelscan.report import inline_picture
from doppelscan.version import __version__

__all__ = ["label_page"]

# Keys of the truths: each its first letter, but for the patient's.
KEYS = {"copy": "c", "same patient": "p", "blend": "b", "novel": "n", "unsure": "u"}
# Unsure ones first: they are what the page is for.
ORDER = ("unsure", "same patient", "blend", "copy", "novel")


def label_page(labels: Sequence[SampleLabel], samples: PreparedImages, training: PreparedImages) -> str:
    """The page as HTML text: each sample beside the three training images nearest in pixels and the difference with each, unsure ones first.

    What a person sets is kept by the browser (localStorage), under a name that these samples alone have, and exported as CSV with the columns
    ``image, truth, by, source``, which :func:`~doppelscan.benchmark.read_labels` takes; the source is the candidate that was clicked.

    Args:
        labels: of each sample.
        samples: the samples.
        training: the images that ``labels`` count in.
    """
    order = sorted(range(len(labels)), key=lambda i: (ORDER.index(labels[i].truth), labels[i].ratio))
    digest = hashlib.sha256(samples.squares.tobytes()).hexdigest()[:16]
    return page_templates("benchmark").get_template("labels.html").render(
        rows=[_row(labels[i], i, samples, training) for i in order], truths=[(truth, KEYS[truth]) for truth in TRUTHS], store=f"doppelscan-labels-{digest}",
        counts={truth: sum(one.truth == truth for one in labels) for truth in TRUTHS}, version=__version__, colour="unsure",
    )  # fmt: skip


def _row(label: SampleLabel, i: int, samples: PreparedImages, training: PreparedImages) -> dict[str, Any]:
    sample = samples.squares[i]
    return {
        "image": samples.records[i].id,
        "label": label,
        "source": training.records[label.source].id if label.source >= 0 else "",
        "sample": _picture(sample),
        "nearest": [
            {
                "image": training.records[row].id,
                "patient": training.records[row].patient,
                "picture": _picture(training.squares[row]),
                "difference": _picture(np.abs(sample - training.squares[row])),
            }
            for row in label.sources
        ],
    }


def _picture(square: np.ndarray) -> str:
    return inline_picture(np.round(255 * np.clip(square, 0, 1)).astype(np.uint8))
