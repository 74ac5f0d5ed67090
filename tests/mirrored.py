"""Mirrored models, and what tests of them share."""

import numpy as np
import pytest
from helpers import BACKEND, array
from keras import layers, ops

import keras_winit as winit
from keras_winit.theory.linearity import is_odd, linear_variance

# f(u) − f(−u) is exactly linear where this says so.
ACTIVATIONS = {
    **dict.fromkeys(("relu", "leaky_relu", "gelu", "silu", "softplus"), True),
    **dict.fromkeys(("elu", "selu", "mish", "tanh", "softsign", "sigmoid", "hard_sigmoid"), False),
}


# One of each kind on the other backends, where nothing about an activation differs.
each_activation = pytest.mark.parametrize(
    "activation", ACTIVATIONS if BACKEND == "tensorflow" else ["gelu", "tanh", "sigmoid"]
)


RNG = np.random.default_rng(0)


def numbers(*shape):
    return RNG.standard_normal(shape).astype("float32")


def answers(model, x):
    """What a model computes, on PyTorch without what a gradient needs."""
    return array(model(ops.convert_to_tensor(x)))


def dense(activation, widths, **options):
    """Dense layers of these widths, the last one linear, each told what feeds it."""
    scheme = winit.LooksLinear
    stack = [layers.Dense(widths[0], activation, kernel_initializer=scheme(**first(activation), seed=0))]
    for i, width in enumerate(widths[1:-1]):
        stack.append(layers.Dense(width, activation, kernel_initializer=scheme(activation, seed=i + 1)))
    last = "none" if is_odd(activation) else "inputs"
    stack.append(layers.Dense(widths[-1], kernel_initializer=scheme(activation, last, seed=99, **options)))
    return stack


def first(activation):
    return {"mirror": "none" if is_odd(activation) else "outputs", "variance": linear_variance(activation)}


def assert_odd(model, x, *, linear, within=1e-4):
    """The model has no constant and no even part, and no odd one but the first where it is linear."""
    there, back, twice = (answers(model, factor * x) for factor in (1, -1, 2))
    scale = there.std()
    assert scale > 0.01
    np.testing.assert_allclose(back, -there, atol=within * scale)
    if linear:
        np.testing.assert_allclose(twice, 2 * there, atol=within * scale)
