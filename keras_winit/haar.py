"""Random orthogonal matrices from the uniform (Haar) distribution, without factorizing anything.

The Q of a Gaussian matrix's QR factorization, its signs corrected, is Haar distributed; and
that Q is a product of Householder reflections of independent Gaussian vectors of falling length
(Stewart 1980). Drawing those vectors directly leaves only the product, which in the compact WY
form, I − V·T·Vᵀ with T⁻¹ = ½·I + triu(VᵀV, 1) for unit vectors, is made of matrix products.

G. W. Stewart 1980, "The efficient generation of random orthogonal matrices", SIAM J. Numer.
Anal. 17; F. Mezzadri 2007, "How to generate random matrices from the classical compact groups",
arXiv:math-ph/0609050.

Products are written with @: on PyTorch `keras.ops.matmul` computes float64 in float32.
"""

from typing import Any

import numpy as np
from keras import ops

from keras_winit.generators import normal
from keras_winit.seeds import Seed

# Reflections applied in one product: wide enough that matrix products are limited by arithmetic
# and not by memory.
_BLOCK = 512
# Below this width a triangular matrix is inverted by substitution; above, by halves.
_LEAF = 128


def haar(rows: int, columns: int, dtype: str, seed: Seed, batch: int | None = None) -> Any:
    """A Haar-distributed matrix, or a batch of independent ones.

    Its columns are orthonormal where there are no more of them than rows; else its rows are.

    Args:
        rows, columns: positive sizes of the matrix.
        dtype: "float32" or "float64".
        seed: an integer or a `SeedGenerator`.
        batch: how many matrices, or None for one without a batch axis.

    Returns:
        A tensor of shape `(rows, columns)` or `(batch, rows, columns)`.
    """
    tall = _tall(max(rows, columns), min(rows, columns), dtype, seed, batch or 1)
    if rows < columns:
        tall = ops.swapaxes(tall, -1, -2)
    return tall[0] if batch is None else tall


def _tall(rows: int, columns: int, dtype: str, seed: Seed, batch: int) -> Any:
    vectors, signs = _reflectors(rows, columns, dtype, seed, batch)
    # From the last block to the first, so that each product only touches what it can change:
    # reflections that start at row s leave all that is above and left of (s, s) an identity.
    # What is carried is the product less that identity, a block that grows to the upper left.
    change = None
    for start in reversed(range(0, columns, _BLOCK)):
        width = min(_BLOCK, columns - start)
        change = _reflect(vectors[:, start:, start : start + width], change, columns - start, dtype)
    return (change + ops.eye(rows, columns, dtype=dtype)) * signs


def _reflectors(rows: int, columns: int, dtype: str, seed: Seed, batch: int) -> tuple[Any, Any]:
    """Unit Householder vectors in the columns of a lower trapezoid, and the signs of R's diagonal.

    Column k reflects a Gaussian vector of length rows − k onto −sign(x₀)·|x|·e₀.
    """
    gauss = ops.tril(normal((batch, rows, columns), 1.0, dtype, seed))
    head = ops.diagonal(gauss, axis1=-2, axis2=-1)
    signs = ops.where(head < 0, ops.cast(-1, dtype), ops.cast(1, dtype))
    norms = ops.sqrt(ops.sum(ops.square(gauss), axis=-2))
    # Only a vector of length 1 can be all zeros; it then reflects like any other.
    norms = ops.where(norms > 0, norms, ops.ones_like(norms))
    # |x + sign(x₀)·|x|·e₀|² = 2·|x|·(|x| + |x₀|)
    lengths = ops.sqrt(2 * norms * (norms + ops.abs(head)))
    corner = ops.expand_dims(signs * norms / lengths, -2) * ops.eye(rows, columns, dtype=dtype)
    return gauss / ops.expand_dims(lengths, -2) + corner, ops.expand_dims(-signs, -2)


def _reflect(vectors: Any, change: Any, columns: int, dtype: str) -> Any:
    """(I − V·T·Vᵀ)·E less the identity, where E is the identity with `change` in its lower right."""
    width = vectors.shape[-1]
    transposed = ops.swapaxes(vectors, -1, -2)
    projection = transposed[:, :, :columns]
    if change is not None:
        inner = transposed[:, :, width:] @ change
        projection = ops.concatenate([projection[:, :, :width], projection[:, :, width:] + inner], axis=-1)
    step = _wy_factor(vectors, transposed, dtype) @ projection
    if change is None:
        return -(vectors @ step)
    return ops.pad(change, [[0, 0], [width, 0], [width, 0]]) - vectors @ step


def _wy_factor(vectors: Any, transposed: Any, dtype: str) -> Any:
    """T of the product of the reflections, I − V·T·Vᵀ: the inverse of ½·I + triu(VᵀV, 1)."""
    width = vectors.shape[-1]
    if width <= _LEAF:
        gram = transposed @ vectors
        upper = ops.convert_to_tensor(np.triu(np.ones((width, width)), 1), dtype=dtype)
        eye = ops.convert_to_tensor(np.broadcast_to(np.eye(width), gram.shape), dtype=dtype)
        return ops.solve_triangular(gram * upper + 0.5 * eye, eye, lower=False)
    half = width // 2
    first = _wy_factor(vectors[:, :, :half], transposed[:, :half], dtype)
    second = _wy_factor(vectors[:, :, half:], transposed[:, half:], dtype)
    across = transposed[:, :half] @ vectors[:, :, half:]
    corner = -(first @ across @ second)
    below = ops.zeros_like(ops.swapaxes(corner, -1, -2))
    return ops.concatenate([ops.concatenate([first, corner], -1), ops.concatenate([below, second], -1)], -2)
