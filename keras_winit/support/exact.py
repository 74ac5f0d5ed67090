"""Products and sums of large tensors that no accelerator rounds.

GPUs with TF32 round what they multiply to ten bits of mantissa unless they are told not to, and some CPUs
to bfloat16 if PyTorch is told to: an orthogonal matrix would come out of such products orthogonal to 1e-2.
JAX can be told for one product. TensorFlow and PyTorch cannot: there a float32 is split into three numbers
of few enough bits, whose products such a unit computes exactly, and their sums are in float32. Triangular
solves round on such a GPU as well, and are done in float64. Means and deviations are summed in pieces.
"""

import math
from functools import cache, reduce
from operator import add
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_winit.support.host import host_array

# A float32 has 24 bits of mantissa; a TF32 keeps 11, a bfloat16 8, the leading one counted.
_FULL, _KEPT = 24, 8


def product(left: Any, right: Any, *out: Any) -> Any:
    """left @ right, with the precision of its dtype on every device; on PyTorch, into `out` if given."""
    return _multiply(left, right, *out)


def array_product(left: Any, right: Any) -> Any:
    """The product of two arrays of numpy, vectors or matrices, of floats.

    On PyTorch by its own threads: numpy's would go on waiting on the cores where PyTorch computes next,
    which made everything around a product take four times as long.
    """
    if keras.backend.backend() != "torch":
        return left @ right
    import torch  # noqa: PLC0415 - the backend in use

    def tensor(array: Any) -> Any:  # of memory as PyTorch takes it
        as_it_is = array.flags.writeable and min(array.strides) >= 0
        return torch.from_numpy(array if as_it_is else array.copy())

    return np.asarray(product(tensor(left), tensor(right)))


def subtract_product(tensor: Any, left: Any, right: Any) -> None:
    """tensor − left @ right, in place: on PyTorch, where it costs no memory if nothing is split."""
    import torch  # noqa: PLC0415 - the backend in use

    if left.dtype == torch.float32 and _may_round():
        tensor -= product(left, right)
    else:
        (torch.Tensor.addmm_ if tensor.ndim == 2 else torch.Tensor.baddbmm_)(tensor, left, right, alpha=-1)


def kronecker(first: Any, second: Any, tensor: Any) -> Any:
    """(A ⊗ B) · X for each of a batch: A is a × a, B is b × b, and X is given as a × b × columns."""
    if keras.backend.backend() == "jax":
        return _kronecker_as_sums(first, second, tensor)
    batch, a, b, columns = tensor.shape
    mixed = product(first, ops.reshape(tensor, (batch, a, b * columns)))
    return product(ops.expand_dims(second, 1), ops.reshape(mixed, tensor.shape))


def _kronecker_as_sums(first: Any, second: Any, tensor: Any) -> Any:
    """The same by elementwise sums, each in one order.

    XLA's own product of matrices adds up in an order that depends on how many columns a device has, and
    is slower for matrices so small. The columns stay an axis, which can be split among devices.
    """
    a, b = first.shape[-1], second.shape[-1]
    mixed = reduce(add, (first[:, :, j, None, None] * tensor[:, None, j] for j in range(a)))
    return reduce(add, (second[:, None, :, j, None] * mixed[:, :, None, j] for j in range(b)))


def inverse_of_upper(matrix: Any, identity: Any) -> Any:
    """The inverse of an upper triangular matrix, given an identity of its size and dtype."""
    dtype = keras.backend.standardize_dtype(matrix.dtype)
    rounded = dtype == "float32" and _may_round() and getattr(matrix.device, "type", None) != "mps"
    wide = "float64" if rounded else dtype  # which Apple's GPUs do not have
    solved = ops.solve_triangular(ops.cast(matrix, wide), ops.cast(identity, wide), lower=False)
    return ops.cast(solved, dtype)


def split_product(left: Any, right: Any, multiply: Any) -> Any:
    """left @ right of float32 by a `multiply` that rounds what it is given, but to eight bits at least.

    With x = x₁ + x₂ + x₃, of eight bits or fewer each, what is left out is of the order of 2⁻²⁴. Numbers
    above 5e33 are none afterwards.
    """
    (l1, l2, l3), (r1, r2, r3) = _parts(left), _parts(right)
    small = multiply(l1, r3) + multiply(l2, r2) + multiply(l3, r1)
    return multiply(l1, r1) + (multiply(l1, r2) + multiply(l2, r1) + small)


def _parts(tensor: Any) -> tuple[Any, Any, Any]:
    """Three tensors of few bits that sum up to one of float32."""
    first = _leading_bits(tensor)
    rest = tensor - first
    second = _leading_bits(rest)
    return first, second, rest - second


def _leading_bits(tensor: Any) -> Any:
    """The numbers cut to the bits that are kept, by adding and subtracting what hides the others."""
    hidden = tensor * (2.0 ** (_FULL - _KEPT) + 1)
    return hidden - (hidden - tensor)


def _for_jax() -> tuple[Any, Any]:
    import jax  # noqa: PLC0415 - the backend in use

    def multiply(left: Any, right: Any) -> Any:
        return jax.numpy.matmul(left, right, precision="highest")

    return multiply, lambda: False


def _for_tensorflow() -> tuple[Any, Any]:
    import tensorflow as tf  # noqa: PLC0415 - the backend in use

    def multiply(left: Any, right: Any) -> Any:
        if left.dtype == "float32" and _may_round():
            return split_product(left, right, tf.matmul)
        return tf.matmul(left, right)

    @cache
    def may_round() -> bool:
        return any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))

    return multiply, may_round


def _for_torch() -> tuple[Any, Any]:
    import torch  # noqa: PLC0415 - the backend in use

    def multiply(left: Any, right: Any, out: Any = None) -> Any:
        if left.dtype != torch.float32 or not _may_round():
            return torch.matmul(left, right, out=out)
        exact = split_product(left, right, torch.matmul)
        return exact if out is None else out.copy_(exact)

    def may_round() -> bool:
        """Whether PyTorch was told that it may, by its older setting or by one of its newer ones."""
        try:
            return bool(torch.get_float32_matmul_precision() != "highest")
        except RuntimeError:  # it refuses to tell once a newer one is in use, `fp32_precision` of a backend
            return True

    return multiply, may_round


_MAKERS = {"jax": _for_jax, "tensorflow": _for_tensorflow, "torch": _for_torch}
_multiply, _may_round = _MAKERS[keras.backend.backend()]()


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
