"""JAX's own random numbers, a large tensor in pieces.

JAX computes a random tensor's bits in several arrays of its size, and so holds four times the tensor. An
element's bits follow from the key and its index alone, so that pieces can be drawn apart: the same numbers
in a quarter of the memory, and sooner. Inside a traced program nothing is split: there JAX may lay the
tensor over many devices.
"""

import math
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jax.extend.random import threefry2x32_p

from keras_winit.drawing.seeds import compute_dtype
from keras_winit.support.checks import Shape
from keras_winit.support.host import is_traced

_PIECE = 2**18  # elements, which stay in a processor's cache
_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))
_BELOW_TWO = np.nextafter(np.float32(2), np.float32(0))

_FAR = 16  # deviations: no normal of float64 is as far


def uniform(shape: Shape, limit: float, dtype: str, seed: int) -> Any:
    """U(−limit, limit)."""
    if _in_pieces(shape, dtype):
        return _pieces("uniform", shape, dtype, seed, (-limit, limit))
    return jax.random.uniform(_key(seed), shape, compute_dtype(dtype), -limit, limit).astype(dtype)


def normal(shape: Shape, stddev: float, dtype: str, seed: int) -> Any:
    """N(0, stddev²)."""
    if _in_pieces(shape, dtype):
        return _pieces("normal", shape, dtype, seed, (-_BELOW_ONE, 1), scale=stddev)
    number = jax.random.normal(_key(seed), shape, compute_dtype(dtype))
    if is_traced(number):  # a compiler would join the factors √2 and σ, and round another number
        number = jnp.clip(number, -_FAR, _FAR)
    return (number * stddev).astype(dtype)


def truncated_normal(shape: Shape, stddev: float, dtype: str, seed: int) -> Any:
    """N(0, stddev²) cut at two deviations."""
    if _in_pieces(shape, dtype):
        edge = math.erf(math.sqrt(2))
        return _pieces("truncated_normal", shape, dtype, seed, (-edge, edge), scale=stddev)
    number = jax.random.truncated_normal(_key(seed), -2.0, 2.0, shape, compute_dtype(dtype))
    return (number * stddev).astype(dtype)


def _key(seed: int) -> Any:
    return np.array([seed, 0], "uint32")


def _in_pieces(shape: Shape, dtype: str) -> bool:
    return (
        dtype in ("float32", "bfloat16")
        and _PIECE < math.prod(shape) < 2**31  # an index is one word of the counter
        and jax.default_backend() == "cpu"  # elsewhere a whole tensor is computed in place
        and jax.config.jax_threefry_partitionable
        and jax.config.jax_default_prng_impl == "threefry2x32"
        and not isinstance(jnp.zeros(()), jax.core.Tracer)
    )


def _draw_pieces(kind: str, layout: tuple[Shape, str], key: Any, bounds: Any, scale: Any) -> Any:
    (shape, dtype), (low, high) = layout, bounds
    size = math.prod(shape)

    def draw(index: Any, tensor: Any) -> Any:
        start = jnp.minimum(index * _PIECE, size - _PIECE)  # the last piece draws some elements again
        counter = lax.iota(jnp.uint32, _PIECE) + start.astype(jnp.uint32)
        left, right = threefry2x32_p.bind(key[0], key[1], jnp.zeros_like(counter), counter)
        # The upper 23 bits are a float's mantissa: a number in [1, 2).
        number = lax.bitcast_convert_type(((left ^ right) >> 9) | np.uint32(0x3F800000), jnp.float32)
        number = jnp.maximum(low, (number - 1) * (high - low) + low)
        if kind != "uniform":
            number = np.float32(math.sqrt(2)) * lax.erf_inv(number)
        if kind == "truncated_normal":
            number = jnp.clip(number, -_BELOW_TWO, _BELOW_TWO)
        number = number * scale
        if dtype == "bfloat16":
            number = lax.bitcast_convert_type(number.astype(dtype), jnp.uint16)
        return lax.dynamic_update_slice(tensor, number, (start,))

    # For each piece a CPU would widen and round a whole tensor of bfloat16, but not of bits.
    stored = jnp.uint16 if dtype == "bfloat16" else jnp.float32
    return lax.fori_loop(0, -(-size // _PIECE), draw, jnp.empty((size,), stored)).reshape(shape)


_drawn = jax.jit(_draw_pieces, static_argnums=(0, 1))


def _pieces(kind: str, shape: Shape, dtype: str, seed: int, bounds: Any, *, scale: float = 1.0) -> Any:
    tensor = _drawn(kind, (shape, dtype), _key(seed), np.array(bounds, "float32"), scale)
    if dtype == "bfloat16":  # the same memory, read as what it is
        return jax.device_put(np.asarray(tensor).view(jnp.bfloat16), may_alias=True)
    return tensor
