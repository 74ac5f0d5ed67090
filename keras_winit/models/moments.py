"""The mean and the deviation of a large tensor, exactly and without copies of it."""

import math
from typing import Any, NamedTuple

from keras import ops

_PIECE = 2**20  # elements: float32 sums of so many keep six digits
_NOISE = 1e-6  # below this share of the mean, a deviation is rounding


class Moments(NamedTuple):
    """The mean and the standard deviation of a tensor's elements, as floats."""

    mean: float
    std: float

    @property
    def varies(self) -> bool:
        """Whether the deviation is finite, and more than the rounding of a constant."""
        return math.isfinite(self.std) and self.std > _NOISE * abs(self.mean)


def moments(tensor: Any) -> Moments:
    """The moments of all elements. A tensor with an element that is not finite has none: NaN."""
    flat = ops.reshape(tensor, (-1,))
    mean, second = _sums(flat)
    # Where squares overflow, vanish, or leave few digits beside the mean's, once more with care.
    if not 1e-30 < second < 1e30 or second - mean**2 < 1e-3 * second:
        largest = float(ops.max(ops.abs(ops.cast(flat, "float32"))))
        if largest == 0.0 or not math.isfinite(largest):
            return Moments(0.0, 0.0) if largest == 0.0 else Moments(math.nan, math.nan)
        scale = 1 / max(largest, 1e-37)
        center = _sums(flat, scale)[0]
        shifted, second = _sums(flat, scale, center)
        largest = 1 / scale
        return Moments((center + shifted) * largest, math.sqrt(max(second - shifted**2, 0.0)) * largest)
    return Moments(mean, math.sqrt(second - mean**2))


def _sums(flat: Any, scale: float = 1.0, center: float = 0.0) -> tuple[float, float]:
    """The means of the elements and of their squares, in pieces."""
    size = int(flat.shape[0])
    firsts, seconds = [], []
    for start in range(0, size, _PIECE):
        piece = flat if size <= _PIECE else flat[start : start + _PIECE]
        piece = ops.cast(piece, "float32")
        if (scale, center) != (1.0, 0.0):
            piece = piece * scale - center
        firsts.append(ops.sum(piece))
        seconds.append(ops.vdot(piece, piece))
    return (
        sum(float(first) for first in firsts) / size,
        sum(float(second) for second in seconds) / size,
    )
