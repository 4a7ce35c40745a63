"""What samples and training images are written as: 8-bit PNG of an image, 8-bit NIfTI of a volume."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np

from doppelscan.images.readers import encode_png

__all__ = ["encode_pixels", "file_ending"]


def file_ending(spatial_dims: int) -> str:
    """``.png`` of images, ``.nii.gz`` of volumes."""
    return ".png" if spatial_dims == 2 else ".nii.gz"


def encode_pixels(pixels: np.ndarray, voxel_size: float = 1.0) -> bytes:
    """The file's bytes, the same every time.

    Args:
        pixels: uint8 [H, W], or [X, Y, Z] in RAS+.
        voxel_size: mm a side, of a volume; its centre comes to the origin.
    """
    if pixels.ndim == 2:
        return encode_png(pixels)
    affine = np.diag([voxel_size] * 3 + [1.0])
    affine[:3, 3] = -voxel_size * (np.array(pixels.shape) - 1) / 2
    image = nib.Nifti1Image(pixels, affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)
