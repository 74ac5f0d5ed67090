"""Products and sums of large tensors that no accelerator rounds.

GPUs with TF32 round what they multiply to ten bits of mantissa unless they are told not to, and some CPUs
to bfloat16 if PyTorch is told to: an orthogonal matrix would be orthogonal to 1e-2. JAX can be told for one
product. For TensorFlow and PyTorch a float32 is split into three numbers of few bits, whose products such a
unit computes exactly, and sums in float32. Triangular solves round as well, and are done in float64. Means
and deviations are summed in pieces.
"""

import importlib
import math
from functools import cache, reduce
from operator import add
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_winit.support.host import host_array

_BACKEND = keras.backend.backend()
_LIBRARY: Any = importlib.import_module(_BACKEND)


def product(left: Any, right: Any, *out: Any) -> Any:
    """left @ right, with the precision of its dtype on every device; on PyTorch, into `out` if given."""
    if _BACKEND == "jax":
        return _LIBRARY.numpy.matmul(left, right, precision="highest")
    if _rounds(left):
        exact = split_product(left, right, _LIBRARY.matmul)
        return out[0].copy_(exact) if out else exact
    return _LIBRARY.matmul(left, right, out=out[0]) if out else _LIBRARY.matmul(left, right)


def _rounds(tensor: Any) -> bool:
    """Whether products of a tensor may be rounded."""
    return _may_round() and bool(keras.backend.standardize_dtype(tensor.dtype) == "float32")


def _may_round() -> bool:
    if _BACKEND == "tensorflow":
        return _has_accelerator()
    try:
        return _BACKEND == "torch" and bool(_LIBRARY.get_float32_matmul_precision() != "highest")
    except RuntimeError:  # it refuses to tell once a newer setting is in use, `fp32_precision` of a backend
        return True


@cache
def _has_accelerator() -> bool:
    return any(_LIBRARY.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))


def array_product(left: Any, right: Any) -> Any:
    """The product of two arrays of numpy, vectors or matrices, of floats.

    On PyTorch by its own threads: numpy's go on waiting on the cores where PyTorch computes next, which made
    all around a product take four times as long.
    """
    if _BACKEND != "torch":
        return left @ right

    def tensor(array: Any) -> Any:  # of memory as PyTorch takes it
        as_it_is = array.flags.writeable and min(array.strides) >= 0
        return _LIBRARY.from_numpy(array if as_it_is else array.copy())

    return np.asarray(product(tensor(left), tensor(right)))


def subtract_product(tensor: Any, left: Any, right: Any) -> None:
    """tensor − left @ right, in place, on PyTorch: without memory if nothing is split."""
    if _rounds(left):
        tensor -= product(left, right)
    else:
        (tensor.addmm_ if tensor.ndim == 2 else tensor.baddbmm_)(left, right, alpha=-1)


def kronecker(first: Any, second: Any, tensor: Any) -> Any:
    """(A ⊗ B) · X for each of a batch: A is a × a, B is b × b, X is a × b × columns."""
    batch, a, b, columns = tensor.shape
    if _BACKEND == "jax":
        # Elementwise: XLA's product adds up in an order that depends on how many columns a device has, and is
        # slower for matrices so small. The columns stay an axis, which can be split among devices.
        mixed = reduce(add, (first[:, :, j, None, None] * tensor[:, None, j] for j in range(a)))
        return reduce(add, (second[:, None, :, j, None] * mixed[:, :, None, j] for j in range(b)))
    mixed = product(first, ops.reshape(tensor, (batch, a, b * columns)))
    return product(ops.expand_dims(second, 1), ops.reshape(mixed, tensor.shape))


def inverse_of_upper(matrix: Any, identity: Any) -> Any:
    """The inverse of an upper triangular matrix, given an identity like it."""
    dtype = keras.backend.standardize_dtype(matrix.dtype)
    rounded = _rounds(matrix) and getattr(matrix.device, "type", None) != "mps"
    wide = "float64" if rounded else dtype  # Apple's GPUs have none
    solved = ops.solve_triangular(ops.cast(matrix, wide), ops.cast(identity, wide), lower=False)
    return ops.cast(solved, dtype)


def split_product(left: Any, right: Any, multiply: Any) -> Any:
    """left @ right of float32 by a `multiply` that rounds what it is given to eight bits or more.

    With x = x₁ + x₂ + x₃, of eight bits or fewer each, the products that are left out are of the order of
    2⁻²⁴. Numbers above 5e33 give NaN.
    """
    (l1, l2, l3), (r1, r2, r3) = _parts(left), _parts(right)
    small = multiply(l1, r3) + multiply(l2, r2) + multiply(l3, r1)
    return multiply(l1, r1) + (multiply(l1, r2) + multiply(l2, r1) + small)


