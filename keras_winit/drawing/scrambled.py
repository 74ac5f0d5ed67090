"""Random orthogonal matrices for the price of a normal, column by column.

Q = (I ⊗ A ⊗ B) · D · P · C. The columns of C, a circulant of random phases, are orthogonal cyclic
shifts of one vector; P permutes the rows, D gives them random signs, and each block of rows is mixed by
a Kronecker product of two small Haar matrices of its own. Only that computes, 2·16 products an element,
however large the matrix. Rows that fill no block are mixed by one more, which overlaps with the last.

It is as orthogonal as its parts, which NumPy computes in float64 from the raw words of Philox, whose
stream it promises not to change: a seed gives the same parts on every backend. No statistic that was
tried tells it from a Haar-distributed matrix, which it is not. Any columns, and any block of rows, can be
computed without the others.

F. Yu, A. Suresh, K. Choromanski, D. Holtmann-Rice, S. Kumar 2016, "Orthogonal random features",
arXiv:1610.09072; K. Choromanski, M. Rowland, A. Weller 2017, "The unreasonable effectiveness of
structured random orthogonal embeddings", arXiv:1703.00864; for the circulant, F. Yu, S. Kumar, Y. Gong,
S.-F. Chang 2014, "Circulant binary embedding", arXiv:1405.3162; J. Salmon, M. Moraes, R. Dror, D. Shaw
2011, "Parallel random numbers: as easy as 1, 2, 3", SC11.
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_winit.support.exact import kronecker, product

Array = NDArray[np.float64]


class Stream:
    """Random numbers of one key."""

    def __init__(self, key: int) -> None:
        self._bits = np.random.Philox(key=key)

    def words(self, *shape: int) -> NDArray[np.uint64]:
        """64 random bits each."""
        return self._bits.random_raw(math.prod(shape)).reshape(shape)

    def uniform(self, *shape: int) -> Array:
        """U(0, 1), never 0."""
        return ((self.words(*shape) >> np.uint64(11)).astype("float64") + 0.5) * 2.0**-53

    def disc(self, count: int) -> tuple[NDArray[np.complex128], Array]:
        """Uniform points of the unit disc, those of a square that are in it, and |z|² of each."""
        found: list[tuple[NDArray[np.complex128], Array]] = []
        missing = count
        while missing > 0 or not found:
            enough = 2 * (missing + missing // 3 + 4 * math.isqrt(missing) + 4)  # π/4 of them are inside
            numbers = 2 * self.uniform(enough) - 1
            points, squares = numbers.view("complex128"), np.square(numbers)
            distances = squares[::2] + squares[1::2]
            # 0, without a logarithm, has a chance below 2⁻¹⁰⁰.
            inside = np.flatnonzero(distances < 1)[:missing]
            found.append((points[inside], distances[inside]))
            missing -= len(inside)
        points, distances = (np.concatenate(each) for each in zip(*found, strict=True))
        return points, distances

    def normal(self, *shape: int) -> Array:
        """N(0, 1) by Marsaglia and Bray 1964, two from a point: a cosine costs five times a logarithm."""
        count = math.prod(shape)
        points, distances = self.disc(-(-count // 2))
        pairs = points * np.sqrt(-2 * np.log(distances) / distances)
        return pairs.view("float64")[:count].reshape(shape)

    def haar(self, count: int, size: int) -> Array:
        """Haar-distributed matrices: the Q of normal ones, its signs corrected."""
        q, r = np.linalg.qr(self.normal(count, size, size))
        return q * np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0)[:, None]

    def circles(self, count: int, size: int) -> Array:
        """Vectors orthonormal to their own cyclic shifts: of random phases, all as strong."""
        points, distances = self.disc(count * (size // 2 + 1))
        phases = (points / np.sqrt(distances)).reshape(count, -1)
        real = [0] if size % 2 else [0, -1]
        phases[:, real] = np.where(phases[:, real].real < 0, -1, 1)
        return np.fft.irfft(phases, size)

    def orders(self, count: int, size: int) -> NDArray[np.int64]:
        """Permutations of 0 … size − 1."""
        return np.argsort(self.words(count, size), axis=1)

    def signs(self, *shape: int) -> NDArray[np.bool_]:
        """Whether a sign is negative, with equal chance."""
        return np.asarray(self.words(*shape) >> np.uint64(63) == 1)


_FEWEST, _USUAL, _MOST = 4, 16, 32  # rows of a factor
_BLOCK = 64  # the fewest rows of a block
_DEVICES = 8  # blocks come in multiples of it where they can: then devices share the rows, too
_WINDOW = 64  # columns that TensorFlow copies at once
_NARROW, _NARROW_WINDOW = 512, 16  # and of a matrix of so few
_PIECE, _PIECE_OF_GPU = 2**20, 2**24  # elements that PyTorch mixes at once
_PIECES = 2**20, 2**23  # and TensorFlow: half of all, between these


class Recipe(NamedTuple):
    """What `batch` matrices of `rows` by `columns` are made of."""

    batch: int
    rows: int
    columns: int
    table: Any  # the vectors, as far as windows reach, and their negatives
    starts: Any  # of each row's window in the table, of shape (batch, rows)
    mixers: tuple[Any, Any]  # (batch · blocks, a, a) and (batch · blocks, b, b)
    last: tuple[Any, Any] | None  # the same of the block that overlaps


def recipe(rows: int, columns: int, key: int, batch: int, scale: float) -> Recipe:
    """The parts of tall matrices."""
    stream = Stream(key)
    a, b = factors(rows)
    blocks = rows // (a * b)
    reach = rows + _WINDOW * math.ceil(columns / _WINDOW)
    circles = np.resize(np.arange(rows), reach)
    vectors = scale * stream.circles(batch, rows)[:, circles]
    table = np.stack([vectors, -vectors], axis=1)
    starts = stream.orders(batch, rows) + reach * stream.signs(batch, rows)
    starts += 2 * reach * np.arange(batch)[:, None]
    mixers = stream.haar(batch * blocks, a), stream.haar(batch * blocks, b)
    last = None if fills(rows) else (stream.haar(batch, a), stream.haar(batch, b))
    return Recipe(batch, rows, columns, table.reshape(-1), starts.astype("int32"), mixers, last)


@cache
def factors(rows: int) -> tuple[int, int]:
    """The sizes of A and B: near the usual, and such that blocks fill the rows, if any do."""
    pairs = [(a, b) for a in range(_FEWEST, _MOST + 1) for b in range(a, _MOST + 1)]
    filling = [(a, b) for a, b in pairs if a * b >= _BLOCK and rows % (a * b) == 0]
    if not filling:
        return _USUAL, _USUAL

    def badness(pair: tuple[int, int]) -> tuple[int, float, int]:
        a, b = pair
        far = round(abs(math.log(a / _USUAL)) + abs(math.log(b / _USUAL)), 6)
        return -math.gcd(rows // (a * b), _DEVICES), far, a + b

    return min(filling, key=badness)


def fills(rows: int) -> bool:
    """Whether blocks fill so many rows: then none is mixed twice."""
    return rows % math.prod(factors(rows)) == 0


def scrambled(rows: int, columns: int, dtype: str, key: int, batch: int = 1, *, scale: float = 1.0) -> Any:
    """Matrices of orthonormal columns, times a scale, of shape `(batch, rows, columns)`.

    There are at least 256 rows, and no more columns. The key is nonnegative and below 2¹²⁸.
    """
    made = recipe(rows, columns, key, batch, scale)
    table, *mixers = (np.asarray(each, dtype) for each in (made.table, *made.mixers, *(made.last or ())))
    return _assemble(table, made.starts, tuple(mixers), columns)


def _mixed(matrices: Any, first: Any, second: Any) -> Any:
    """Each block of rows times a Kronecker product: (I ⊗ A ⊗ B) · matrices."""
    blocks, a, b = first.shape[0], first.shape[-1], second.shape[-1]
    mixed = kronecker(first, second, ops.reshape(matrices, (blocks, a, b, matrices.shape[-1])))
    return ops.reshape(mixed, matrices.shape)


def _mixed_all(matrices: Any, mixers: tuple[Any, ...]) -> Any:
    """All rows mixed: those that fill blocks, then the last ones with some of the others."""
    first, second, *last = mixers
    if not last:
        return _mixed(matrices, first, second)
    rows, block = matrices.shape[-2], first.shape[-1] * second.shape[-1]
    full, kept = rows // block * block, rows - block
    mixed = _mixed(matrices[:, :full], first, second)
    end = ops.concatenate([mixed[:, kept:], matrices[:, full:]], axis=1)
    return ops.concatenate([mixed[:, :kept], _mixed(end, *last)], axis=1)


def _for_torch() -> Any:
    """In place, a piece at a time: fresh memory costs more than the computation."""
    import torch  # noqa: PLC0415 - the backend in use

    def assemble(table: Any, starts: Any, mixers: tuple[Any, ...], columns: int) -> Any:
        table, starts, first, second, *last = map(ops.convert_to_tensor, (table, starts, *mixers))
        count, rows = starts.shape
        block = first.shape[-1] * second.shape[-1]
        full, kept = rows // block * block, rows - block
        windows = table.unfold(0, columns, 1)  # all of the table, without a copy of any
        matrices = table.new_empty((count, rows, columns))
        if not last:
            mix(windows, starts.flatten(), first, second, matrices.view(-1, columns))
            return matrices
        per_matrix = (each.view(count, full // block, *each.shape[1:]) for each in (first, second))
        for matrix, start, one, two, *four in zip(matrices, starts, *per_matrix, *last, strict=True):
            mix(windows, start[:full], one, two, matrix[:full])
            torch.index_select(windows, 0, start[full:], out=matrix[full:])
            matrix[kept:] = _mixed(matrix[kept:], *(each[None] for each in four))
        return matrices

    def mix(windows: Any, starts: Any, first: Any, second: Any, out: Any) -> None:
        """The windows that start there, copied and mixed."""
        (blocks, a, _), b, columns = first.shape, second.shape[-1], out.shape[-1]
        piece = _PIECE if out.device.type == "cpu" else _PIECE_OF_GPU
        at_once = max(1, min(blocks, piece // (a * b * columns)))
        spare = out.new_empty((at_once, a, b, columns))
        many = at_once * a * b
        parts = first.split(at_once), second[:, None].split(at_once), starts.split(many), out.split(many)
        for one, two, begin, rows in zip(*parts, strict=True):
            mixed = spare[: len(one)]
            torch.index_select(windows, 0, begin, out=rows)
            product(one, rows.view(-1, a, b * columns), mixed.view(-1, a, b * columns))
            product(two, mixed, rows.view(mixed.shape))

    return assemble


def _for_jax() -> Any:
    import jax  # noqa: PLC0415 - the backend in use
    from jax import numpy as jnp  # noqa: PLC0415

    def assemble(table: Any, starts: Any, mixers: tuple[Any, ...], columns: int) -> Any:
        places = starts[:, :, None] + jnp.arange(columns, dtype=starts.dtype)
        windows = jnp.asarray(table).at[places].get(mode="promise_in_bounds")
        return _mixed_all(windows, tuple(jnp.asarray(each) for each in mixers))

    return jax.jit(assemble, static_argnums=3)


def _for_tensorflow() -> Any:
    """A piece at a time: memory holds no more than the pieces and the whole."""
    import tensorflow as tf  # noqa: PLC0415 - the backend in use

    def assemble(table: Any, starts: Any, mixers: tuple[Any, ...], columns: int) -> Any:
        shape = (*starts.shape, columns)
        width = _WINDOW if columns > _NARROW else _NARROW_WINDOW
        offsets = width * np.arange(-(-columns // width), dtype="int32")
        windows = tf.constant(np.lib.stride_tricks.sliding_window_view(table, width))
        first, second, *last = mixers
        block = first.shape[-1] * second.shape[-1]
        starts = starts if last else starts.reshape(1, -1)
        most = min(max(math.prod(shape) // 2, _PIECES[0]), _PIECES[1])
        pieces = []
        count, height = starts.shape
        for some, rows, blocks in _pieces(count, height, block, columns, most):
            places = starts[some, rows, None] + offsets
            after = [each[some] for each in last] if rows.stop == height else []
            copied = tf.reshape(tf.gather(windows, places), (*places.shape[:-1], width * len(offsets)))
            mixed = _mixed_all(copied, (first[blocks], second[blocks], *after))
            pieces.append(tf.reshape(mixed[..., :columns], (-1, columns)))
            del copied, mixed
        return tf.reshape(pieces[0] if len(pieces) == 1 else tf.concat(pieces, 0), shape)

    return assemble


def _pieces(
    count: int, rows: int, block: int, columns: int, most: int
) -> Iterator[tuple[slice, slice, slice]]:
    """Matrices, rows of them and their blocks: whole matrices, or blocks of one, of so many elements.

    The last blocks come with the rows that fill none.
    """
    blocks = rows // block
    many = max(1, most // (rows * columns))
    step = blocks if many > 1 else max(1, most // (block * columns))
    for matrix in range(0, count, many):
        some = slice(matrix, min(matrix + many, count))
        for begin in range(0, blocks, step):
            end = min(begin + step, blocks)
            height = slice(begin * block, rows if end == blocks else end * block)
            yield some, height, slice(matrix * blocks + begin, (some.stop - 1) * blocks + end)


_assemble = {"jax": _for_jax, "tensorflow": _for_tensorflow, "torch": _for_torch}[keras.backend.backend()]()
