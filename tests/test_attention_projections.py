"""Query, key, value and output: fans and draws of their own, whatever one instance their author shared."""

import math

import keras
import numpy as np
import pytest
from helpers import array, std_tolerance
from keras import layers

import keras_winit as winit

WIDTH, LENGTH = 40, 6

LAYERS = {
    "multi-head": lambda **given: layers.MultiHeadAttention(5, 12, 16, **given),
    "grouped": lambda **given: layers.GroupQueryAttention(12, 6, 2, **given),
}
SHARED = {
    "keras, a seed": lambda: keras.initializers.HeNormal(seed=1),
    "ours, a seed": lambda: winit.LecunNormal(seed=1),
    "a generator": lambda: winit.GlorotNormal(seed=keras.random.SeedGenerator(1)),
    "on purpose": lambda: winit.Orthogonal(2.0, seed=1),
    "a plain normal": lambda: keras.initializers.RandomNormal(0.05, seed=1),
}


def attention(kind, shared):
    inputs = keras.Input((LENGTH, WIDTH))
    layer = LAYERS[kind](kernel_initializer=SHARED[shared](), name="attention")
    return keras.Model(inputs, layer(inputs, inputs))


def kernels(model):
    return {v.path.split("/")[-2]: array(v) for v in model.trainable_variables if v.path.endswith("kernel")}


@pytest.mark.parametrize("scheme", ["auto", "configured", "torch", "bert", "t5", "he_normal"])
@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("kind", LAYERS)
def test_no_two_projections_share_their_draws(kind, shared, scheme):
    model = attention(kind, shared)
    plan = winit.initialize(model, scheme, seed=3)
    found = kernels(model)
    assert set(found) == {"query", "key", "value", "attention_output"}
    for name, one in found.items():
        for other in (found[each] for each in found if each < name):
            few = min(one.size, other.size)
            one_flat, other_flat = one.ravel()[:few], other.ravel()[:few]
            assert abs(np.corrcoef(one_flat, other_flat)[0, 1]) < 5.5 / math.sqrt(few)
    seeds = [row.seed for row in plan.rows if row.role == "kernel" and row.seed is not None]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("kind", LAYERS)
def test_each_projection_has_fans_of_its_own(kind, shared):
    model = attention(kind, shared)
    plan = winit.initialize(model, "lecun_normal", seed=3, overwrite=True)
    fans = {row.path.split("/")[-2]: row.fans for row in plan.rows if row.role == "kernel"}
    for name, kernel in kernels(model).items():
        fan_in = math.prod(kernel.shape[:-1]) if name == "attention_output" else WIDTH
        assert fans[name].fan_in == fan_in
        assert fans[name].fan_out == kernel.size / fan_in
        assert kernel.std() == pytest.approx(fan_in**-0.5, rel=std_tolerance("normal", kernel.size))


@pytest.mark.parametrize("kind", LAYERS)
def test_what_was_asked_for_on_purpose_is_orthogonal_in_each(kind):
    model = attention(kind, "on purpose")
    winit.initialize(model, seed=3)
    for name, kernel in kernels(model).items():
        matrix = kernel.reshape(-1, WIDTH) if name == "attention_output" else kernel.reshape(WIDTH, -1)
        short = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
        np.testing.assert_allclose(short, 4 * np.eye(len(short)), atol=1e-4)