def _parts(tensor: Any) -> tuple[Any, Any, Any]:
    """Three tensors of few bits that sum up to this."""

    def leading_bits(tensor: Any) -> Any:
        # A float32 has 24 bits of mantissa; a TF32 keeps 11, a bfloat16 8, the leading one counted.
        hidden = tensor * (2.0 ** (24 - 8) + 1)
        return hidden - (hidden - tensor)

    first = leading_bits(tensor)
    rest = tensor - first
    second = leading_bits(rest)
    return first, second, rest - second


_PIECE = 2**18  # float32 sums of so many keep six digits
_ONES = np.ones(_PIECE, "float32")
NOT_FINITE = "its output is not finite"


class Moments(NamedTuple):
    """The mean and the standard deviation of all elements."""

    mean: float
    std: float

    @property
    def varies(self) -> bool:
        """Whether the deviation is finite, and more than rounding."""
        return math.isfinite(self.std) and self.std > 1e-6 * abs(self.mean)

    @property
    def why_not(self) -> str:
        """Why it cannot be given another deviation."""
        return "its output has no variance" if math.isfinite(self.std) else NOT_FINITE


def moments(tensor: Any) -> Moments:
    """The moments of a tensor; NaN where an element is not finite."""
    flat = host_array(tensor).reshape(-1)
    if not flat.size:
        return Moments(0.0, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, second = map(float, _sums(flat, True))
        # Where squares overflow, vanish, or leave few digits beside the mean's, once more with care.
        if 1e-30 < second < 1e30 and second - mean**2 >= 1e-3 * second:
            return Moments(mean, math.sqrt(second - mean**2))
        largest = float(np.max(np.abs(flat)))
        if not math.isfinite(largest):
            return Moments(math.nan, math.nan)
        scale = 1 / max(largest, 1e-37)
        center = float(_sums(flat, True, scale, 0.0)[0])
        shifted, second = map(float, _sums(flat, True, scale, center))
    return Moments((center + shifted) / scale, math.sqrt(max(second - shifted**2, 0.0)) / scale)


class ChannelMoments(NamedTuple):
    """The mean of each channel, and the variance of each or their mean, in float64."""

    mean: Any
    variance: Any

    @property
    def whole(self) -> Moments:
        """The moments of all elements."""
        return Moments(float(np.mean(self.mean)), math.sqrt(np.mean(self.variance) + np.var(self.mean)))


def channel_moments(tensor: Any, axis: int, *, pooled: bool = False) -> ChannelMoments:
    """The mean and variance of each channel, along an axis; `pooled` the variances' mean, which is faster."""
    channels_last = np.moveaxis(host_array(tensor), axis, -1)
    rows = channels_last.reshape(-1, channels_last.shape[-1])  # a view if they were
    if not rows.size:
        return ChannelMoments(*np.zeros((2, rows.shape[1])))
    with np.errstate(over="ignore", invalid="ignore"):
        mean, second = _sums(rows, pooled)
        variance = second - (np.mean(mean**2) if pooled else mean**2)
        # Where squares overflow, vanish, or leave few digits beside the mean's, once more with care.
        lost = (variance < 1e-2 * second) | ~np.isfinite(second)
        if np.any(lost) or (np.any(second < 1e-30) and np.any(rows)):
            return _careful_moments(rows, pooled)
    return ChannelMoments(mean, variance)


def _careful_moments(rows: Any, pooled: bool) -> ChannelMoments:
    """The moments of columns of any size, around their means."""
    largest = max(float(np.max(rows)), -float(np.min(rows)))
    if not math.isfinite(largest):
        return ChannelMoments(
            np.full(rows.shape[1], math.nan), np.full(() if pooled else rows.shape[1], math.nan)
        )
    scale = float(np.float32(1 / max(largest, 1e-37)))
    center = rows[0].astype("float32") * np.float32(scale)  # equal rows then have no variance at all
    center += _sums(rows, pooled, scale, center)[0].astype("float32")
    shifted, second = _sums(rows, pooled, scale, center)
    variance = second - (np.mean(shifted**2) if pooled else shifted**2)
    return ChannelMoments((center + shifted) / scale, np.maximum(variance, 0.0) / scale**2)


def _sums(rows: Any, pooled: bool, scale: float = 1.0, center: Any = None) -> tuple[Any, Any]:
    """The means of each column, and of the squares of each or of all, by pieces that stay in the cache."""
    columns = rows.shape[1:]
    first, second = np.zeros(columns), np.zeros(() if pooled else columns)
    step = max(1, _PIECE // math.prod(columns))
    for start in range(0, len(rows), step):
        piece = rows[start : start + step].astype("float32", copy=False)
        if center is not None:
            piece = piece * np.float32(scale) - np.float32(center)
        ones = _ONES[: len(piece)]
        first += array_product(ones, piece)  # by BLAS: twice as fast as `sum`
        if pooled:
            flat = piece.reshape(-1)
            second += array_product(flat, flat) / math.prod(columns)
        else:
            second += array_product(ones, np.square(piece))
    return first / len(rows), second / len(rows)
