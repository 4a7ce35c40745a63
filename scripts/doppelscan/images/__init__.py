"""Images: files to records, pixels and the one preprocessing; generated patients."""

from doppelscan.errors import ImageError, InputError
from doppelscan.images.alignment import align, band_pass, correlation, sampling_grid, within
from doppelscan.images.copies import COPY_TRANSFORMS, PAPER_TRANSFORMS, plant_copy
from doppelscan.images.cubes import AXIS_POSES, CubeFrame, axis_pose, cut_cube, cut_cubes, foreground_cube
from doppelscan.images.degraded import PrincipalReconstruction, SpectrumMatch, SquareImages, radial_power
from doppelscan.images.foreground import foreground_square, gaussian_blur
from doppelscan.images.generated import generate_cohort, smooth_fields, warp
from doppelscan.images.generated_volumes import generate_head, generate_volumes
from doppelscan.images.geometry import VolumeGeometry
from doppelscan.images.people import PatientProposal, agrees, bids_subjects, people_of, propose_patients
from doppelscan.images.planes import PLANES, in_three_planes, of_stacks, plane_position
from doppelscan.images.planted import PlantedCopies, PlantedQueries
from doppelscan.images.planted_volumes import VOLUME_REGIONS, VOLUME_TRANSFORMS, PlantedVolume, plant_volume
from doppelscan.images.readers import read_pixels
from doppelscan.images.records import (
    DrawnSample,
    ImageRecord,
    ImageSet,
    SkippedImage,
    SliceChoice,
    content_hash,
    evenly_chosen,
    find_images,
    prepared,
    set_files,
    spread_order,
    table_values,
    unit_of,
)
from doppelscan.images.squares import cut_foreground, resample_boxes, unpadded, whole_squares
from doppelscan.images.surround import picture_box, without_light_surround
from doppelscan.images.transforms import (
    DarkSurroundd,
    ForegroundSquared,
    LoadSliced,
    SquareThumbnaild,
    Windowd,
    from_thumbnail,
    put_slice,
    unit_float,
)
from doppelscan.images.volume_transforms import ForegroundCubed, LoadVolumed
from doppelscan.images.volumes import Volume, read_compared, read_volume, volume_table

# Counts up when the same files and settings come to give other numbers: it is in the fingerprint of what is stored.
ALGORITHM = 3

__all__ = [
    "AXIS_POSES",
    "COPY_TRANSFORMS",
    "PAPER_TRANSFORMS",
    "PLANES",
    "VOLUME_REGIONS",
    "VOLUME_TRANSFORMS",
    "CubeFrame",
    "DarkSurroundd",
    "DrawnSample",
    "ForegroundCubed",
    "ForegroundSquared",
    "ImageError",
    "ImageRecord",
    "ImageSet",
    "InputError",
    "LoadSliced",
    "LoadVolumed",
    "PatientProposal",
    "PlantedCopies",
    "PlantedQueries",
    "PlantedVolume",
    "PrincipalReconstruction",
    "SkippedImage",
    "SliceChoice",
    "SpectrumMatch",
    "SquareImages",
    "SquareThumbnaild",
    "Volume",
    "VolumeGeometry",
    "Windowd",
    "agrees",
    "align",
    "axis_pose",
    "band_pass",
    "bids_subjects",
    "content_hash",
    "correlation",
    "cut_cube",
    "cut_cubes",
    "cut_foreground",
    "evenly_chosen",
    "find_images",
    "foreground_cube",
    "foreground_square",
    "from_thumbnail",
    "gaussian_blur",
    "generate_cohort",
    "generate_head",
    "generate_volumes",
    "in_three_planes",
    "of_stacks",
    "people_of",
    "picture_box",
    "plane_position",
    "plant_copy",
    "plant_volume",
    "prepared",
    "propose_patients",
    "put_slice",
    "radial_power",
    "read_compared",
    "read_pixels",
    "read_volume",
    "resample_boxes",
    "sampling_grid",
    "set_files",
    "smooth_fields",
    "spread_order",
    "table_values",
    "unit_float",
    "unit_of",
    "unpadded",
    "volume_table",
    "warp",
    "whole_squares",
    "within",
    "without_light_surround",
]
