"""Random matrices of orthonormal columns or rows: exactly uniform where that costs nothing, else nearly.

The exact ones factorize nothing. The Q of a Gaussian matrix's QR factorization, its signs corrected, is Haar
distributed: a product of Householder reflections of independent Gaussian vectors of falling length (Stewart
1980). These are drawn directly. A block of them is I − V·T·Vᵀ in the compact WY form, with
T⁻¹ = ½·diag(VᵀV) + triu(VᵀV, 1).

G. W. Stewart 1980, "The efficient generation of random orthogonal matrices", SIAM J. Numer.
Anal. 17; F. Mezzadri 2007, "How to generate random matrices from the classical compact groups",
arXiv:math-ph/0609050.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_winit.drawing.sampling import normal
from keras_winit.drawing.scrambled import fills, scrambled
from keras_winit.drawing.seeds import Seed, drawable, host_key
from keras_winit.support.checks import Shape
from keras_winit.support.exact import inverse_of_upper, product, subtract_product

# Reflections in one product: as few as keep it limited by arithmetic, not by memory, since T costs more the
# wider it is.
_BLOCK, _NARROW_BLOCK = 256, 192
_NARROW = 1024  # columns up to which narrow blocks are faster
# Columns up to which one block is faster than several; LAPACK has blocks of its own.
_ONE_BLOCK = {"torch": 512, "tensorflow": 320}.get(keras.backend.backend(), 256)


def haar(rows: int, columns: int, dtype: str, seed: Seed, batch: int = 1) -> Any:
    """A Haar-distributed matrix, or a batch of independent ones, `(batch, rows, columns)`.

    Its columns are orthonormal, or its rows if fewer; the dtype is at least float32.
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
    return _step(normal(shape, 1.0, dtype, seed), None)


def _one_column(shape: Any, dtype: str, seed: Seed) -> Any:
    """One block of one column, a random direction, by fewer operations."""
    gauss = normal(shape, 1.0, dtype, seed)
    norm = ops.sqrt(ops.sum(ops.square(gauss), axis=-2, keepdims=True))
    zero = ops.cast(norm == 0, dtype)  # only a vector of length 1 can be all zeros
    return (gauss + zero) / (norm + zero)


def _step(gauss: Any, others: Any) -> Any:
    return _apply(_reflections(gauss), others)


def _many_blocks(numbers: Any, rows: int, columns: int, step: Callable[[Any, Any], Any] = _step) -> Any:
    """The Q of a matrix whose lower trapezoid is made of these numbers."""
    made = None
    for _, gauss in _from_the_last(numbers, rows, columns):
        made = step(gauss, made)
    return made


def _from_the_last(numbers: Any, rows: int, columns: int) -> Iterator[tuple[int, Any]]:
    """Where each block starts and its Gaussian vectors, from the last block to the first.

    Reflections that start at row s leave all above and left of (s, s) an identity: no product need touch it.
    """
    *many, end = numbers.shape
    for start, width in reversed(_blocks(columns)):
        begin = end - (rows - start) * width
        yield start, ops.reshape(numbers[..., begin:end], (*many, rows - start, width))
        end = begin


