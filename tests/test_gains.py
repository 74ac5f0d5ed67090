"""Gains against closed forms, against independent quadrature, and against a simulated stack."""

import math
from itertools import pairwise

import keras
import numpy as np
import pytest
from helpers import BACKEND, array
from keras import layers, ops
from scipy import integrate, stats

import keras_winit as winit
from keras_winit.theory.activations import builtin_names
from keras_winit.theory.gains import moments

# The figures of the literature and of the design.
FORWARD = {
    "relu": math.sqrt(2),
    "relu6": math.sqrt(2),
    "leaky_relu": math.sqrt(2 / 1.04),
    "elu": 1.2452,
    "celu": 1.2452,
    "selu": 1.0,
    "gelu": 1.53353,
    "silu": 1.67653,
    "swish": 1.67653,
    "mish": 1.48685,
    "tanh": 1.59254,
    "sigmoid": 1.84623,
    "softplus": 1.04187,
    "log_sigmoid": 1.04187,
    "softsign": 2.33753,
    "hard_tanh": 1.39204,
    "hard_silu": 1.73666,
    "hard_swish": 1.73666,
    "exponential": math.exp(-1),
    "linear": 1.0,
    "glu": 1.84623,
}
BACKWARD = {"elu": 1.2234, "selu": 0.9660, "gelu": 1.4811, "silu": 1.6233, "mish": 1.4448, "tanh": 1.4674}
BACKWARD |= {"sigmoid": 4.7226, "softplus": 1.8462, "relu": math.sqrt(2), "linear": 1.0}

# Where f or f′ breaks, so that the reference integrates piece by piece.
BREAKS = (-3, -2.5, -1, -0.5, 0, 0.5, 1, 2.5, 3, 6)
JOINT = {"softmax", "log_softmax", "sparsemax"}
ELEMENTWISE = [name for name in builtin_names() if name not in {*JOINT, "glu", "threshold"}]


def reference(function, derivative=False):
    """1/√E[f(z)²] by adaptive quadrature with scipy; the derivative by differences."""

    def f(z):
        return float(array(function(ops.convert_to_tensor([[z]], "float32")))[0, 0])

    def integrand(z):
        value = (f(z + 2e-3) - f(z - 2e-3)) / 4e-3 if derivative else f(z)
        return value**2 * stats.norm.pdf(z)

    edges = sorted({-9.0, *BREAKS, 9.0})
    shift = 2e-3 if derivative else 0.0
    total = sum(
        integrate.fixed_quad(np.vectorize(integrand), a + shift, b - shift, n=24)[0]
        for a, b in pairwise(edges)
    )
    # What the shifted edges left out, each of nearly constant height.
    if derivative:
        total += sum(
            2 * shift * (integrand(e - 2 * shift) + integrand(e + 2 * shift)) / 2 for e in edges[1:-1]
        )
    return 1 / math.sqrt(total)


def test_the_activations_are_all_of_keras():
    """A new activation in a later Keras fails here until it has a gain and a recommendation."""
    known = {*FORWARD, *JOINT, "threshold", "hard_sigmoid", "hard_shrink", "soft_shrink", "tanh_shrink"}
    known |= {"squareplus", "sparse_plus", "sparse_sigmoid"}
    assert set(builtin_names()) == known


@pytest.mark.parametrize(("name", "value"), FORWARD.items())
def test_known_gains(name, value):
    assert winit.gain(name) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize(("name", "value"), BACKWARD.items())
def test_known_backward_gains(name, value):
    assert winit.gain(name, "backward") == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_gains_by_independent_quadrature(name):
    function = keras.activations.get(name)
    assert winit.gain(name) == pytest.approx(reference(function), abs=1e-4)
    assert winit.gain(name, "backward") == pytest.approx(reference(function, derivative=True), rel=2e-3)


def test_closed_forms_of_jumps():
    # hard_shrink: E[z²; |z| > ½] = 2·(½·φ(½) + Q(½)); its derivative is 1 there, jumps aside.
    tail = stats.norm.sf(0.5)
    assert winit.gain("hard_shrink") == pytest.approx(1 / math.sqrt(stats.norm.pdf(0.5) + 2 * tail), abs=1e-4)
    assert winit.gain("hard_shrink", "backward") == pytest.approx(1 / math.sqrt(2 * tail), abs=1e-4)

    def step(x):
        return ops.where(x > 0.3, 1.0, 0.0)

    assert winit.gain(step) == pytest.approx(1 / math.sqrt(stats.norm.sf(0.3)), abs=2e-4)
    with pytest.raises(ValueError, match="backward gain .* does not exist"):
        winit.gain(step, "backward")


