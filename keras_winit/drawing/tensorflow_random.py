"""TensorFlow's own random numbers: a large tensor in a graph, and in bfloat16 in pieces.

Every result of an eager operation is new memory; a graph computes in place. In bfloat16, numbers are computed
in float32 and rounded, which for a whole tensor takes three times its memory. Philox's numbers follow from
the key and their index alone, so that a piece can be drawn without the others and written in its place: the
numbers are those of a whole tensor in float32, rounded.

Source: J. Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf

from keras_winit.support.checks import Shape

# The number of elements from which a graph pays, and normals by operations on whole tensors.
LARGE = 2**19
_PIECES_PAY = 2**22
_PIECE = 2**20
_PHILOX, _WORDS = 1, 4  # the algorithm's number, and how many numbers one step of its counter gives
_ERF_SQRT2 = math.erf(math.sqrt(2))


def uniform(shape: Shape, limit: float, dtype: str, seed: Any) -> Any:
    """U(−limit, limit)."""
    return _drawn("uniform", shape, limit, dtype, seed)


def normal(shape: Shape, stddev: float, dtype: str, seed: Any) -> Any:
    """N(0, stddev²)."""
    return _drawn("normal", shape, stddev, dtype, seed)


def truncated_normal(shape: Shape, stddev: float, dtype: str, seed: Any) -> Any:
    """N(0, stddev²) cut at two deviations."""
    return _drawn("truncated_normal", shape, stddev, dtype, seed)


def _drawn(kind: str, shape: Shape, scale: float, dtype: str, seed: Any) -> Any:
    eager = isinstance(seed, int) and tf.executing_eagerly()
    if dtype == "bfloat16":
        if eager and _halves(shape):
            rows = np.array([math.prod(shape[:-1]), shape[-1]], "int32")
            return tf.reshape(_in_pieces(kind)(rows, tf.constant(scale, "float32"), _key(seed)), shape)
        return tf.cast(_drawn(kind, shape, scale, "float32", seed), dtype)
    if not isinstance(seed, int):  # in a graph that is drawn from for many shapes and seeds
        return _WHOLE[kind](shape, scale, dtype, tf.stack([seed, 0]))
    if math.prod(shape) < LARGE:
        return _WHOLE[kind](shape, scale, dtype, _key(seed))
    kind = "large_normal" if kind == "normal" else kind
    if not eager:
        return _WHOLE[kind](shape, scale, dtype, _key(seed))
    return _in_a_graph(kind, dtype)(np.array(shape, "int64"), tf.constant(scale, dtype), _key(seed))


def _key(seed: int) -> Any:
    return np.array([seed, 0], "int32")


# What becomes of numbers in [0, 1).
def _spread(numbers: Any, limit: Any) -> Any:
    return numbers * (2 * limit) - limit


def _turned(first: Any, second: Any, stddev: Any) -> tuple[Any, Any]:
    # Box and Muller 1958, where TensorFlow's operation goes number by number. 1 − u is in (0, 1], so that its
    # logarithm is finite.
    radius = tf.sqrt(-2 * tf.math.log1p(-first)) * stddev
    angle = second * (2 * math.pi)
    return radius * tf.cos(angle), radius * tf.sin(angle)


def _cut(numbers: Any, stddev: Any) -> Any:
    quantile = tf.math.erfinv(_spread(numbers, tf.constant(_ERF_SQRT2, numbers.dtype)))
    return tf.clip_by_value(quantile * (math.sqrt(2) * stddev), -2 * stddev, 2 * stddev)


def _numbers(shape: Any, dtype: str, key: Any) -> Any:
    # The operation itself: `tf.random` adds a pass over the tensor.
    return tf.raw_ops.StatelessRandomUniform(shape=shape, seed=key, dtype=dtype)


def _large_normal(shape: Any, stddev: Any, dtype: str, key: Any) -> Any:
    count = tf.reduce_prod(tf.cast(shape, "int64"))
    pairs = _numbers([2, (count + 1) // 2], dtype, key)
    return tf.reshape(tf.concat(_turned(pairs[0], pairs[1], stddev), 0)[:count], shape)


_WHOLE: dict[str, Callable[[Any, Any, str, Any], Any]] = {
    "uniform": lambda shape, limit, dtype, key: _spread(_numbers(shape, dtype, key), limit),
    "normal": lambda shape, stddev, dtype, key: (
        tf.raw_ops.StatelessRandomNormal(shape=shape, seed=key, dtype=dtype) * stddev
    ),
    "large_normal": _large_normal,
    "truncated_normal": lambda shape, stddev, dtype, key: _cut(_numbers(shape, dtype, key), stddev),
}

# The same of the numbers of two places of one tensor; those of a normal are half a tensor apart.
_PAIRS: dict[str, Callable[[Any, Any, Any], tuple[Any, Any]]] = {
    "uniform": lambda first, second, limit: (_spread(first, limit), _spread(second, limit)),
    "normal": _turned,
    "truncated_normal": lambda first, second, stddev: (_cut(first, stddev), _cut(second, stddev)),
}


@cache
def _in_a_graph(kind: str, dtype: str) -> Any:
    """Draws any shape, as a graph."""
    signature = [tf.TensorSpec([None], "int64"), tf.TensorSpec([], dtype), tf.TensorSpec([2], "int32")]
    return tf.function(
        lambda shape, scale, key: _WHOLE[kind](shape, scale, dtype, key),
        input_signature=signature,
        autograph=False,
    )


def _halves(shape: Shape) -> bool:
    """Whether a tensor is large, and has two halves that begin where the counter takes a step."""
    rows, width = math.prod(shape[:-1]), math.prod(shape[-1:])
    return rows * width >= _PIECES_PAY and rows % 2 == 0 and rows // 2 * width % _WORDS == 0


@cache
def _in_pieces(kind: str) -> Any:
    """Fills the upper and the lower half of a matrix together, some rows of each at a time."""

    def fill(size: Any, scale: Any, seed: Any) -> Any:
        rows, width = size[0], size[1]
        half, step = rows // 2, _WORDS * tf.maximum(1, _PIECE // (_WORDS * width))
        key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)

        def numbers(row: Any, count: Any) -> Any:
            place = tf.cast(row, "int64") * tf.cast(width, "int64") // _WORDS
            moved = tf.tensor_scatter_nd_add(counter, [[0]], [tf.cast(place, "uint64")])
            return tf.raw_ops.StatelessRandomUniformV2(
                shape=[count, width], key=key, counter=moved, alg=_PHILOX, dtype="float32"
            )

        def piece(start: Any, tensor: Any) -> Any:
            count = tf.minimum(step, half - start)
            pair = _PAIRS[kind](numbers(start, count), numbers(half + start, count), scale)
            for first, values in zip((start, half + start), pair, strict=True):
                places, rounded = tf.range(first, first + count), tf.cast(values, "bfloat16")
                tensor = tf.raw_ops.InplaceUpdate(x=tensor, i=places, v=rounded)
            return start + count, tensor

        empty = tf.raw_ops.Empty(shape=size, dtype="bfloat16")
        return tf.while_loop(lambda start, _: start < half, piece, [0, empty], parallel_iterations=1)[1]

    signature = [tf.TensorSpec([2], "int32"), tf.TensorSpec([], "float32"), tf.TensorSpec([2], "int32")]
    return tf.function(fill, input_signature=signature, autograph=False)
