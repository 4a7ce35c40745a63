"""Two tasks, one table (the protocol of LCMem, arXiv 2512.14421): copy of the image, and same patient in another slice or visit.

``python tests/real/reidentification.py SOURCE:FOLDER ... [--output FILE.json] [--everybody] [--network FILE] [--weights FILE]``

SOURCE is a source of FOLDER/manifest.csv, ``SOURCE/PLANE`` one plane of it, or ``volumes/PLANE`` slices of its whole volumes, such as ``ds002748_t1/axial:DATA/mri``,
``volumes/axial:DATA/mri3d`` and ``kermany:DATA/cxr``. The people are those that did not train the encoder (tests/real/split.py); ``--everybody`` takes all, for
sources that nothing was trained on. A pair is a query and one image; nothing is searched. Negatives are as near in position as there are, see reid_pairs.py.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from doppelscan.calibrate import area_under_curve, clopper_pearson
from doppelscan.deepssim import DeepSSIMEncoder, foreground_views, load_encoder, load_weights, quarter_turn_poses, view_differences
from doppelscan.images import unit_float
from doppelscan.locations import encoder_weights
from doppelscan.memorization import Whitening
from doppelscan.search import NormalisedCorrelation, PatchDescriptor, PerceptualHash, PlainSSIM, Similarity
from doppelscan.verify import Registration
from doppelscan.verify.same_patient import Framing, SamePatientNetwork, same_patient_scores
from reid_pairs import (
    DISTANCES,
    Pair,
    Shown,
    copy_pairs,
    load_slices,
    load_volumes,
    people_of,
    same_patient_pairs,
    seen_in,
    thumbnails,
)

OUTPUTS = ("deepssim", "embedding", "layer2", "layer3", "layer4")
RATE = 0.01
VIEWED, VIEWS, BATCH = 80, 3, 32
# Millimetres between two numbers of slices of a 2D source that are asked about: of others any image of the patient is taken.
SLICES = {"ds002748_t1/axial": (1.0, 10.0, 20.0), "volumes/axial": DISTANCES, "volumes/coronal": DISTANCES}


class Embedded:
    """What the encoder gives of the pool, as it is, and of the queries in ``poses`` poses; rows of pairs are compared."""

    def __init__(self, pool: torch.Tensor, queries: torch.Tensor, poses: int, weights: str) -> None:
        network = load_encoder(DeepSSIMEncoder(outputs=OUTPUTS), weights)
        self.network, self.slices = network.to(memory_format=torch.channels_last), network.output_slices
        self.pool = self.embed(foreground_views_of(pool))
        views = foreground_views_of(queries)
        posed = quarter_turn_poses(views) if poses == 8 else views[None]
        self.queries = torch.stack([self.embed(view) for view in posed], 1)
        chosen = pool[torch.linspace(0, len(pool) - 1, min(VIEWED, len(pool))).long()]
        self.differences = view_differences(self.network, chosen, views=VIEWS)

    @torch.no_grad()
    def embed(self, views: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.network(part.contiguous(memory_format=torch.channels_last)) for part in views.split(BATCH)])

    def cosine(self, name: str, pairs: Sequence[Pair], white: bool) -> np.ndarray:
        part = self.slices[name]
        first, second = self.pool[:, part].numpy(), self.queries[..., part].numpy()
        if white:
            whitening = Whitening().fit(first, self.differences[:, part].numpy())
            first, second = whitening.transform(first), whitening.transform(second)
        rows, others = rows_of_pairs(pairs)
        one, other = (F.normalize(torch.from_numpy(x).float(), dim=-1).numpy() for x in (first[rows], second[others]))
        return np.einsum("nd,npd->np", one, other).max(1)


def foreground_views_of(images: torch.Tensor) -> torch.Tensor:
    return torch.cat([foreground_views(unit_float(part), 128) for part in images.split(BATCH)])


def rows_of_pairs(pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p.reference for p in pairs]), np.array([p.query for p in pairs])


def compared(similarity: Similarity, pool: torch.Tensor, queries: torch.Tensor, pairs: Sequence[Pair]) -> np.ndarray:
    """A rival's similarity of each pair."""
    rows, others = rows_of_pairs(pairs)
    found = np.zeros(len(pairs))
    for row in np.unique(rows):
        own = np.flatnonzero(rows == row)
        found[own] = similarity.fit(pool[row : row + 1]).similarity(queries[others[own]])[:, 0]
    return found


def registered(pool: torch.Tensor, queries: torch.Tensor, pairs: Sequence[Pair], poses: int) -> dict[str, np.ndarray]:
    """Verified score, explained share and the share of the fine structure, as ``decide`` has them."""
    registration, descriptor = Registration(), PatchDescriptor().fit(pool)
    rows, others = rows_of_pairs(pairs)
    tried = None if poses == 8 else np.tile([0, 4], (len(pairs), 1, 1))
    best = [one[0] for one in registration(queries[others], pool[rows][:, None], poses=tried, descriptor=descriptor)]
    aligned = registration.pairs(queries[others], pool[rows], [one.pose for one in best], descriptor)
    return {
        "verified": np.array([one.verified for one in best]),
        "explained": np.array([one.explained for one in aligned]),
        "fine": np.array([one.fine for one in aligned]),
    }