def _reflections(gauss: Any) -> tuple[Any, ...]:
    """The reflections of Gaussian vectors, I − V·T·Vᵀ; what is above the diagonal does not count.

    Column k reflects x, what is at and below row k, onto −s·|x|·e₀ with s the sign of x₀: its vector is
    v = x + s·|x|·e₀, and ½·|v|² = |x|·(|x| + |x₀|). R's diagonal would have the signs −s; the new columns
    times these make Q Haar distributed.

    Returns:
        The first rows of V, lower triangular; the others; T; the signs, of shape (…, 1, width); and the
        identity of the first rows' size.
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
    return corner + shift, below, factor, -_transposed(signs), diagonal


def _apply(reflections: tuple[Any, ...], others: Any) -> Any:
    """The reflections of [[I, 0], [0, others]], or of an identity, its columns times their signs."""
    corner, below, factor, signs, diagonal = reflections
    left = product(factor, _transposed(corner) * -signs)
    top, bottom = product(corner, left) + diagonal * signs, product(below, left)
    if others is not None:
        right = product(factor, product(_transposed(below), others))
        top = ops.concatenate([top, -product(corner, right)], axis=-1)
        bottom = ops.concatenate([bottom, others - product(below, right)], axis=-1)
    return ops.concatenate([top, bottom], axis=-2)


def _transposed(tensor: Any) -> Any:
    return ops.swapaxes(tensor, -1, -2)


def _for_jax() -> tuple[Any, Any]:
    """One compiled program a shape, where eager code compiles every operation."""
    import jax  # noqa: PLC0415 - the backend in use

    def drawn(numbers: Any, rows: int, columns: int) -> Any:
        matrix = partial(_many_blocks, rows=rows, columns=columns)
        # Of several blocks one matrix after the other: on a CPU, as many independent solves of batches as
        # it has threads wait without end.
        apart = numbers.ndim > 1 and len(_blocks(columns)) > 1
        return jax.lax.map(matrix, numbers) if apart else matrix(numbers)

    compiled = jax.jit(drawn, static_argnums=(1, 2))

    def one_block(shape: Shape, dtype: str, seed: Seed) -> Any:
        numbers = normal((*shape[:-2], shape[-2] * shape[-1]), 1.0, dtype, seed)
        return compiled(numbers, *shape[-2:])

    return one_block, compiled


def _for_tensorflow() -> tuple[Any, Any]:
    """A graph for all shapes of one rank: eager code is mostly overhead where a matrix is small."""
    import tensorflow as tf  # noqa: PLC0415 - the backend in use

    from keras_winit.drawing.tensorflow_random import LARGE, as_graph  # noqa: PLC0415

    @cache
    def drawing(rank: int, dtype: str, how: Any) -> Any:
        def draw(shape: Any, seed: Any) -> Any:
            return how(tf.ensure_shape(shape, [rank]), dtype, seed)

        return as_graph(draw, ([rank], "int32"), ([], "int32"))

    @cache
    def stepping(rank: int, dtype: str) -> Any:
        return as_graph(_step, *[([None] * rank, dtype)] * 2)

    def one_block(shape: Shape, dtype: str, seed: Seed) -> Any:
        if tf.executing_eagerly() and isinstance(seed, int) and math.prod(shape) < LARGE:
            # What is larger is drawn another way.
            how = _one_column if shape[-1] == 1 else _one_block
            return drawing(len(shape), dtype, how)(np.array(shape, "int32"), np.int32(drawable(seed)))
        return step(normal(shape, 1.0, dtype, seed), None)

    def step(gauss: Any, others: Any) -> Any:
        if not tf.executing_eagerly():
            return _step(gauss, others)
        if others is None:
            *many, rows, columns = gauss.shape
            others = tf.zeros((*many, rows - columns, 0), gauss.dtype)
        return stepping(gauss.shape.rank, gauss.dtype.name)(gauss, others)

    return one_block, partial(_many_blocks, step=step)


def _for_torch() -> tuple[Any, Any]:
    """One block by LAPACK, whose few calls cost least; many in place, in fresh memory once."""
    import torch  # noqa: PLC0415 - the backend in use

    def one_block(shape: Shape, dtype: str, seed: Seed) -> Any:
        gauss = normal(shape, 1.0, dtype, seed)
        if gauss.device.type != "cpu":
            return _step(gauss, None)
        gauss = gauss.tril()
        head = gauss.diagonal(dim1=-2, dim2=-1)
        norm = torch.linalg.vector_norm(gauss, dim=-2, dtype=torch.float64).to(gauss.dtype)
        zero = norm == 0  # only a vector of length 1 can be all zeros
        shift = torch.copysign(norm + zero, head)
        # H = I − τ·u·uᵀ with u = v/v₀, which LAPACK reads below the diagonal
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


_draw_one_block, _product = {"jax": _for_jax, "tensorflow": _for_tensorflow, "torch": _for_torch}[
    keras.backend.backend()
]()


# An exact draw of n × k, k ≤ n, costs n·k², scrambling n·k and its small parts: from this k and this n·k² on,
# added up over a batch, scrambling is no slower on any backend (256 × 256, 1024 × 128, 4096 × 64). Rows that
# fill no blocks, as of a prime number, take twice as long, in a batch even more: there only JAX, whose exact
# draw is slowest and whose devices want parts, begins as early.
_LEAST_SIDE, _LEAST_ROWS = 64, 256
_LEAST_WORK = 2**24
_LEAST_UNFILLED = 2**24 if keras.backend.backend() == "jax" else 2**26


def orthonormal(
    rows: int,
    columns: int,
    dtype: str,
    seed: Seed,
    batch: int = 1,
    *,
    scale: float = 1.0,
    exact: bool = False,
) -> Any:
    """A scale times a random matrix, or a batch, of orthonormal columns, or of rows if fewer.

    `exact` ones are Haar-distributed at every size.
    """
    key = host_key(seed) if is_scrambled(rows, columns, batch, exact=exact) else None
    if key is None:  # small, or from a generator inside a graph
        matrices = haar(rows, columns, dtype, seed, batch)
        return matrices if scale == 1 else scale * matrices
    # Sums of products of a larger or smaller scale may leave the dtype.
    early = scale if 1e-20 < abs(scale) < 1e20 else 1.0
    tall = scrambled(max(rows, columns), min(rows, columns), dtype, key, batch, scale=early)
    if early != scale:
        tall = scale * tall
    if batch == 1:
        tall = tall[0]
    return tall if rows >= columns else ops.swapaxes(tall, -1, -2)


def is_scrambled(rows: int, columns: int, batch: int = 1, *, exact: bool = False) -> bool:
    """Whether matrices of this size are made of parts that devices can compute on their own."""
    side, long = min(rows, columns), max(rows, columns)
    if exact or side < _LEAST_SIDE or long < _LEAST_ROWS:
        return False
    return batch * long * side**2 >= _LEAST_WORK if fills(long) else long * side**2 >= _LEAST_UNFILLED
