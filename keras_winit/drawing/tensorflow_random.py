"""TensorFlow's own random numbers: a large tensor in a graph, and in bfloat16 in pieces.

An eager operation returns new memory; a graph computes in place. bfloat16 is drawn in float32 and rounded,
which for a whole tensor takes three times its memory. Philox's numbers follow from the key and their index
alone, so that pieces can be drawn apart: the numbers are those of a whole float32 tensor, rounded.

Source: J. Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import tensorflow as tf

from keras_winit.support.checks import Shape

# The elements from which a graph pays, and normals by operations on whole tensors.
LARGE = 2**19
_PIECES_PAY = 2**22
_PIECE = 2**20
_PHILOX, _WORDS = 1, 4  # the algorithm, and how many numbers one step of its counter gives
_ERF_SQRT2 = math.erf(math.sqrt(2))


def _drawn(kind: str, shape: Shape, scale: float, dtype: str, seed: Any) -> Any:
    eager = isinstance(seed, int) and tf.executing_eagerly()
    if dtype == "bfloat16":
        if eager and _halves(shape):
            rows = np.array([math.prod(shape[:-1]), shape[-1]], "int32")
            return tf.reshape(_in_pieces(kind)(rows, tf.constant(scale, "float32"), _key(seed)), shape)
        return tf.cast(_drawn(kind, shape, scale, "float32", seed), dtype)
    if isinstance(seed, int) and math.prod(shape) >= LARGE:
        kind = "large_normal" if kind == "normal" else kind
        if eager:
            return _in_a_graph(kind, dtype)(np.array(shape, "int64"), tf.constant(scale, dtype), _key(seed))
    return _whole(kind, dtype, shape, scale, _key(seed))


uniform, normal, truncated_normal = (
    partial(_drawn, kind) for kind in ("uniform", "normal", "truncated_normal")
)


def _key(seed: Any) -> Any:
    # In a graph for many shapes and seeds, a seed is a tensor.
    return np.array([seed, 0], "int32") if isinstance(seed, int) else tf.stack([seed, 0])


# What numbers in [0, 1) become.
def _spread(numbers: Any, limit: Any) -> Any:
    return numbers * (2 * limit) - limit


def _turned(first: Any, second: Any, stddev: Any) -> tuple[Any, Any]:
    # Box and Muller 1958; TensorFlow's operation goes number by number. 1 − u > 0 has a finite logarithm.
    radius = tf.sqrt(-2 * tf.math.log1p(-first)) * stddev
    angle = second * (2 * math.pi)
    return radius * tf.cos(angle), radius * tf.sin(angle)


def _cut(numbers: Any, stddev: Any) -> Any:
    quantile = tf.math.erfinv(_spread(numbers, tf.constant(_ERF_SQRT2, numbers.dtype)))
    return tf.clip_by_value(quantile * (math.sqrt(2) * stddev), -2 * stddev, 2 * stddev)


_MADE = {"uniform": _spread, "truncated_normal": _cut}


def _pair(kind: str, first: Any, second: Any, scale: Any) -> tuple[Any, Any]:
    """What numbers of two places become; those of a normal are half a tensor apart."""
    if kind == "normal":
        return _turned(first, second, scale)
    return _MADE[kind](first, scale), _MADE[kind](second, scale)


def _whole(kind: str, dtype: str, shape: Any, scale: Any, key: Any) -> Any:
    # The operations themselves: `tf.random` adds a pass over the tensor.
    if kind == "normal":
        return tf.raw_ops.StatelessRandomNormal(shape=shape, seed=key, dtype=dtype) * scale
    numbers = partial(tf.raw_ops.StatelessRandomUniform, seed=key, dtype=dtype)
    if kind == "large_normal":
        count = tf.reduce_prod(tf.cast(shape, "int64"))
        pairs = numbers(shape=[2, (count + 1) // 2])
        return tf.reshape(tf.concat(_turned(pairs[0], pairs[1], scale), 0)[:count], shape)
    return _MADE[kind](numbers(shape=shape), scale)


def as_graph(function: Callable[..., Any], *inputs: tuple[Any, str]) -> Any:
    """The function as a graph for inputs of these shapes and dtypes."""
    signature = [tf.TensorSpec(shape, dtype) for shape, dtype in inputs]
    return tf.function(function, input_signature=signature, autograph=False)


@cache
def _in_a_graph(kind: str, dtype: str) -> Any:
    """Draws any shape."""
    return as_graph(partial(_whole, kind, dtype), ([None], "int64"), ([], dtype), ([2], "int32"))


def _halves(shape: Shape) -> bool:
    """Whether a tensor is large, and has two halves that begin where the counter takes a step."""
    rows, width = math.prod(shape[:-1]), math.prod(shape[-1:])
    return rows * width >= _PIECES_PAY and rows % 2 == 0 and rows // 2 * width % _WORDS == 0


@cache
def _in_pieces(kind: str) -> Any:
    """Fills the upper and the lower half of a matrix, some rows of both at a time."""

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
            pair = _pair(kind, numbers(start, count), numbers(half + start, count), scale)
            for first, values in zip((start, half + start), pair, strict=True):
                places, rounded = tf.range(first, first + count), tf.cast(values, "bfloat16")
                tensor = tf.raw_ops.InplaceUpdate(x=tensor, i=places, v=rounded)
            return start + count, tensor

        empty = tf.raw_ops.Empty(shape=size, dtype="bfloat16")
        return tf.while_loop(lambda start, _: start < half, piece, [0, empty], parallel_iterations=1)[1]

    return as_graph(fill, ([2], "int32"), ([], "float32"), ([2], "int32"))
