"""A large tensor in bfloat16 is that in float32, rounded, though it is drawn in pieces."""

from importlib import metadata

import keras
import numpy as np
import pytest
from helpers import BACKEND, array
from keras import ops

import keras_winit as winit

SCHEMES = {
    "normal": winit.RandomNormal(stddev=0.02, seed=1),
    "normal around one": winit.RandomNormal(mean=1.0, stddev=0.1, seed=2),
    "uniform": winit.HeUniform(seed=3),
    "uniform on one side": winit.RandomUniform(0.0, 0.1, seed=4),
    "cut at two": winit.TruncatedNormal(stddev=0.02, seed=5),
    "cut at three": winit.TruncatedNormal(stddev=0.02, seed=6, cut=3.0),
}
# The last has an odd number of rows: TensorFlow then draws it whole.
SHAPES = [(30, 20), (2050, 2052), (3, 3, 434, 1076), (2051, 2052)]


# Under JAX 0.5 a number near zero may be off by one place of the range it is drawn from.
NEAR_ZERO = 4e-9 if BACKEND == "jax" and metadata.version("jax").startswith("0.5.") else 1e-9


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SCHEMES)
def test_it_is_the_tensor_in_float32_rounded(name, shape):
    half = array(SCHEMES[name](shape, dtype="bfloat16"))
    rounded = array(ops.cast(SCHEMES[name](shape, dtype="float32"), "bfloat16"))
    assert half.shape == shape
    # Cosines, in pieces or whole, may differ in float32's last place, and then be rounded the other way.
    assert np.mean(half != rounded) < 1e-3
    np.testing.assert_allclose(half, rounded, rtol=2**-7, atol=NEAR_ZERO)


class Half(keras.layers.Layer):
    """Multiplies by one number of its own precision, as rotary embeddings and scaled attention do."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 6), name="w")

    def call(self, x):
        return (x @ self.w) * ops.cast(0.5, self.compute_dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_models_in_half_precision_are_drawn_as_in_float32(dtype):
    def drawn(dtype):
        layers = [keras.layers.Embedding(2000, 10), Half(), keras.layers.Dense(4)]
        for layer in layers:
            layer.dtype_policy = keras.dtype_policies.get(dtype)
        model = keras.Sequential([keras.Input((7,), dtype="int32"), *layers])
        winit.initialize(model, seed=0)
        assert model.weights[0].dtype == dtype
        return [array(ops.cast(weight, "float32")) for weight in model.weights]

    for half, whole in zip(drawn(dtype), drawn("float32"), strict=True):
        assert half.std() == pytest.approx(whole.std(), rel=0.02, abs=1e-9)
    assert len(np.unique(drawn(dtype)[0])) > 300  # Keras' own in bfloat16 has 128 different numbers


OWN = {
    "uniform": keras.initializers.RandomUniform(-0.1, 0.1),
    "uniform on one side": keras.initializers.RandomUniform(0.1, 0.3),
    "normal": keras.initializers.RandomNormal(mean=0.2, stddev=0.1),
    "cut": keras.initializers.TruncatedNormal(stddev=0.1),
    "by fans": keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal"),
}


@pytest.mark.parametrize("name", OWN)
def test_what_a_layer_asks_for_in_half_precision_has_the_same_moments(name):
    """Of 40,000 numbers: four of their errors, σ/√n of the mean and 1/√(2n) of the deviation."""
    model = keras.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            keras.layers.Embedding(2000, 20, embeddings_initializer=OWN[name], dtype="bfloat16"),
        ]
    )
    winit.initialize(model, seed=0)
    values = array(ops.cast(model.weights[0], "float32"))
    theirs = array(type(OWN[name]).from_config({**OWN[name].get_config(), "seed": 1})((2000, 20), "float32"))
    assert values.mean() == pytest.approx(theirs.mean(), abs=float(4 * theirs.std() / 200 * 2**0.5))
    assert values.std() == pytest.approx(theirs.std(), rel=4 / 80_000**0.5 * 2**0.5)
