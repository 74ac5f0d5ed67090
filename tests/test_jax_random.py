"""JAX draws a large tensor in pieces: JAX's own numbers, without JAX's memory."""

import math

import numpy as np
import pytest
from helpers import BACKEND

if BACKEND != "jax":
    pytest.skip("about JAX alone", allow_module_level=True)

import jax

from keras_winit.drawing import jax_random

SAMPLERS = ["uniform", "normal", "truncated_normal"]
# Whole pieces; a last piece that overlaps the one before; the smallest that is split.
SHAPES = [(1024, 2048), (1000, 1111), (1031, 1019), (512, 513)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_numbers_are_those_of_a_whole_draw(name, shape):
    sampler = getattr(jax_random, name)
    in_pieces = np.asarray(sampler(shape, 0.3, "float32", 7))
    whole = np.asarray(jax.jit(lambda: sampler(shape, 0.3, "float32", 7))())  # traced: never split
    key = np.array([7, 0], "uint32")
    theirs = {
        "uniform": lambda: jax.random.uniform(key, shape, "float32", -0.3, 0.3),
        "normal": lambda: jax.random.normal(key, shape) * 0.3,
        "truncated_normal": lambda: jax.random.truncated_normal(key, -2.0, 2.0, shape) * 0.3,
    }[name]()
    # The last digit depends on how a program's multiplications and additions are joined.
    np.testing.assert_allclose(in_pieces, np.asarray(theirs), rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(whole, np.asarray(theirs), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", SAMPLERS)
def test_it_needs_no_more_memory_than_the_tensor(name):
    shape = (1500, 1501)
    key, bounds = np.array([7, 0], "uint32"), np.array([-0.5, 0.5], "float32")
    program = jax_random._drawn.lower(name, (shape, "float32"), key, bounds, 0.3).compile()
    memory = program.memory_analysis()
    assert memory.output_size_in_bytes == 4 * math.prod(shape)
    assert memory.temp_size_in_bytes <= 4 * math.prod(shape) + 32 * jax_random._PIECE
