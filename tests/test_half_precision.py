"""A large tensor in bfloat16 is that in float32, rounded, though it is drawn in pieces."""

import numpy as np
import pytest
from helpers import array
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


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SCHEMES)
def test_it_is_the_tensor_in_float32_rounded(name, shape):
    half = array(SCHEMES[name](shape, dtype="bfloat16"))
    rounded = array(ops.cast(SCHEMES[name](shape, dtype="float32"), "bfloat16"))
    assert half.shape == shape
    # Cosines, in pieces or whole, may differ in float32's last place, and then be rounded the other way.
    assert np.mean(half != rounded) < 1e-3
    np.testing.assert_allclose(half, rounded, rtol=2**-7, atol=1e-9)
