"""Random tensors by the backend's shortest way: uniform, normal and truncated normal.

`keras.random` goes through several small operations first, which for a small weight are most of its
time. On JAX, and on TensorFlow for uniforms and small normals, the numbers are its own for the same
seed. A moving seed, a `SeedGenerator`, still goes through it. What is asked for in bfloat16 is drawn in
float32 and rounded, a large tensor in pieces; schemes ask for float32 or wider, and cast afterwards.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_winit.drawing.seeds import Seed, compute_dtype, drawable
from keras_winit.support.checks import Shape

# The least and the largest scale to draw with, so that no number is infinite, nor all of them zero.
_SCALES = {"float32": (1.2e-38, 1e34), "bfloat16": (1.2e-38, 1e34), "float64": (2.3e-308, 1e304)}

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
    if not isinstance(seed, keras.random.SeedGenerator):
        return _BACKEND[0](shape, limit, dtype, seed)
    return ops.cast(keras.random.uniform(shape, -limit, limit, dtype=compute_dtype(dtype), seed=seed), dtype)


def normal(shape: Shape, stddev: float, dtype: str, seed: Seed) -> Any:
    """N(0, stddev²)."""
    _check_scale(stddev, dtype)
    seed = drawable(seed)
    if not isinstance(seed, keras.random.SeedGenerator):
        return _BACKEND[1](shape, stddev, dtype, seed)
    return ops.cast(keras.random.normal(shape, 0.0, stddev, dtype=compute_dtype(dtype), seed=seed), dtype)


def _tensorflow() -> tuple[Sampler, ...]:
    from keras_winit.drawing import tensorflow_random  # noqa: PLC0415 - the backend in use

    return tensorflow_random.uniform, tensorflow_random.normal, tensorflow_random.truncated_normal


def _jax() -> tuple[Sampler, ...]:
    from keras_winit.drawing import jax_random  # noqa: PLC0415

    return jax_random.uniform, jax_random.normal, jax_random.truncated_normal


def _torch() -> tuple[Sampler, ...]:
    import torch  # noqa: PLC0415

    def empty(shape: Shape, dtype: str, seed: int) -> tuple[Any, Any]:
        # What Keras makes is where the user wants it: a device scope, or the meta device.
        device = keras.ops.zeros(()).device
        tensor = torch.empty(shape, dtype=getattr(torch, compute_dtype(dtype)), device=device)
        generator = None if device.type == "meta" else torch.Generator(device).manual_seed(seed)
        return tensor, generator

    def uniform(shape: Shape, limit: float, dtype: str, seed: int) -> Any:
        tensor, generator = empty(shape, dtype, seed)
        return tensor.uniform_(-limit, limit, generator=generator).to(getattr(torch, dtype))

    def normal(shape: Shape, stddev: float, dtype: str, seed: int) -> Any:
        tensor, generator = empty(shape, dtype, seed)
        return tensor.normal_(0.0, stddev, generator=generator).to(getattr(torch, dtype))

    def truncated_normal(shape: Shape, stddev: float, dtype: str, seed: int) -> Any:
        quantile = uniform(shape, _ERF_SQRT2, compute_dtype(dtype), seed).erfinv_()
        cut = quantile.mul_(math.sqrt(2) * stddev).clamp_(-2 * stddev, 2 * stddev)
        return cut.to(getattr(torch, dtype))

    return uniform, normal, truncated_normal


_MAKERS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
_BACKEND = _MAKERS[keras.backend.backend()]()


# The deviation of a standard normal cut at two deviations: √(1 − 4·φ(2)/(2·Φ(2) − 1)).
TRUNCATED_STD = 0.8796256610342398


def std_after_cut(cut: float) -> float:
    """The deviation of a standard normal cut at so many deviations: √(1 − 2·cut·φ(cut)/(2·Φ(cut) − 1))."""
    density = math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi)
    return math.sqrt(1 - 2 * cut * density / math.erf(cut / math.sqrt(2)))


def truncated_normal(shape: Shape, stddev: float, dtype: str, seed: Seed, cut: float = 2.0) -> Any:
    """A normal cut at two of its deviations, or more, whose own deviation, after the cut, is `stddev`.

    By the inverse of its distribution: nothing is rejected.
    """
    whole = stddev / (TRUNCATED_STD if cut == 2 else std_after_cut(cut))
    _check_scale(whole, dtype)
    seed = drawable(seed)
    if cut == 2 and not isinstance(seed, keras.random.SeedGenerator):
        return _BACKEND[2](shape, whole, dtype, seed)
    quantile = ops.erfinv(uniform(shape, math.erf(cut / math.sqrt(2)), compute_dtype(dtype), seed))
    return ops.cast(ops.clip(quantile * (math.sqrt(2) * whole), -cut * whole, cut * whole), dtype)


DISTRIBUTIONS = {"uniform": uniform, "normal": normal, "truncated_normal": truncated_normal}


def draw(distribution: str, shape: Shape, stddev: float, dtype: str, seed: Seed) -> Any:
    """A tensor of zero mean and the given standard deviation."""
    if distribution == "uniform":
        return uniform(shape, math.sqrt(3) * stddev, dtype, seed)
    return DISTRIBUTIONS[distribution](shape, stddev, dtype, seed)
