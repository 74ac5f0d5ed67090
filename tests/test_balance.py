"""A gain for both directions: of signals and of gradients."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_winit as winit
from keras_winit.theory.gains import balanced


def fast(x):
    return ops.sin(30 * x)


def cells(x):
    return ops.sigmoid(20 * x)


def gradients(activation, depth=6, width=200, **options):
    """The deviations of pre-activations, and the size of the gradient at the first against the last."""
    inputs = x = keras.Input((width,))
    for _ in range(depth):
        x = layers.Dense(width, activation)(x)
    model = keras.Model(inputs, layers.Dense(width)(x))
    winit.initialize(model, seed=0, **options)
    found = winit.diagnose(model).layers
    return [layer.std for layer in found], found[0].gradient / found[-2].gradient


@pytest.mark.parametrize("activation", [fast, cells, lambda x: ops.sin(3 * x)])
def test_a_steep_activation_keeps_its_gradient(activation):
    found = balanced(activation)
    assert found.apart
    assert found.variance is not None
    stds, ratio = gradients(activation)
    assert 0.3 < ratio < 3  # 1.2 a layer at most, in power
    assert stds[-2] == pytest.approx(found.variance**0.5, rel=0.5)


def test_by_the_forward_gain_alone_it_explodes():
    forward = winit.for_activation(fast, method="exact")
    assert gradients(fast, scheme=forward)[1] > 1e4


def test_the_gain_is_that_of_the_fixed_point():
    found = balanced(fast)
    z = np.random.default_rng(0).normal(size=2_000_000) * found.variance**0.5
    power, slope = np.mean(np.sin(30 * z) ** 2), np.mean((30 * np.cos(30 * z)) ** 2)
    assert found.gain**2 * power == pytest.approx(found.variance, rel=0.01)
    assert found.gain**2 * slope == pytest.approx(1.2, rel=0.01)


def test_where_nothing_keeps_both_it_is_the_geometric_mean():
    found = balanced("softplus")
    assert found.variance is None
    assert found.gain == pytest.approx((winit.gain("softplus") * winit.gain("softplus", "backward")) ** 0.5)
    assert winit.for_activation("softplus").scale == pytest.approx(found.gain**2)


@pytest.mark.parametrize("activation", ["gelu", "tanh", lambda x: ops.sin(x), lambda x: ops.floor(x)])
def test_where_both_are_near_it_is_the_forward_gain(activation):
    assert balanced(activation).gain == winit.gain(activation)


def test_the_recommendation_says_so():
    found = winit.recommend(fast)
    assert "Signals through fast want a gain of 1.41, gradients 0.0471" in found.reason
    assert winit.recommend(fast, method="exact").arguments["scale"] == pytest.approx(winit.gain(fast) ** 2)


def test_calibrate_gives_a_steep_activation_the_deviation_that_keeps_its_gradient():
    inputs = keras.Input((60,))
    x = layers.Dense(60, fast)(layers.Dense(60, fast)(inputs))
    model = keras.Model(inputs, layers.Dense(4)(x))
    calibration = winit.calibrate(model, seed=0)
    expected = balanced(fast).variance ** 0.5
    assert [row.after for row in calibration.rows[:2]] == pytest.approx([expected] * 2)
    first, second, *_ = winit.diagnose(model).layers
    assert second.std == pytest.approx(expected, rel=0.1)
    assert first.gradient / second.gradient < 2
