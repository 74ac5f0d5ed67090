"""The backend's own uniform and normal tensors, by the shortest way there.

`keras.random` gives the same numbers for the same seed on TensorFlow and JAX, but goes through
several small operations first, which for a small weight are most of its time. A moving seed, a
`SeedGenerator`, still goes through it.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_winit.checks import Shape
from keras_winit.seeds import Seed, drawable

Sampler = Callable[[Shape, float, str, int], Any]


def uniform(shape: Shape, limit: float, dtype: str, seed: Seed) -> Any:
    """U(−limit, limit)."""
    seed = drawable(seed)
    if isinstance(seed, int) and _BACKEND:
        return _BACKEND[0](shape, limit, dtype, seed)
    return keras.random.uniform(shape, -limit, limit, dtype=dtype, seed=seed)


def normal(shape: Shape, stddev: float, dtype: str, seed: Seed) -> Any:
    """N(0, stddev²)."""
    seed = drawable(seed)
    if isinstance(seed, int) and _BACKEND:
        return _BACKEND[1](shape, stddev, dtype, seed)
    return keras.random.normal(shape, 0.0, stddev, dtype=dtype, seed=seed)


def _tensorflow() -> tuple[Sampler, Sampler]:
    import tensorflow as tf  # noqa: PLC0415 - the backend in use

    def uniform(shape: Shape, limit: float, dtype: str, seed: int) -> Any:
        key = np.array([seed, 0], "int32")
        return tf.random.stateless_uniform(shape, key, minval=-limit, maxval=limit, dtype=dtype)

    def normal(shape: Shape, stddev: float, dtype: str, seed: int) -> Any:
        key = np.array([seed, 0], "int32")
        return tf.random.stateless_normal(shape, key, stddev=stddev, dtype=dtype)

    return uniform, normal


def _jax() -> tuple[Sampler, Sampler]:
    import jax  # noqa: PLC0415

    def uniform(shape: Shape, limit: float, dtype: str, seed: int) -> Any:
        key = np.array([seed, 0], "uint32")
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    def normal(shape: Shape, stddev: float, dtype: str, seed: int) -> Any:
        key = np.array([seed, 0], "uint32")
        return jax.random.normal(key, shape, dtype) * stddev

    return uniform, normal


def _torch() -> tuple[Sampler, Sampler]:
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

    return uniform, normal


_MAKERS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
_BACKEND = _MAKERS[keras.backend.backend()]() if keras.backend.backend() in _MAKERS else None
