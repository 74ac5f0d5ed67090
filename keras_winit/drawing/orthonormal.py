"""Random matrices of orthonormal columns or rows: exactly uniform where that costs nothing, else nearly."""

from typing import Any

import keras
from keras import ops

from keras_winit.drawing.haar import haar
from keras_winit.drawing.scrambled import fills, scrambled
from keras_winit.drawing.seeds import Seed, host_key

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
