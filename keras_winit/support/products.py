"""Products of matrices that no accelerator rounds.

GPUs with TF32 round what they multiply to ten bits of mantissa unless they are told not to, and some CPUs
to bfloat16 if PyTorch is told to: an orthogonal matrix would come out of such products orthogonal to 1e-2.
JAX can be told for one product. TensorFlow and PyTorch cannot: there a float32 is split into three numbers
of few enough bits, whose products such a unit computes exactly, and their sums are in float32. Triangular
solves round on such a GPU as well, and are done in float64.
"""

from functools import cache, reduce
from operator import add
from typing import Any

import keras
import numpy as np
from keras import ops

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
