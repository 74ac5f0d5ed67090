"""Random matrices of orthonormal columns or rows: exactly uniform where that costs nothing, else nearly."""

from typing import Any

import keras
from keras import ops

from keras_winit.drawing.haar import haar
from keras_winit.drawing.scrambled import fills, scrambled
from keras_winit.drawing.seeds import Seed, host_key

# An exact draw of n × k, k ≤ n, costs n·k², scrambling n·k and what its small parts do: from this k and
# this n·k² on it is no slower on any backend (256 × 256, 1024 × 128, 4096 × 64). In a batch they add up.
# Rows that fill no blocks, as of a prime number, take twice as long, in a batch even more: there JAX alone,
# where an exact draw is slowest and devices want parts, begins as early.
_LEAST_SIDE, _LEAST_ROWS = 64, 256
_LEAST_WORK = 2**24
_LEAST_UNFILLED = 2**24 if keras.backend.backend() == "jax" else 2**26
# A scale to multiply with early: sums of products of larger or smaller ones may leave the dtype.
_MODERATE = (1e-20, 1e20)


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
    """A random matrix of orthonormal columns, or rows where there are fewer, times a scale.

    Args:
        rows, columns: positive sizes of the matrix.
        dtype: "float32" or "float64".
        seed: an integer or a `SeedGenerator`.
        batch: how many independent matrices.
        scale: a number.
        exact: whether to draw from the Haar distribution at every size.

    Returns:
        A tensor of shape `(rows, columns)`, or `(batch, rows, columns)` of more than one.
    """
    key = host_key(seed) if is_scrambled(rows, columns, batch, exact=exact) else None
    if key is None:  # small, or from a generator inside a graph
        matrices = haar(rows, columns, dtype, seed, batch)
        return matrices if scale == 1 else scale * matrices
    early = scale if _MODERATE[0] < abs(scale) < _MODERATE[1] else 1.0
    tall = scrambled(max(rows, columns), min(rows, columns), dtype, key, batch, scale=early)
    tall = tall if early == scale else scale * tall
    tall = tall if batch > 1 else tall[0]
    return tall if rows >= columns else ops.swapaxes(tall, -1, -2)


def is_scrambled(rows: int, columns: int, batch: int = 1, *, exact: bool = False) -> bool:
    """Whether so many matrices of this size are made of parts that devices can compute on their own."""
    side, long = min(rows, columns), max(rows, columns)
    if exact or side < _LEAST_SIDE or long < _LEAST_ROWS:
        return False
    return batch * long * side**2 >= _LEAST_WORK if fills(long) else long * side**2 >= _LEAST_UNFILLED