def scores_of(
    pool: torch.Tensor,
    queries: torch.Tensor,
    pairs: Sequence[Pair],
    poses: int,
    network: SamePatientNetwork | None = None,
    weights: str | None = None,
    alone: bool = False,
) -> dict[str, np.ndarray]:
    """Every score of every pair, float [N]; higher is more alike. None are the shipped ``network`` and ``weights``; ``alone`` leaves out what is not the encoder's."""
    embedded = Embedded(pool, queries, poses, weights or encoder_weights())
    layers = [embedded.cosine(name, pairs, True) for name in ("layer2", "layer3", "layer4")]
    found = {
        "embedding": embedded.cosine("embedding", pairs, False),
        "embedding, whitened": embedded.cosine("embedding", pairs, True),
        "deepssim": embedded.cosine("deepssim", pairs, False),
        "layers, whitened": np.mean(layers, 0),
    }
    if not alone:
        found |= {
            **registered(pool, queries, pairs, poses),
            "correlation": compared(NormalisedCorrelation(64, poses), pool, queries, pairs),
            "SSIM": compared(PlainSSIM(128), pool, queries, pairs),
            "pHash": compared(PerceptualHash(16, poses), pool, queries, pairs),
        }
    rows, others = rows_of_pairs(pairs)
    known, posed = Framing.of(pool)[rows], quarter_turn_poses(queries) if poses == 8 else queries[None]
    same = np.max([same_patient_scores(known, Framing.of(one)[others], network) for one in posed], 0)
    return {"same patient": same, **found}


def measured(scores: np.ndarray, pairs: Sequence[Pair]) -> dict:
    """AUC and recall at 1 % false positives, with 95 % intervals by patient, of pairs of one task and case."""
    truth, who = np.array([p.positive for p in pairs]), [p.patient for p in pairs]
    area = area_under_curve(scores, truth, who)
    threshold = np.quantile(scores[~truth], 1 - RATE, method="higher")
    recall = clopper_pearson(scores[truth] > threshold, [w for w, t in zip(who, truth, strict=True) if t])
    return {
        "auc": [area.share, area.lower, area.upper],
        "recall": [recall.share, recall.lower, recall.upper],
        "positives": int(truth.sum()),
        "negatives": int((~truth).sum()),
        "patients": len(set(who)),
    }


def table(scores: dict[str, np.ndarray], pairs: Sequence[Pair]) -> dict:
    """What :func:`measured` says of every score, over all pairs, by case and against each kind of negative."""
    parts: dict[str, list[int]] = {"all": list(range(len(pairs)))}
    task = pairs[0].task
    cases = dict.fromkeys(p.case for p in pairs) if task == "same patient" else ()
    for case in cases:
        parts[case] = [i for i, p in enumerate(pairs) if p.case == case]
        for kind in dict.fromkeys(p.against for p in pairs if p.against):
            parts[f"{case}, {kind}"] = [i for i in parts[case] if pairs[i].against in ("", kind)]
    for kind in dict.fromkeys(p.against for p in pairs if p.against):
        parts[kind] = [i for i, p in enumerate(pairs) if p.against in ("", kind)]
    return {
        part: {name: measured(values[rows], [pairs[i] for i in rows]) for name, values in scores.items()}
        for part, rows in parts.items()
        if any(pairs[i].positive for i in rows) and not all(pairs[i].positive for i in rows)
    }


def load(asked: str, everybody: bool, people: int | None = None) -> tuple[str, list[Shown]]:
    """A source as it is asked for, of the people that did not train the encoder."""
    name, _, folder = asked.partition(":")
    source, _, plane = name.partition("/")
    shown = people_of(Path(folder), source, plane, None if everybody else False, people)
    if source == "volumes":
        return name, load_volumes(Path(folder), plane or "axial", min(DISTANCES), people=shown)
    return name, load_slices(Path(folder), source, plane, shown)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--everybody", action="store_true")
    parser.add_argument(
        "--network", type=Path, help="weights of a same-patient network, see same_patient.py; default the shipped ones"
    )
    parser.add_argument("--weights", help="of the encoder")
    parser.add_argument(
        "--alone", action="store_true", help="the encoder's scores and the same-patient score: no registration, no rivals"
    )
    parser.add_argument("--people", type=int, help="of a source, at most; those of several images first")
    parser.add_argument("--copies", type=int, default=3, help="copies of a transform")
    parser.add_argument("--tasks", default="copy,same patient")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = None
    if options.network is not None:
        network = SamePatientNetwork()
        load_weights(network, options.network)
    result: dict = {}
    for asked in options.sources:
        name, pool = load(asked, options.everybody, options.people)
        for task in options.tasks.split(","):
            start = time.perf_counter()
            if task == "copy":
                pairs, pixels = copy_pairs(pool, options.copies, seed=options.seed)
                own, queries, poses = pool, thumbnails(pixels), 8
            else:
                own, pairs = seen_in(pool, same_patient_pairs(pool, SLICES.get(name, ()), seed=options.seed))
                queries, poses = thumbnails([one.pixels for one in own]), 1
            if not any(pair.positive for pair in pairs):
                continue
            seen = thumbnails([one.pixels for one in own])
            found = table(scores_of(seen, queries, pairs, poses, network, options.weights, options.alone), pairs)
            result.setdefault(task, {})[name] = found
            seconds = time.perf_counter() - start
            print(
                f"\n{task}, {name}: {len(pool)} images of {len({o.patient for o in pool})} people, {len(pairs)} pairs, {seconds:.0f} s"
            )
            print_table(found)
            if options.output:
                options.output.write_text(json.dumps(result, indent=1))


def print_table(found: dict) -> None:
    parts = list(found)
    print("| AUC (recall at 1 % FP) | " + " | ".join(parts) + " |\n|---|" + "---|" * len(parts))
    for name in found[parts[0]]:
        cells = [f"{found[part][name]['auc'][0]:.3f} ({found[part][name]['recall'][0]:.2f})" for part in parts]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