def test_closed_forms_of_callables():
    assert winit.gain(lambda x: x**2) == pytest.approx(1 / math.sqrt(3), abs=1e-4)
    assert winit.gain(lambda x: x**2, "backward") == pytest.approx(0.5, abs=1e-4)
    assert winit.gain(lambda x: ops.sin(x)) == pytest.approx(math.sqrt(2 / (1 - math.exp(-2))), abs=1e-4)
    if BACKEND != "torch":  # numpy warns about functions of its own on torch's tensors
        assert winit.gain(np.tanh) == pytest.approx(winit.gain("tanh"), abs=1e-6)


def test_glu_takes_both_features():
    # E[a²]·E[σ(b)²], and the mean over a and b of the derivative's second moment.
    sigmoid = moments("sigmoid")
    assert moments("glu").second == pytest.approx(sigmoid.second, abs=1e-6)
    expected = (sigmoid.second + sigmoid.derivative_second) / 2
    assert moments("glu").derivative_second == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("layer", "value"),
    [
        (layers.LeakyReLU(negative_slope=0.5), math.sqrt(2 / 1.25)),
        (layers.PReLU(alpha_initializer=keras.initializers.Constant(0.25)), math.sqrt(2 / 1.0625)),
        (layers.PReLU(), math.sqrt(2)),
        (layers.ReLU(), math.sqrt(2)),
        (layers.ReLU(negative_slope=0.5), math.sqrt(2 / 1.25)),
        (layers.ReLU(max_value=1.0), 1 / math.sqrt(stats.norm.expect(lambda z: np.clip(z, 0, 1) ** 2))),
        (layers.ELU(), 1.2452),
        (layers.Activation("tanh"), 1.59254),
        (layers.Activation(layers.LeakyReLU(negative_slope=0.5)), math.sqrt(2 / 1.25)),
        (layers.Softmax(), 1.0),
        (None, 1.0),
    ],
)
def test_activation_layers(layer, value):
    assert winit.gain(layer) == pytest.approx(value, abs=1e-4)
    if isinstance(layer, layers.PReLU):
        assert not layer.built


def test_a_built_prelu_has_its_slopes():
    layer = layers.PReLU()
    layer.build((None, 4))
    layer.set_weights([np.array([0.0, 0.5, 0.5, 1.0], "float32")])
    assert winit.gain(layer) == pytest.approx(math.sqrt(2 / (1 + 0.375)), abs=1e-4)


def test_a_layer_of_the_users_own():
    class Snake(keras.layers.Layer):
        def call(self, x):
            return x + ops.square(ops.sin(x))

    layer = Snake()
    expected = stats.norm.expect(lambda z: (z + np.sin(z) ** 2) ** 2)
    assert winit.gain(layer) == pytest.approx(1 / math.sqrt(expected), abs=1e-4)
    assert not layer.built


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        ("reul", "no activation named 'reul'. Did you mean \"relu\""),
        ("threshold", "without its two arguments"),
        (layers.Dense(3), "is no activation layer"),
        (3, "An activation is a name"),
        (layers.ReLU, "An activation is a name"),
        (lambda x: x - ops.mean(x, axis=-1, keepdims=True), "does not act on each element"),
        (lambda x: x * 0, "does not exist"),
        (lambda x: x * np.nan, "NaN or infinity|does not act on each element"),
        (lambda x: ops.log(x), "NaN or infinity|does not act on each element"),
    ],
)
def test_what_has_no_gain_says_why(activation, message):
    with pytest.raises((TypeError, ValueError), match=message):
        winit.gain(activation)


def test_a_bad_direction():
    with pytest.raises(ValueError, match="`direction` must be one of"):
        winit.gain("relu", "sideways")


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "sigmoid", "elu", "softsign"])
def test_the_gain_keeps_the_signal_of_a_layer(name):
    """The second moment after a wide layer of the gain, over and over, is what goes in."""
    width, rng = 512, np.random.default_rng(0)
    kernel = winit.VarianceScaling(winit.gain(name) ** 2, seed=1)
    signal = rng.normal(size=(256, width)).astype("float32")
    signal = array(keras.activations.get(name)(signal))
    hidden = array(ops.matmul(signal, kernel((width, width))))
    # f(z) has second moment 1/gain², and a kernel of variance gain²/n brings it back to 1. The
    # error is that of the mean of `width` squared columns, up to the signal's own correlation.
    assert np.mean(hidden**2) == pytest.approx(1, abs=5 * math.sqrt(2 / width))


def test_an_activation_is_evaluated_once_but_for_a_layer_which_may_change():
    calls = []

    def counted(x):
        calls.append(1)
        return ops.relu(x)

    first = winit.gain(counted), len(calls)
    assert (winit.gain(counted), len(calls)) == first
    slope = keras.layers.LeakyReLU(0.1)
    before = winit.gain(slope)
    slope.negative_slope = 0.9
    assert winit.gain(slope) < 0.9 * before


def test_the_gain_of_what_cannot_be_hashed():
    class Twice:
        __hash__ = None

        def __call__(self, x):
            return 2 * x

    assert winit.gain(Twice()) == pytest.approx(0.5)
