"""Images: files to records, pixels and the one preprocessing; generated patients."""

from doppelscan.errors import ImageError, InputError
from doppelscan.images.alignment import align, band_pass, correlation, within
from doppelscan.images.copies import COPY_TRANSFORMS, PAPER_TRANSFORMS, plant_copy
from doppelscan.images.foreground import foreground_square, gaussian_blur
from doppelscan.images.generated import generate_cohort, smooth_fields, warp
from doppelscan.images.planted import PlantedCopies, PlantedQueries
from doppelscan.images.readers import read_pixels
from doppelscan.images.records import (
    ImageRecord,
    ImageSet,
    SkippedImage,
    SliceChoice,
    content_hash,
    evenly_chosen,
    find_images,
    set_files,
)
from doppelscan.images.transforms import (
    ForegroundSquared,
    LoadSliced,
    SquareThumbnaild,
    Windowd,
    from_thumbnail,
    put_slice,
    unit_float,
)

__all__ = [
    "COPY_TRANSFORMS",
    "PAPER_TRANSFORMS",
    "ForegroundSquared",
    "ImageError",
    "ImageRecord",
    "ImageSet",
    "InputError",
    "LoadSliced",
    "PlantedCopies",
    "PlantedQueries",
    "SkippedImage",
    "SliceChoice",
    "SquareThumbnaild",
    "Windowd",
    "align",
    "band_pass",
    "content_hash",
    "correlation",
    "evenly_chosen",
    "find_images",
    "foreground_square",
    "from_thumbnail",
    "gaussian_blur",
    "generate_cohort",
    "plant_copy",
    "put_slice",
    "read_pixels",
    "set_files",
    "smooth_fields",
    "unit_float",
    "warp",
    "within",
]
