"""The MONAI Label app: scores, match, pose and agreement map of one image, and the order in which to look at them.

Imported by the app's main.py alone, in an environment that has MONAI Label.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from PIL import Image

from doppelscan.errors import InputError, user_mistake
from doppelscan.version import __version__
from doppelscan.workflows import Review, VolumeReview

__all__ = ["DoppelscanApp"]

logger = logging.getLogger(__name__)
# Which measure of a review a bundle's ``score`` is.
SCORE_OF = {"deepssim_encoder": "score", "mi_scorer": "mi"}
# How volumes are compared; the first where nothing is said.
KINDS = ("whole", "as-slices")
# --conf NAME VALUE that go to the audit.
SETTINGS = ("patient_pattern", "slice_axis", "device", "fdr", "seed", "control_size", "candidates")


class MemorizationTask(InferTask):
    """Score one image or volume against the training set; the result image is the map of where it agrees with its match.

    Args:
        bundle: deepssim_encoder, whose ``score`` is the audit's, or mi_scorer, whose ``score`` is the Memorization Index.
        review: scores images, and volumes slice by slice.
        volumes: scores volumes whole, where it takes them; None leaves them to ``review``.
    """

    def __init__(self, bundle: str, review: Review, volumes: VolumeReview | None = None) -> None:
        super().__init__(
            type=InferType.OTHERS,
            labels=["agreement"],
            dimension=3 if volumes is not None and volumes.of_volumes else 2,
            description=f"Doppelscan {bundle}: is this image a copy of a training image, and of which",
        )
        self.bundle, self.review, self.volumes = bundle, review, volumes

    def is_valid(self) -> bool:
        return True

    def __call__(self, request: dict) -> tuple[str | None, dict]:
        try:
            whole = self.volumes is not None and self.volumes.takes(request["image"])
            found = (self.volumes if whole else self.review).image(request["image"])  # type: ignore[union-attr]
        except Exception as error:
            raise _told(error) from error
        # Of too few training volumes there is no index.
        result = {**found.values, "score": found.values.get(SCORE_OF[self.bundle]), "combined_score": found.values["score"]}
        return _write(found.agreement, found.affine, request["image"]), {"label_names": {"agreement": 1}, "result": result}


class MemorizationScoring(ScoringMethod):
    """Audit all images of the datastore and enter each one's values in its information under ``memorization``."""

    def __init__(self, review: Review) -> None:
        super().__init__("Audit of all images against the training set")
        self.review = review

    def __call__(self, request: dict, datastore: Any) -> dict:
        places = {datastore.get_image_uri(name): name for name in datastore.list_images()}
        try:
            found = self.review.audit(list(places))
        except Exception as error:
            raise _told(error) from error
        for path, values in found.items():
            if datastore.get_image_info(places[path]).get("memorization") != values:
                datastore.update_image_info(places[path], {"memorization": values})
        flagged = sum(bool(values["flagged"]) for values in found.values())
        return {"images": len(found), "flagged": flagged, "not_scored": len(places) - len(found)}


