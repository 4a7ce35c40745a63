"""What maps a training volume on a synthetic one: axis pose, stretch, rotation and shift, as numbers and as words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import polar
from scipy.spatial.transform import Rotation

from doppelscan.errors import InputError
from doppelscan.images.cubes import AXIS_POSES, CubeFrame, axis_pose_matrix

__all__ = ["VolumePose", "cube_to_mm", "posed_places"]

# Axes whose factors differ by more are stretched, not scaled.
EVEN = 1.03
POSE_MATRICES = np.stack([axis_pose_matrix(number) for number in range(len(AXIS_POSES))])


@dataclass(frozen=True)
class VolumePose:
    """The match is brought into an axis pose, stretched, rotated and shifted, in this order: linear part R S P.

    P is one of the 48 axis poses (axes permuted, then flipped), S a symmetric positive matrix, R a rotation. Of every invertible linear map M they
    are found in one way: M = Q H' is the polar decomposition, P is the pose nearest to Q that mirrors as Q does (of equals the first), R = Q P^T,
    S = P H' P^T.

    Attributes:
        number: of the axis pose, 0 to 47, see :data:`~doppelscan.images.cubes.AXIS_POSES`.
        rotation: rotation vector about x, y and z in degrees: its length is the angle, counter-clockwise seen from the tip of the axis.
        stretch: of S: xx, yy, zz, xy, xz and yz; 1, 1, 1, 0, 0, 0 changes nothing, larger ones enlarge.
        shift: along x, y and z in mm, of the volume's centre.
    """

    number: int = 0
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    stretch: tuple[float, float, float, float, float, float] = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0)
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def angle(self) -> float:
        """Of the rotation in degrees, 0 to 180, whatever its axis."""
        return float(np.linalg.norm(self.rotation))

    @property
    def scale(self) -> float:
        """Cube root of the factor by which volumes grow."""
        return float(np.cbrt(np.linalg.det(self._stretch())))

    def _stretch(self) -> np.ndarray:
        xx, yy, zz, xy, xz, yz = self.stretch
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])

    def matrix(self) -> np.ndarray:
        """float64 [4, 4]: a place of the match, in mm from its volume's centre, to the place in the image, in mm from that one's centre."""
        made = np.eye(4)
        made[:3, :3] = Rotation.from_rotvec(self.rotation, degrees=True).as_matrix() @ self._stretch() @ POSE_MATRICES[self.number]
        made[:3, 3] = self.shift
        return made

    @property
    def inverse(self) -> VolumePose:
        """What maps the volume on the match."""
        return self.from_matrix(np.linalg.inv(self.matrix()))

    @classmethod
    def from_matrix(cls, matrix: np.ndarray) -> VolumePose:
        """Inverse of :meth:`matrix`.

        Raises:
            InputError: the linear part cannot be inverted.
        """
        linear = np.asarray(matrix, np.float64)[:3, :3]
        if not np.isfinite(linear).all() or abs(np.linalg.det(linear)) < 1e-9:
            raise InputError(
                f"The 'matrix' parameter must be an invertible affine map. Got a linear part {linear.tolist()} instead."
            )
        orthogonal, symmetric = polar(linear)
        nearness = (POSE_MATRICES * orthogonal).sum((1, 2))
        nearness[np.linalg.det(POSE_MATRICES) * np.linalg.det(orthogonal) < 0] = -np.inf
        number = int(np.flatnonzero(nearness >= nearness.max() - 1e-9)[0])
        pose = POSE_MATRICES[number]
        rotation = Rotation.from_matrix(orthogonal @ pose.T).as_rotvec(degrees=True)
        stretch = pose @ symmetric @ pose.T
        x, y, z = (float(one) for one in rotation)
        xx, yy, zz, xy, xz, yz = (float(stretch[i, j]) for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)))
        shift = np.asarray(matrix, np.float64)[:3, 3]
        return cls(number, (x, y, z), (xx, yy, zz, xy, xz, yz), (float(shift[0]), float(shift[1]), float(shift[2])))

    @classmethod
    def from_sampling_matrix(cls, number: int, sampling: np.ndarray, frame: CubeFrame, match: CubeFrame) -> VolumePose:
        """Of what a registration of cubes finds.

        Args:
            number: axis pose that the match's cube was brought into.
            sampling: float [3, 4]: from a place u of the image's cube to the place in the posed cube of the match.
            frame: of the image's cube.
            match: of the match's cube, as it is stored.
        """
        inverse = np.linalg.inv(np.vstack([sampling, [0, 0, 0, 1]]).astype(np.float64))
        return cls.from_matrix(cube_to_mm(frame) @ inverse @ posed_places(number) @ np.linalg.inv(cube_to_mm(match)))

    @classmethod
    def of_cubes(cls, number: int, frame: CubeFrame, match: CubeFrame) -> VolumePose:
        """Of two cubes that lie on each other as they are, the match's in axis pose ``number``; parameters as of :meth:`from_sampling_matrix`."""
        return cls.from_sampling_matrix(number, np.eye(3, 4), frame, match)

    def sampling_matrix(self, frame: CubeFrame, match: CubeFrame) -> np.ndarray:
        """float64 [3, 4], inverse of :meth:`from_sampling_matrix`, for the match's cube in this pose's own axis pose :attr:`number`."""
        return (posed_places(self.number) @ np.linalg.inv(cube_to_mm(match)) @ np.linalg.inv(self.matrix()) @ cube_to_mm(frame))[:3]

    def words(self, longer_side: int = 0) -> str:
        """For example ``flip-x rot x 9.8 y -0.3 z 1.2 scale 1.05 shift 3.0,-2.1,0.0 mm``; ``axes 2 0 1``: x is what was z, y what was x, z what was y;
        ``stretch 1.00,1.00,1.87`` in place of a scale: along x, y and z, before it is rotated.

        ``longer_side`` is what :class:`Pose` asks for; millimetres need none.
        """
        axes, flips = AXIS_POSES[self.number]
        parts = [] if axes == (0, 1, 2) else ["axes " + " ".join(str(axis) for axis in axes)]
        parts += [f"flip-{axis}" for axis, flip in zip("xyz", flips, strict=True) if flip]
        along, uneven = self.stretch[:3], max(self.stretch[:3]) > EVEN * min(self.stretch[:3])
        if uneven:
            parts.append("stretch " + ",".join(f"{factor:.2f}" for factor in along))
        if self.angle >= 0.5:
            parts.append(
                "rot " + " ".join(f"{axis} {_tenths(degrees)}" for axis, degrees in zip("xyz", self.rotation, strict=True))
            )
        if not uneven and abs(self.scale - 1) >= 0.01:
            parts.append(f"scale {self.scale:.2f}")
        if np.linalg.norm(self.shift) >= 0.5:
            parts.append("shift " + ",".join(map(_tenths, self.shift)) + " mm")
        return " ".join(parts) or "identity"

    def rotation_error(self, matrix: np.ndarray) -> float:
        """Angle in degrees between this pose's rotation, axis pose included, and that of ``matrix`` float [4, 4]; 180 where one mirrors and the other does not."""
        first, second = polar(self.matrix()[:3, :3])[0], polar(np.asarray(matrix, np.float64)[:3, :3])[0]
        between = first @ second.T
        if np.linalg.det(between) < 0:
            return 180.0
        return float(np.degrees(np.linalg.norm(Rotation.from_matrix(between).as_rotvec())))


def _tenths(value: float) -> str:
    """With one digit, and no minus before a zero."""
    return f"{round(value, 1) + 0.0:.1f}"


def posed_places(number: int) -> np.ndarray:
    """float64 [4, 4]: from places of a cube to those of the cube in axis pose ``number``."""
    made = np.eye(4)
    made[:3, :3] = POSE_MATRICES[number]
    return made


def cube_to_mm(frame: CubeFrame) -> np.ndarray:
    """float64 [4, 4]: from places u of a cube to mm from the volume's centre."""
    made = np.diag([frame.side / 2] * 3 + [1.0])
    made[:3, 3] = frame.centre
    return made
