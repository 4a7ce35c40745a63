"""What maps a training image on a synthetic one: flip, quarter turn, rotation, scale and shift, as numbers and as words."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Pose"]


@dataclass(frozen=True)
class Pose:
    """The match is flipped left to right, turned by quarter turns, rotated, scaled and shifted, in this order.

    Attributes:
        flip: mirrored left to right first.
        quarter_turns: counter-clockwise, 0 to 3.
        rotation: degrees counter-clockwise, about the image centre.
        scale: > 1 enlarges.
        shift_x: to the right, share of the longer side.
        shift_y: downwards, share of the longer side.
        inverted: dark and bright are exchanged.
    """

    flip: bool = False
    quarter_turns: int = 0
    rotation: float = 0.0
    scale: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    inverted: bool = False

    @property
    def number(self) -> int:
        """0 to 7, as in :func:`doppelscan.deepssim.quarter_turn_poses`."""
        return 4 * int(self.flip) + self.quarter_turns

    def words(self, longer_side: int) -> str:
        """For example ``flip-x rot -4.8 shift 3,-2``; the shift is in pixels of an image of ``longer_side`` pixels."""
        parts = ["inverted"] if self.inverted else []
        turns = self.quarter_turns
        if self.flip and turns == 2:
            parts.append("flip-y")
        else:
            parts += ["flip-x"] if self.flip else []
            parts += [f"turn {90 * turns}"] if turns else []
        if abs(self.rotation) >= 0.5:
            parts.append(f"rot {self.rotation:.1f}")
        if abs(self.scale - 1) >= 0.01:
            parts.append(f"scale {self.scale:.2f}")
        x, y = round(self.shift_x * longer_side), round(self.shift_y * longer_side)
        if abs(self.shift_x) >= 0.005 or abs(self.shift_y) >= 0.005:
            parts.append(f"shift {x},{y}")
        return " ".join(parts) or "identity"

    def sampling_matrix(self) -> np.ndarray:
        """float64 [2, 3]: where in the flipped and turned match a point of the image comes from, in [-1, 1] coordinates."""
        angle = math.radians(self.rotation)
        cosine, sine = math.cos(angle) / self.scale, math.sin(angle) / self.scale
        linear = np.array([[cosine, -sine], [sine, cosine]])
        return np.concatenate([linear, -linear @ np.array([[2 * self.shift_x], [2 * self.shift_y]])], 1)

    @classmethod
    def from_sampling_matrix(cls, number: int, matrix: np.ndarray) -> Pose:
        """Inverse of :meth:`sampling_matrix` for flip-and-turn ``number``."""
        linear, offset = matrix[:, :2], matrix[:, 2]
        scale = 1 / math.sqrt(max(1e-12, float(np.linalg.det(linear))))
        rotation = math.degrees(math.atan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1]))
        shift = -np.linalg.solve(linear, offset) / 2
        return cls(number >= 4, number % 4, rotation, scale, float(shift[0]), float(shift[1]))

    @property
    def inverse(self) -> Pose:
        """What maps the image on the match: square images, as both lie in their squares."""
        turned = _turned(self.number)
        back = np.linalg.inv(turned)
        number = next(n for n in range(8) if np.array_equal(_turned(n), back))
        matrix = self.sampling_matrix()
        linear = np.linalg.inv(matrix[:, :2])
        inverse = np.concatenate([turned @ linear @ back, -turned @ linear @ matrix[:, 2:]], 1)
        return replace(Pose.from_sampling_matrix(number, inverse), inverted=self.inverted)


def _turned(number: int) -> np.ndarray:
    """Where in the match a point of the flipped and turned match comes from: int [2, 2]."""
    turn = np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), number % 4)
    return np.array([[-1, 0], [0, 1]]) @ turn if number >= 4 else turn
