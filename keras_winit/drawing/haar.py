"""Random orthogonal matrices from the uniform (Haar) distribution, without factorizing anything.

The Q of a Gaussian matrix's QR factorization, its signs corrected, is Haar distributed; and
that Q is a product of Householder reflections of independent Gaussian vectors of falling length
(Stewart 1980). Drawing those vectors directly leaves only the product. A block of reflections is
I − V·T·Vᵀ in the compact WY form, with T⁻¹ = ½·diag(VᵀV) + triu(VᵀV, 1): matrix products.

G. W. Stewart 1980, "The efficient generation of random orthogonal matrices", SIAM J. Numer.
Anal. 17; F. Mezzadri 2007, "How to generate random matrices from the classical compact groups",
arXiv:math-ph/0609050.
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_winit.drawing.sampling import normal
from keras_winit.drawing.seeds import Seed, drawable
from keras_winit.support.checks import Shape
from keras_winit.support.exact import inverse_of_upper, product, subtract_product

# Reflections applied in one product: as few as keep matrix products limited by arithmetic and not
# by memory, since a block's own T costs more the wider it is.
_BLOCK = 256
_NARROW_BLOCK = 192
_NARROW = 1024  # columns up to which narrow blocks are faster
# Columns up to which one block is faster than several; LAPACK has blocks of its own.
_ONE_BLOCK = {"torch": 512, "tensorflow": 320}.get(keras.backend.backend(), 256)


def haar(rows: int, columns: int, dtype: str, seed: Seed, batch: int = 1) -> Any:
    """A Haar-distributed matrix, or a batch of independent ones.

    Its columns are orthonormal where there are no more of them than rows; else its rows are.

    Args:
        rows, columns: positive sizes of the matrix.
        dtype: "float32" or "float64".
        seed: an integer or a `SeedGenerator`.
        batch: how many matrices.

    Returns:
        A tensor of shape `(rows, columns)`, or `(batch, rows, columns)` of more than one.
    """
    long, short = max(rows, columns), min(rows, columns)
    many = () if batch == 1 else (batch,)
    blocks = _blocks(short)
    if len(blocks) == 1:
        tall = _draw_one_block((*many, long, short), dtype, seed)
    else:
        numbers = sum((long - start) * width for start, width in blocks)
        tall = _product(normal((*many, numbers), 1.0, dtype, seed), long, short)
    return tall if rows >= columns else ops.swapaxes(tall, -1, -2)


def _blocks(columns: int) -> list[tuple[int, int]]:
    """Start and width of each block of columns."""
    if columns <= _ONE_BLOCK:
        return [(0, columns)]
    count = math.ceil(columns / (_NARROW_BLOCK if columns <= _NARROW else _BLOCK))
    width = 32 * math.ceil(columns / count / 32)  # whole registers
    return [(start, min(width, columns - start)) for start in range(0, columns, width)]


def _one_block(shape: Any, dtype: str, seed: Seed) -> Any:
    return _apply(_reflections(normal(shape, 1.0, dtype, seed)), None)


def _one_column(shape: Any, dtype: str, seed: Seed) -> Any:
    """What one block is for one column, a random direction, by fewer operations."""
    gauss = normal(shape, 1.0, dtype, seed)
    norm = ops.sqrt(ops.sum(ops.square(gauss), axis=-2, keepdims=True))
    zero = ops.cast(norm == 0, dtype)  # only a vector of length 1 can be all zeros
    return (gauss + zero) / (norm + zero)


def _many_blocks(numbers: Any, rows: int, columns: int) -> Any:
    """The Q of a matrix whose lower trapezoid is made of these numbers."""
    made = None
    for _, gauss in _from_the_last(numbers, rows, columns):
        made = _step(gauss, made)
    return made


def _from_the_last(numbers: Any, rows: int, columns: int) -> Iterator[tuple[int, Any]]:
    """Where each block starts and its Gaussian vectors, from the last block to the first.

    In that order each product only touches what it can change: reflections that start at row s
    leave all that is above and left of (s, s) an identity.
    """
    many, end = tuple(numbers.shape[:-1]), numbers.shape[-1]
    for start, width in reversed(_blocks(columns)):
        shape = (*many, rows - start, width)
        block = numbers[..., end - shape[-2] * width : end]
        yield start, ops.reshape(block, shape)
        end -= shape[-2] * width


class _Reflections(NamedTuple):
    """A block of reflections, I − V·T·Vᵀ, and the signs for the columns that it begins."""

    corner: Any  # the first rows of V, lower triangular
    below: Any  # the other rows of V
    factor: Any  # T
    signs: Any  # of shape (…, 1, width)
    diagonal: Any  # the identity of the corner's size


def _reflections(gauss: Any) -> _Reflections:
    """The reflections of Gaussian vectors, of which what is above the diagonal does not count.

    Column k reflects what is at and below row k, x, onto −s·|x|·e₀ with s the sign of x₀. Its
    vector is v = x + s·|x|·e₀, and ½·|v|² = |x|·(|x| + |x₀|). What would be R's diagonal has the
    signs −s, by which the new columns are to be multiplied: that makes Q Haar distributed.
    """
    dtype = keras.backend.standardize_dtype(gauss.dtype)
    width = ops.shape(gauss)[-1]
    places = ops.arange(width)
    ahead = ops.expand_dims(places, 0) - ops.expand_dims(places, 1)
    diagonal = ops.cast(ahead == 0, dtype)
    corner, below = gauss[..., :width, :] * ops.cast(ahead <= 0, dtype), gauss[..., width:, :]
    gram = product(_transposed(corner), corner) + product(_transposed(below), below)
    head = ops.sum(corner * diagonal, axis=-1, keepdims=True)
    norm = ops.sqrt(ops.sum(gram * diagonal, axis=-1, keepdims=True))
    signs = 1 - 2 * ops.cast(head < 0, dtype)
    half = norm * (norm + ops.abs(head))
    half = half + ops.cast(half <= 0, dtype)  # only a vector of length 1 can be all zeros
    shift = signs * norm * diagonal
    # triu(VᵀV, 1), from the vectors before their shift
    gram = (gram + product(_transposed(corner), shift)) * ops.cast(ahead > 0, dtype)
    factor = inverse_of_upper(gram + half * diagonal, ops.zeros_like(gram) + diagonal)
    return _Reflections(corner + shift, below, factor, -_transposed(signs), diagonal)


def _apply(reflections: _Reflections, others: Any) -> Any:
    """The reflections of [[I, 0], [0, others]], the identity's columns times their signs.

    `others` is None where there are no other columns.
    """
    corner, below, factor, signs, diagonal = reflections
    left = product(factor, _transposed(corner) * -signs)
    top, bottom = product(corner, left) + diagonal * signs, product(below, left)
    if others is not None:
        right = product(factor, product(_transposed(below), others))
        top = ops.concatenate([top, -product(corner, right)], axis=-1)
        bottom = ops.concatenate([bottom, others - product(below, right)], axis=-1)
    return ops.concatenate([top, bottom], axis=-2)


def _step(gauss: Any, others: Any) -> Any:
    return _apply(_reflections(gauss), others)


def _transposed(tensor: Any) -> Any:
    return ops.swapaxes(tensor, -1, -2)


def _for_jax() -> tuple[Any, Any]:
    """One compiled program for each shape, where eager code compiles every operation."""
    import jax  # noqa: PLC0415 - the backend in use

    def drawn(numbers: Any, rows: int, columns: int) -> Any:
        def matrix(numbers: Any) -> Any:
            return _many_blocks(numbers, rows, columns)

        # One matrix after the other where there are several blocks: their solves do not depend on one
        # another, and on a CPU as many of batches at once as it has threads wait without end.
        apart = numbers.ndim > 1 and len(_blocks(columns)) > 1
        return jax.lax.map(matrix, numbers) if apart else matrix(numbers)

    compiled = jax.jit(drawn, static_argnums=(1, 2))

    def one_block(shape: Shape, dtype: str, seed: Seed) -> Any:
        numbers = normal((*shape[:-2], shape[-2] * shape[-1]), 1.0, dtype, seed)
        return compiled(numbers, *shape[-2:])

    return one_block, compiled


def _for_tensorflow() -> tuple[Any, Any]:
    """A graph for all shapes of one rank: of a small matrix, eager code is mostly overhead."""
    import tensorflow as tf  # noqa: PLC0415 - the backend in use

    from keras_winit.drawing.tensorflow_random import LARGE  # noqa: PLC0415

    @cache
    def drawing(rank: int, dtype: str, how: Any) -> Any:
        signature = [tf.TensorSpec([rank], "int32"), tf.TensorSpec([], "int32")]

        def draw(shape: Any, seed: Any) -> Any:
            return how(tf.ensure_shape(shape, [rank]), dtype, seed)

        return tf.function(draw, input_signature=signature, autograph=False)

    @cache
    def stepping(rank: int, dtype: str) -> Any:
        signature = [tf.TensorSpec([None] * rank, dtype)] * 2
        return tf.function(_step, input_signature=signature, autograph=False)

    def one_block(shape: Shape, dtype: str, seed: Seed) -> Any:
        if not tf.executing_eagerly():
            return _one_block(shape, dtype, seed)
        if isinstance(seed, int) and math.prod(shape) < LARGE:  # what is larger is drawn another way
            how = _one_column if shape[-1] == 1 else _one_block
            return drawing(len(shape), dtype, how)(np.array(shape, "int32"), np.int32(drawable(seed)))
        return step(normal(shape, 1.0, dtype, seed), shape[-2] - shape[-1])

    def many_blocks(numbers: Any, rows: int, columns: int) -> Any:
        if not tf.executing_eagerly():
            return _many_blocks(numbers, rows, columns)
        made = None
        for _, gauss in _from_the_last(numbers, rows, columns):
            made = step(gauss, rows - columns, made)
        return made

    def step(gauss: Any, below: int, others: Any = None) -> Any:
        if others is None:
            others = tf.zeros((*gauss.shape[:-2], below, 0), gauss.dtype)
        return stepping(gauss.shape.rank, gauss.dtype.name)(gauss, others)

    return one_block, many_blocks


def _for_torch() -> tuple[Any, Any]:
    """One block by LAPACK, whose few calls cost least; many in place, in fresh memory just once."""
    import torch  # noqa: PLC0415 - the backend in use

    def one_block(shape: Shape, dtype: str, seed: Seed) -> Any:
        gauss = normal(shape, 1.0, dtype, seed)
        if gauss.device.type != "cpu":
            return _apply(_reflections(gauss), None)
        gauss = gauss.tril()
        head, norm = (
            gauss.diagonal(dim1=-2, dim2=-1),
            torch.linalg.vector_norm(gauss, dim=-2, dtype=torch.float64).to(gauss.dtype),
        )
        zero = norm == 0  # only a vector of length 1 can be all zeros
        shift = torch.copysign(norm + zero, head)
        # H = I − τ·u·uᵀ with u = v/v₀, of which LAPACK reads what is below the diagonal
        vectors = gauss / (head + shift).unsqueeze(-2)
        tau = 1 + (head + zero) / shift
        return torch.linalg.householder_product(vectors, tau) * shift.sign().neg_().unsqueeze(-2)

    def many_blocks(numbers: Any, rows: int, columns: int) -> Any:
        matrix = numbers.new_zeros((*numbers.shape[:-1], rows, columns))
        for start, gauss in _from_the_last(numbers, rows, columns):
            corner, below, factor, signs, diagonal = _reflections(gauss)
            width = gauss.shape[-1]
            changed = matrix[..., start:, start:]
            rest = changed[..., width:, width:]
            left = product(factor, _transposed(corner) * -signs)
            right = product(factor, product(_transposed(below), rest))
            changed[..., :width, :width] = product(corner, left) + diagonal * signs
            changed[..., width:, :width] = product(below, left)
            changed[..., :width, width:] = -product(corner, right)
            subtract_product(rest, below, right)
        return matrix

    return one_block, many_blocks


_MAKERS = {"jax": _for_jax, "tensorflow": _for_tensorflow, "torch": _for_torch}
_draw_one_block, _product = _MAKERS[keras.backend.backend()]()
