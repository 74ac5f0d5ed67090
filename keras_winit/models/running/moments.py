"""The mean and the deviation of a large tensor, exactly and without copies of it."""

import math
from typing import Any, NamedTuple

import numpy as np

from keras_winit.support.host import host_array

_PIECE = 2**18  # elements: float32 sums of so many keep six digits
_ONES = np.ones(_PIECE, "float32")
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
    flat = host_array(tensor).reshape(-1)
    if not flat.size:
        return Moments(0.0, 0.0)
    mean, second = _sums(flat)
    # Where squares overflow, vanish, or leave few digits beside the mean's, once more with care.
    if not 1e-30 < second < 1e30 or second - mean**2 < 1e-3 * second:
        largest = float(np.max(np.abs(flat), initial=0))
        if largest == 0.0 or not math.isfinite(largest):
            return Moments(0.0, 0.0) if largest == 0.0 else Moments(math.nan, math.nan)
        scale = 1 / max(largest, 1e-37)
        center = _sums(flat, scale)[0]
        shifted, second = _sums(flat, scale, center)
        return Moments((center + shifted) / scale, math.sqrt(max(second - shifted**2, 0.0)) / scale)
    return Moments(mean, math.sqrt(second - mean**2))


def channel_moments(tensor: Any, axis: int) -> tuple[Any, Any]:
    """The mean and the variance of each channel, the place along an axis, as arrays of float64."""
    array = host_array(tensor)
    rows = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])  # a view of what is channels-last
    first = rows[0].astype("float32")  # counted from there, means take no digits from the squares
    sums = np.zeros((2, rows.shape[1]))
    step = max(1, _PIECE // rows.shape[1])
    for start in range(0, len(rows), step):
        piece = rows[start : start + step].astype("float32", copy=False) - first
        sums += (np.add.reduce(piece, dtype="float32"), np.einsum("ij,ij->j", piece, piece))
    mean, second = sums / len(rows)
    return mean + first, np.maximum(second - mean**2, 0.0)


def _sums(flat: Any, scale: float = 1.0, center: float = 0.0) -> tuple[float, float]:
    """The means of the elements and of their squares, a piece at a time: it stays in the cache."""
    first = second = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, flat.size, _PIECE):
            piece = flat[start : start + _PIECE].astype("float32", copy=False)
            if (scale, center) != (1.0, 0.0):
                piece = piece * np.float32(scale) - np.float32(center)
            first += float(np.dot(piece, _ONES[: piece.size]))
            second += float(np.dot(piece, piece))
    return first / flat.size, second / flat.size
