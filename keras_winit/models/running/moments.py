"""The mean and the deviation of a large tensor, exactly and without copies of it."""

import math
from typing import Any, NamedTuple

import numpy as np

from keras_winit.support.host import host_array
from keras_winit.support.products import array_product

_PIECE = 2**18  # elements: float32 sums of so many keep six digits
_ONES = np.ones(_PIECE, "float32")
NO_VARIANCE = "its output has no variance"
NOT_FINITE = "its output is not finite"
_NOISE = 1e-6  # below this share of the mean, a deviation is rounding


class Moments(NamedTuple):
    """The mean and the standard deviation of a tensor's elements, as floats."""

    mean: float
    std: float

    @property
    def varies(self) -> bool:
        """Whether the deviation is finite, and more than the rounding of a constant."""
        return math.isfinite(self.std) and self.std > _NOISE * abs(self.mean)

    @property
    def why_not(self) -> str:
        """Why it cannot be given another deviation, where it does not vary."""
        return NO_VARIANCE if math.isfinite(self.std) else NOT_FINITE


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


class ChannelMoments(NamedTuple):
    """The mean of each channel of a tensor, and the variance of each or their mean, in float64."""

    mean: Any
    variance: Any

    @property
    def whole(self) -> Moments:
        """The moments of all elements."""
        return Moments(float(np.mean(self.mean)), math.sqrt(np.mean(self.variance) + np.var(self.mean)))


def channel_moments(tensor: Any, axis: int, *, pooled: bool = False) -> ChannelMoments:
    """The mean and the variance of each channel, the place along an axis.

    Args:
        tensor: what to measure.
        axis: the axis of the channels.
        pooled: only take the mean of the channels' variances, which is faster.
    """
    array = host_array(tensor)
    rows = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])  # a view of what is channels-last
    if not rows.size:
        return ChannelMoments(*np.zeros((2, rows.shape[1])))
    with np.errstate(over="ignore", invalid="ignore"):
        mean, second = _channel_sums(rows, pooled)
        variance = second - (np.mean(mean**2) if pooled else mean**2)
        # Where squares overflow, vanish, or leave few digits beside the mean's, once more with care.
        lost = (variance < 1e-2 * second) | ~np.isfinite(second)
        if np.any(lost) or (np.any(second < 1e-30) and np.any(rows)):
            return _careful_moments(rows, pooled)
    return ChannelMoments(mean, variance)


def _careful_moments(rows: Any, pooled: bool) -> ChannelMoments:
    """The moments of columns of any size, around a place near to their means."""
    largest = max(float(np.max(rows)), -float(np.min(rows)))
    if not math.isfinite(largest):
        return ChannelMoments(
            np.full(rows.shape[1], math.nan), np.full(() if pooled else rows.shape[1], math.nan)
        )
    scale = float(np.float32(1 / max(largest, 1e-37)))
    center = rows[0].astype("float32") * np.float32(scale)  # equal rows then have no variance at all
    center = center + _channel_sums(rows, pooled, scale, center)[0].astype("float32")
    shifted, second = _channel_sums(rows, pooled, scale, center)
    variance = second - (np.mean(shifted**2) if pooled else shifted**2)
    return ChannelMoments((center + shifted) / scale, np.maximum(variance, 0.0) / scale**2)


def _channel_sums(rows: Any, pooled: bool, scale: float = 1.0, center: Any = None) -> tuple[Any, Any]:
    """The means of each column, and of the squares of each or of all, a piece at a time as above."""
    step = min(len(rows), max(1, _PIECE // rows.shape[1]))
    first, second = np.zeros(rows.shape[1]), np.zeros(() if pooled else rows.shape[1])
    for start in range(0, len(rows), step):
        piece = rows[start : start + step].astype("float32", copy=False)
        if center is not None:
            piece = piece * np.float32(scale) - center
        ones = _ONES[: len(piece)]
        first += array_product(ones, piece)  # by BLAS: twice as fast as `sum`
        if pooled:
            flat = piece.reshape(-1)
            second += array_product(flat, flat) / rows.shape[1]
        else:
            second += array_product(ones, np.square(piece))
    return first / len(rows), second / len(rows)


def _sums(flat: Any, scale: float = 1.0, center: float = 0.0) -> tuple[float, float]:
    """The means of the elements and of their squares, a piece at a time: it stays in the cache."""
    first = second = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, flat.size, _PIECE):
            piece = flat[start : start + _PIECE].astype("float32", copy=False)
            if (scale, center) != (1.0, 0.0):
                piece = piece * np.float32(scale) - np.float32(center)
            first += float(array_product(piece, _ONES[: piece.size]))
            second += float(array_product(piece, piece))
    return first / flat.size, second / flat.size
