"""Seeds: Keras' contract, independent seeds derived from one, and the dtype to draw in.

A seed is None, an integer or a `keras.random.SeedGenerator`. None is drawn once, when a scheme is made: all
its calls return the same tensor. A generator moves on at each draw.
"""

import hashlib
import random
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_winit.support.checks import revived, shown
from keras_winit.support.host import is_traced

Seed: TypeAlias = "int | keras.random.SeedGenerator"

# What every backend takes as it is: TensorFlow casts seeds to int32.
_LIMIT = 2**31 - 2
_WRITTEN = 2000  # bits


def check_seed(seed: Any) -> Any:
    """The seed as it was given, or the generator whose config it is."""
    if isinstance(seed, dict):
        seed = revived(seed)
    if isinstance(seed, np.integer):
        seed = int(seed)
    if isinstance(seed, bool) or not isinstance(seed, (int, keras.random.SeedGenerator, type(None))):
        raise TypeError(
            "`seed` must be None, an integer or a `keras.random.SeedGenerator`. "
            f"Received: seed={shown(seed)} of type {type(seed).__name__}."
        )
    return seed


def settle(seed: Any) -> Seed:
    """The seed to draw with: for None an integer of Python's `random`, which `set_random_seed` governs."""
    return random.randint(1, 10**9) if seed is None else seed


def drawable(seed: Seed) -> Seed:
    """The seed in the range that every backend takes; other integers are hashed into it."""
    if isinstance(seed, int) and not 0 <= seed < _LIMIT:
        return fold(seed, "wide")
    return seed


def host_key(seed: Seed) -> int | None:
    """A seed for NumPy; None where a `SeedGenerator` has no values yet, in a graph."""
    if isinstance(seed, int):
        return int(drawable(seed))
    state = seed.next()
    if is_traced(state):
        return None
    words = [int(word) % 2**32 for word in np.ravel(keras.ops.convert_to_numpy(state))]
    return sum(word << (32 * place) for place, word in enumerate(words))


def fold(seed: Seed, *place: int | str) -> Seed:
    """A seed for one place under another seed; a generator as it is, since each draw moves it on."""
    if not isinstance(seed, int):
        return seed
    # Python refuses to write integers of thousands of decimal digits.
    number = str(seed) if seed.bit_length() < _WRITTEN else hex(seed)
    text = "\x1f".join([number, *(f"{type(part).__name__}:{part}" for part in place)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _LIMIT


def compute_dtype(dtype: str) -> str:
    """At least float32 for real numbers; integers as they are.

    bfloat16's own uniform takes only 128 values, and is biased; many operations lack it.
    """
    return "float32" if dtype != "float64" and keras.backend.is_float_dtype(dtype) else dtype
