"""The backend's own uniform and normal tensors, by the shortest way there.

`keras.random` goes through several small operations first, which for a small weight are most of its
time. On JAX, and on TensorFlow for uniforms and small normals, the numbers are the same for the same
seed. A moving seed, a `SeedGenerator`, still goes through `keras.random`.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_winit.drawing.seeds import Seed, drawable
from keras_winit.support.checks import Shape

# The number of elements from which TensorFlow draws in a graph, since every result of an eager
# operation is new memory, and normals by operations on whole tensors.
LARGE = 2**19

# The least and the largest scale to draw with, so that no number is infinite, nor all of them zero.
_SCALES = {"float32": (1.2e-38, 1e34), "float64": (2.3e-308, 1e304)}

_ERF_SQRT2 = math.erf(math.sqrt(2))

Sampler = Callable[[Shape, float, str, int], Any]


def _check_scale(scale: float, dtype: str) -> None:
    least, largest = _SCALES[dtype]
    if not least <= scale <= largest:
        raise ValueError(
            f"Numbers of the scale {scale:g} cannot be drawn in {dtype}: only {least:g} to {largest:g}. "
            f"Received: arguments, or a shape, that ask for a scale of {scale!r}."
        )


def uniform(shape: Shape, limit: float, dtype: str, seed: Seed) -> Any:
    """U(−limit, limit)."""
    _check_scale(limit, dtype)
    seed = drawable(seed)
    if not isinstance(seed, keras.random.SeedGenerator) and _BACKEND:
        return _BACKEND[0](shape, limit, dtype, seed)
    return keras.random.uniform(shape, -limit, limit, dtype=dtype, seed=seed)


def normal(shape: Shape, stddev: float, dtype: str, seed: Seed) -> Any:
    """N(0, stddev²)."""
    _check_scale(stddev, dtype)
    seed = drawable(seed)
    if not isinstance(seed, keras.random.SeedGenerator) and _BACKEND:
        return _BACKEND[1](shape, stddev, dtype, seed)
    return keras.random.normal(shape, 0.0, stddev, dtype=dtype, seed=seed)


def truncated_normal(shape: Shape, stddev: float, dtype: str, seed: Seed) -> Any:
    """N(0, stddev²) cut at two deviations, by the inverse of its distribution: nothing is rejected."""
    _check_scale(stddev, dtype)
    seed = drawable(seed)
    if not isinstance(seed, keras.random.SeedGenerator) and _BACKEND:
        return _BACKEND[2](shape, stddev, dtype, seed)
    quantile = ops.erfinv(uniform(shape, _ERF_SQRT2, dtype, seed))
    return ops.clip(quantile * (math.sqrt(2) * stddev), -2 * stddev, 2 * stddev)


def _tensorflow() -> tuple[Sampler, ...]:
    import tensorflow as tf  # noqa: PLC0415 - the backend in use

    # The operations themselves: `tf.random` adds a pass over the tensor.
    def uniform(shape: Any, limit: Any, dtype: str, seed: Any) -> Any:
        return tf.raw_ops.StatelessRandomUniform(shape=shape, seed=seed, dtype=dtype) * (2 * limit) - limit

    def normal(shape: Any, stddev: Any, dtype: str, seed: Any) -> Any:
        return tf.raw_ops.StatelessRandomNormal(shape=shape, seed=seed, dtype=dtype) * stddev

    def large_normal(shape: Any, stddev: Any, dtype: str, seed: Any) -> Any:
        # Box and Muller 1958 over whole tensors, where TensorFlow's operation goes number by number.
        # 1 − u is in (0, 1], so that its logarithm is finite.
        count = tf.reduce_prod(tf.cast(shape, "int64"))
        pairs = tf.raw_ops.StatelessRandomUniform(shape=[2, (count + 1) // 2], seed=seed, dtype=dtype)
        radius = tf.sqrt(-2 * tf.math.log1p(-pairs[0])) * stddev
        angle = pairs[1] * (2 * math.pi)
        return tf.reshape(tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], 0)[:count], shape)

    def truncated_normal(shape: Any, stddev: Any, dtype: str, seed: Any) -> Any:
        quantile = tf.math.erfinv(uniform(shape, tf.constant(_ERF_SQRT2, dtype), dtype, seed))
        return tf.clip_by_value(quantile * (math.sqrt(2) * stddev), -2 * stddev, 2 * stddev)

    @cache
    def in_a_graph(sampler: Any, dtype: str) -> Any:
        """The sampler for any shape, as a graph: it computes in place what eager code copies."""
        signature = [tf.TensorSpec([None], "int64"), tf.TensorSpec([], dtype), tf.TensorSpec([2], "int32")]
        return tf.function(
            lambda shape, scale, key: sampler(shape, scale, dtype, key),
            input_signature=signature,
            autograph=False,
        )

    def best(sampler: Any, large: Any = None) -> Sampler:
        large = large or sampler

        def sample(shape: Shape, scale: float, dtype: str, seed: int) -> Any:
            if not isinstance(seed, int):  # in a graph that is drawn from for many shapes and seeds
                return sampler(shape, scale, dtype, tf.stack([seed, 0]))
            key = np.array([seed, 0], "int32")
            if math.prod(shape) < LARGE:
                return sampler(shape, scale, dtype, key)
            if not tf.executing_eagerly():
                return large(shape, scale, dtype, key)
            return in_a_graph(large, dtype)(np.array(shape, "int64"), tf.constant(scale, dtype), key)

        return sample

    return best(uniform), best(normal, large_normal), best(truncated_normal)


def _jax() -> tuple[Sampler, ...]:
    from keras_winit.drawing import jax_random  # noqa: PLC0415

    return jax_random.uniform, jax_random.normal, jax_random.truncated_normal


def _torch() -> tuple[Sampler, ...]:
    import torch  # noqa: PLC0415

    def empty(shape: Shape, dtype: str, seed: int) -> tuple[Any, Any]:
        # What Keras makes is where the user wants it: a device scope, or the meta device.
        device = keras.ops.zeros(()).device
        tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
        generator = None if device.type == "meta" else torch.Generator(device).manual_seed(seed)
        return tensor, generator

    def uniform(shape: Shape, limit: float, dtype: str, seed: int) -> Any:
        tensor, generator = empty(shape, dtype, seed)
        return tensor.uniform_(-limit, limit, generator=generator)

    def normal(shape: Shape, stddev: float, dtype: str, seed: int) -> Any:
        tensor, generator = empty(shape, dtype, seed)
        return tensor.normal_(0.0, stddev, generator=generator)

    def truncated_normal(shape: Shape, stddev: float, dtype: str, seed: int) -> Any:
        quantile = uniform(shape, _ERF_SQRT2, dtype, seed).erfinv_()
        return quantile.mul_(math.sqrt(2) * stddev).clamp_(-2 * stddev, 2 * stddev)

    return uniform, normal, truncated_normal


_MAKERS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
_BACKEND = _MAKERS[keras.backend.backend()]() if keras.backend.backend() in _MAKERS else ()