class MostLikelyMemorizedFirst(Strategy):
    """The unlabelled image with the highest risk: flagged ones first, then by score.

    An image that was given out once is given again only when all others were, so that a reviewer who saves no label goes on too.
    """

    def __init__(self, review: Review) -> None:
        super().__init__("Most likely memorized first")
        self.review = review
        # Not in the datastore, where the server notes it too: the scoring process writes the same file, and the last one wins.
        self.given: set[str] = set()

    def __call__(self, request: dict, datastore: Any) -> dict | None:
        places = {datastore.get_image_uri(name): name for name in datastore.list_images()}
        left = set(datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels")))
        try:
            order = self.review.ranked(list(places))
        except Exception as error:
            raise _told(error) from error
        waiting = [path for path in order if places[path] in left]
        if not waiting:
            return None
        if self.given >= set(waiting):
            self.given.clear()
        path = next(path for path in waiting if path not in self.given)
        self.given.add(path)
        return {"id": places[path], "memorization": self.review.known().get(path, "could not be read; look at it")}


class DoppelscanApp(MONAILabelApp):
    """MONAI Label app over packed bundles.

    ``--conf training DIR`` is needed; ``--conf models`` names the bundles in ``model/``, ``--conf holdout DIR`` and ``--conf output DIR`` as of
    the audit. Where the training set holds volumes, a volume is compared whole; ``--conf volumes as-slices`` compares its slices. The output folder holds patient data; by default it is ``.doppelscan`` beside the app's ``model`` folder.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        training = conf.get("training", "")
        if not training or not os.path.exists(training):
            raise MONAILabelException(
                MONAILabelError.APP_INIT_ERROR,
                f"The 'training' setting must be the folder of the training images: --conf training DIR. Got {training!r}.",
            )
        self.bundles = [name.strip() for name in conf.get("models", ",".join(SCORE_OF)).split(",") if name.strip()]
        missing = [name for name in self.bundles if name not in SCORE_OF or not (Path(app_dir) / "model" / name).is_dir()]
        if missing:
            raise MONAILabelException(
                MONAILabelError.APP_INIT_ERROR,
                f"The 'models' setting must name bundles in {app_dir}/model, of {', '.join(SCORE_OF)}. Got {', '.join(missing)}.",
            )
        kind = conf.get("volumes") or KINDS[0]
        if kind not in KINDS:
            raise MONAILabelException(
                MONAILabelError.APP_INIT_ERROR, f"The 'volumes' setting must be {' or '.join(KINDS)}. Got {kind!r}."
            )
        settings = {name: conf[name] for name in SETTINGS if conf.get(name)}
        output = conf.get("output") or str(Path(app_dir) / ".doppelscan")
        try:
            self.review = Review(training, output, conf.get("holdout") or None, **settings)
            self.volumes = None
            if kind == KINDS[0]:
                self.volumes = VolumeReview(
                    training, Path(output) / "volumes", conf.get("patient_pattern") or None, conf.get("device") or "cpu"
                )
        except InputError as error:
            raise MONAILabelException(MONAILabelError.APP_INIT_ERROR, str(error)) from error
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name=f"Doppelscan ({__version__})",
            description="Which synthetic images are copies of training patients",
            version=__version__,
        )

    def on_init_complete(self) -> None:
        super().on_init_complete()
        # It has started the first audit. After every sample that is given out it would start another process to find that nothing changed;
        # the strategy itself audits again when the images did.
        self._auto_update_scoring = False

    def init_infers(self) -> dict[str, InferTask]:
        return {name: MemorizationTask(name, self.review, self.volumes) for name in self.bundles}

    def init_strategies(self) -> dict[str, Strategy]:
        return {"most_likely_memorized_first": MostLikelyMemorizedFirst(self.review), "first": First(), "random": Random()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return {"memorization": MemorizationScoring(self.review)}


def _told(error: Exception) -> Exception:
    """A user's mistake as the error that MONAI Label shows in one line."""
    mistake = user_mistake(error)
    return error if mistake is None else MONAILabelException(MONAILabelError.INVALID_INPUT, str(mistake))


def _write(agreement: np.ndarray, affine: np.ndarray | None, image: str) -> str:
    """The map as a file of the image's kind; the server removes it once it is sent."""
    picture = agreement.ndim == 2 and not image.lower().endswith((".nii", ".nii.gz", ".nrrd"))
    descriptor, path = tempfile.mkstemp(suffix=".png" if picture else ".nii.gz")
    os.close(descriptor)
    if picture:
        Image.fromarray(np.round(agreement * 255).astype(np.uint8)).save(path)
    else:
        nib.save(nib.Nifti1Image(agreement, np.eye(4) if affine is None else affine), path)
    return path
