"""Where units lie in long chains: biases around which twins are most nearly linear, and flat places."""

import keras
import numpy as np
import pytest
from helpers import array
from keras import layers, ops
from mirrored import answers, assert_odd, numbers
from scipy.optimize import brentq
from scipy.special import expit, ndtr

import keras_winit as winit
from keras_winit.models.anatomy.following import NUMBER_STD
from keras_winit.theory.activations import remembered, resolve
from keras_winit.theory.linearity import linear_mean, linear_start, linear_variance


@pytest.mark.parametrize(
    ("activation", "depth", "mean", "variance"),
    [
        *[("elu", 100, -0.8, 4), ("selu", 100, -1.3, 4), ("sigmoid", 100, -1.32, 0.022)],
        *[("gelu", 200, -2.01, 0.0065), ("silu", 190, -3.45, 0.0226), ("mish", 190, -3.28, 0.0212)],
    ],
)
def test_in_long_chains_units_lie_where_twins_are_most_nearly_linear(activation, depth, mean, variance):
    stack = [layers.Dense(64, activation, name=f"hidden_{i}") for i in range(depth)]
    model = keras.Sequential([keras.Input((48,)), *stack, layers.Dense(400, name="output")])
    plan = winit.initialize(model, "looks_linear", seed=0)
    assert {row.scheme for row in plan.rows if row.path.endswith("bias")} == {"looks_linear_bias", "zeros"}
    x = numbers(200, 48)
    # Around a flat place units differ by little beside what all have, and rounding adds up.
    assert_odd(model, x, linear=False, within=1e-4 if variance == 4 else 2e-3)
    signal = ops.convert_to_tensor(x)
    for layer in stack:
        found = array(ops.matmul(signal, layer.kernel))
        np.testing.assert_array_equal(array(layer.bias), np.full(64, mean, "float32"))
        assert abs(found.mean()) < 1e-4  # twins
        assert found.std() == pytest.approx(variance**0.5, rel=0.1)
        signal = layer(signal)
    assert not array(model.layers[-1].bias).any()
    expected = (25 if variance == 4 else 2) / depth
    assert model.layers[-1].kernel_initializer.variance == pytest.approx(expected)
    assert array(model.layers[-1](signal)).var() == pytest.approx(expected, rel=0.15)


EXACT = {
    "gelu": lambda u: u * ndtr(u),
    "silu": lambda u: u * expit(u),
    "mish": lambda u: u * np.tanh(np.log1p(np.exp(u))),
    "sigmoid": expit,
}


def test_flat_places_are_where_the_third_derivative_changes_its_sign():
    """By their closed forms: sigmoid's at ln(2 − √3), GELU's, of (u³ − 4u)·φ(u), at −2; others in float64."""

    def third(f, u, h=1e-3):
        return f(u + 1.5 * h) - 3 * f(u + 0.5 * h) + 3 * f(u - 0.5 * h) - f(u - 1.5 * h)

    assert linear_mean("sigmoid", "flat") == pytest.approx(np.log(2 - 3**0.5), abs=0.01)
    assert linear_mean("gelu", "flat") == pytest.approx(-2, abs=0.02)
    for name in ("silu", "mish"):
        exact = brentq(lambda u, f=EXACT[name]: third(f, u), -5, -2)
        assert linear_mean(name, "flat") == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("activation", ["gelu", "silu", "mish", "sigmoid"])
def test_in_a_flat_place_so_little_is_nonlinear(activation):
    """By Gauss-Hermite quadrature in float64: of the power of twins 3e-9 is not a line."""
    mean, variance, place = linear_start(activation, 300)
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    weights /= weights.sum()
    f, u = EXACT[activation], variance**0.5 * nodes
    read = f(mean + u) - f(mean - u)
    share = 1 - (weights @ (nodes * read)) ** 2 / (weights @ read**2)
    assert place == "flat"
    assert share == pytest.approx(3e-9, rel=0.05)
    assert abs(weights @ (nodes * read)) / (2 * variance**0.5) < 0.25  # the slope


@pytest.mark.parametrize(
    "activation", ["relu", "leaky_relu", "elu", "tanh", "softsign", "softplus", "hard_silu"]
)
def test_others_have_no_flat_place(activation):
    with pytest.raises(ValueError, match=f"{activation} has no flat place"):
        winit.LooksLinearBias(activation, "flat")
    assert linear_start(activation, 300).place != "flat"


def test_a_kink_is_no_flat_place():
    """Of a small ELU the four points that the third derivative is told from reach over the kink at zero."""
    assert linear_start(lambda u: 0.2 * ops.elu(u), 300).place == "wide"


@pytest.mark.parametrize(
    ("activation", "depth", "place"),
    [
        *[("gelu", 170, "zero"), ("gelu", 190, "flat"), ("sigmoid", 60, "zero"), ("sigmoid", 80, "flat")],
        *[("mish", 100, "zero"), ("mish", 190, "flat"), ("hard_sigmoid", 300, "zero"), ("elu", 40, "wide")],
    ],
)
def test_flat_places_are_for_long_chains(activation, depth, place):
    assert linear_start(activation, depth).place == place


def gelus(between=(), depth=190, **options):
    stack = []
    for _ in range(depth):
        stack += [layers.Dense(16, **options), layers.Activation("gelu"), *(make() for make in between)]
    return keras.Sequential([keras.Input((8,)), *stack, layers.Dense(3)])


@pytest.mark.parametrize(
    ("between", "options", "moved"),
    [
        *[((), {}, True), ((lambda: layers.Dropout(0.1),), {}, False)],
        ((lambda: layers.Activation("linear", dtype="bfloat16"),), {}, False),
        ((), {"bias_constraint": "non_neg"}, False),
        ((), {"bias_regularizer": "l2"}, False),
        ((), {"kernel_constraint": "unit_norm"}, False),
        ((), {"kernel_regularizer": "l2"}, True),
    ],
)
def test_units_are_moved_where_they_can_stay(between, options, moved):
    model = gelus(between, **options)
    winit.initialize(model, "looks_linear", seed=0)
    assert biases(model)[:-1] == pytest.approx([-2.01 if moved else 0.0] * 190)


@pytest.mark.parametrize(("policy", "mean"), [("mixed_float16", -2.01), ("mixed_bfloat16", 0.0)])
def test_flat_places_are_not_for_what_is_rounded_to_bfloat16(policy, mean):
    """It has steps of a sixtieth around 2, where units are to differ by a twelfth."""
    policy = keras.DTypePolicy(policy)
    stack = [layers.Dense(64, "gelu", dtype=policy) for _ in range(190)]
    model = keras.Sequential([keras.Input((48,)), *stack, layers.Dense(400, dtype="float32")])
    winit.initialize(model, "looks_linear", seed=0)
    assert array(stack[5].bias)[0] == pytest.approx(mean)
    found = answers(model, numbers(200, 48))
    assert found.var() == pytest.approx((2 if mean else 25) / 190, rel=0.3)


@pytest.mark.parametrize(
    ("activation", "depth", "most"), [("elu", 100, 0.05), ("selu", 100, 0.15), ("sigmoid", 300, 0.01)]
)
def test_a_hundred_such_layers_are_nearly_linear(activation, depth, most):
    """A linear map of the inputs explains the answers; less so without biases."""
    x = numbers(1000, 48)
    inputs = np.hstack([x, np.ones((len(x), 1))])

    def unexplained(use_bias):
        stack = [layers.Dense(64, activation, use_bias=use_bias) for _ in range(depth)]
        model = keras.Sequential([keras.Input((48,)), *stack, layers.Dense(10)])
        winit.initialize(model, "looks_linear", seed=0)
        there = answers(model, x).astype("float64")
        rest = there - inputs @ np.linalg.lstsq(inputs, there, rcond=None)[0]
        return rest.var() / there.var()

    assert unexplained(True) < most < unexplained(False) / 2


def deep(**options):
    stack = [layers.Dense(16, "elu", name=f"hidden_{i}", **options) for i in range(60)]
    return keras.Sequential([keras.Input((8,)), *stack, layers.Dense(3)])


def biases(model):
    return [float(array(layer.bias)[0]) for layer in model.layers if layer.weights]


def test_another_scheme_takes_such_biases_back():
    model = deep()
    winit.initialize(model, "looks_linear", seed=0)
    assert biases(model) == pytest.approx([-0.8] * 60 + [0])
    winit.initialize(model, "looks_linear", seed=1)
    assert biases(model) == pytest.approx([-0.8] * 60 + [0])
    winit.initialize(model, "auto", seed=0)
    assert set(biases(model)) == {0.0}


@pytest.mark.parametrize("scheme", ["auto", "looks_linear", "configured"])
def test_in_a_saved_model_such_biases_stay_with_their_kernels(scheme, tmp_path):
    model = deep()
    winit.initialize(model, "looks_linear", seed=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    plan = winit.initialize(loaded, scheme, seed=1)
    names = {row.path.split("/")[-1]: row.scheme for row in plan.rows if "hidden_5" in row.path}
    assert names == {"kernel": "looks_linear", "bias": "looks_linear_bias"}
    assert biases(loaded) == biases(model)
    winit.initialize(loaded, "auto", seed=1, overwrite=True)
    assert set(biases(loaded)) == {0.0}


@pytest.mark.parametrize("again", [False, True])
def test_a_bias_that_was_asked_for_beside_such_a_kernel_stays(again, tmp_path):
    model = deep(bias_initializer=keras.initializers.Constant(-4.5))
    winit.initialize(model, "looks_linear", seed=0)
    assert biases(model) == [-4.5] * 60 + [0]
    if again:
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    for scheme in ("looks_linear", "auto", "he_normal"):
        winit.initialize(model, scheme, seed=1)
        assert biases(model) == [-4.5] * 60 + [0]


def test_kernels_that_were_asked_for_are_not_moved():
    model = deep(kernel_initializer=winit.LooksLinear("elu"))
    plan = winit.initialize(model, "looks_linear", seed=0)
    assert not any(biases(model))
    assert {row.scheme for row in plan.rows} == {"looks_linear", "zeros"}


def test_units_that_a_kernel_reads_which_was_asked_for_are_not_moved():
    model = deep()
    model.layers[30].kernel_initializer = winit.LooksLinear("elu")
    winit.initialize(model, "looks_linear", seed=0)
    assert [index for index, bias in enumerate(biases(model)[:-1]) if not bias] == [29, 30]
    assert model.layers[30].kernel_initializer.input_mean == 0
    assert model.layers[31].kernel_initializer.input_mean == 0
    assert model.layers[32].kernel_initializer.input_mean == -0.8


def own_activation(u):
    return ops.relu(u)


@pytest.mark.parametrize("activation", [lambda u: ops.relu(u), own_activation])
@pytest.mark.filterwarnings("error:The object being serialized:UserWarning")
def test_activations_that_a_config_cannot_hold(activation):
    """A lambda, and a function that is not registered, are handed on as they are."""
    stack = [layers.Dense(32, activation) for _ in range(3)]
    model = keras.Sequential([keras.Input((8,)), *stack, layers.Dense(5)])
    winit.initialize(model, "looks_linear", seed=0)
    assert_odd(model, numbers(20, 8), linear=True)
    assert stack[1].kernel_initializer.activation is activation
    winit.calibrate(model, numbers(64, 8), scheme="looks_linear", seed=0, progress=False)
    scheme = winit.LooksLinear(activation, seed=3)
    drawn = array(scheme((8, 6)))
    np.testing.assert_array_equal(array(scheme.clone()((8, 6))), drawn)
    np.testing.assert_allclose(array(winit.Scaled(scheme, 0.5)((8, 6))), drawn / 2, rtol=1e-6)


def test_what_is_no_number_far_out_moves_nothing():
    def bad(x):
        return ops.where(x < -1, np.nan, ops.elu(x))

    assert linear_start(bad, 100).mean == 0
    assert linear_start(lambda u: ops.where(ops.abs(u) < 13, ops.gelu(u), np.nan), 300).variance < 0.1
    with pytest.raises(ValueError, match="around any mean"):
        winit.LooksLinearBias(bad)
    assert winit.LooksLinearBias("relu").value == 0


def test_portable_takes_such_biases_for_zeros():
    model = deep()
    winit.initialize(model, "looks_linear", seed=0)
    copy = winit.portable(model)
    assert biases(copy) == biases(model)
    assert isinstance(copy.layers[5].bias_initializer, keras.initializers.Zeros)
    winit.initialize(copy, "auto", seed=0)
    assert not any(biases(copy))


@pytest.mark.parametrize(
    ("inside", "end", "expected"),
    [
        *[("tanh", "tanh", 2 / 5), ("tanh", "linear", 2 / 5), ("softsign", "tanh", 2 / 5)],
        *[("relu", "linear", 1), ("relu", "relu", 1), ("relu", "tanh", 1), ("tanh", "relu", 1)],
        ("linear", "linear", 1),
    ],
)
def test_only_chains_of_odd_curves_start_smaller(inside, end, expected):
    stack = [layers.Dense(64, inside) for _ in range(4)]
    model = keras.Sequential([keras.Input((48,)), *stack, layers.Dense(64, end), layers.Dense(400)])
    winit.initialize(model, "looks_linear", seed=0)
    assert model.layers[-1].kernel_initializer.variance == pytest.approx(expected)
    assert answers(model, numbers(300, 48)).var() == pytest.approx(expected, rel=0.3)


def test_without_a_bias_of_ones_own_nothing_lies_elsewhere():
    def variances(**options):
        stack = [layers.Dense(16, "elu", name=f"hidden_{i}", **options) for i in range(60)]
        model = keras.Sequential([keras.Input((8,)), *stack, layers.Dense(3)])
        winit.initialize(model, "looks_linear", seed=0)
        return [layer.kernel_initializer.input_mean for layer in model.layers[1:-1]]

    assert set(variances()) == {-0.8}
    assert set(variances(use_bias=False)) == {0.0}
    assert set(variances(bias_initializer=keras.initializers.Constant(0.1))) == {0.0}


@pytest.mark.parametrize("activation", ["tanh", "softsign"])
def test_variances_of_odd_curves_fall_along_a_chain(activation):
    stack = [layers.Dense(64, activation) for _ in range(100)]
    model = keras.Sequential([keras.Input((48,)), *stack, layers.Dense(400)])
    winit.initialize(model, "looks_linear", seed=0)
    signal = ops.convert_to_tensor(numbers(1000, 48))
    found = []
    for layer in stack:
        found.append(array(ops.matmul(signal, layer.kernel)).var())
        signal = layer(signal)
    wanted = linear_variance(activation, 25) * 100 ** (-np.arange(100) / 200)
    np.testing.assert_allclose(found, wanted, rtol=0.1)
    assert array(model.layers[-1](signal)).var() == pytest.approx(2 / 100, rel=0.1)


@pytest.mark.parametrize("activation", ["tanh", "elu", "relu"])
def test_calibrate_reaches_the_deviations_that_it_draws_for(activation):
    stack = [layers.Dense(64, activation) for _ in range(60)]
    model = keras.Sequential([keras.Input((48,)), *stack, layers.Dense(400)])
    signal = ops.convert_to_tensor(5 * numbers(256, 48))
    winit.calibrate(model, signal, scheme="looks_linear", seed=0, progress=False)
    for layer in model.layers:
        scheme = layer.kernel_initializer
        drawn = scheme.initializer if isinstance(scheme, winit.Scaled) else scheme
        found = array(ops.matmul(signal, layer.kernel)).std()
        most = NUMBER_STD if layer is model.layers[-1] else np.inf
        assert found == pytest.approx(min(most, drawn.output_std), rel=0.02)
        signal = layer(signal)


class Own(layers.Layer):
    """A dense layer of a user's own, which records no initializer."""

    def __init__(self, activation, **options):
        super().__init__(**options)
        self.activate = activation

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 64), name="w")

    def call(self, x):
        return self.activate(ops.matmul(x, self.w))


def test_calibrate_reaches_them_in_layers_of_ones_own():
    stack = [Own(ops.tanh) for _ in range(20)]
    model = keras.Sequential([keras.Input((48,)), *stack, layers.Dense(10)])
    data = ops.convert_to_tensor(numbers(256, 48))
    winit.calibrate(model, data, scheme="looks_linear", seed=0, progress=False)
    found, signal = [], data
    for layer in stack:
        found.append(array(ops.matmul(signal, layer.w)).std())
        signal = layer(signal)
    wanted = linear_variance("tanh", 5) * 20 ** (-np.arange(20) / 40)
    np.testing.assert_allclose(found, wanted**0.5, rtol=0.02)


def test_calibrate_leaves_units_where_twins_are_read():
    model = deep()
    winit.calibrate(model, numbers(256, 8), scheme="looks_linear", center="bias", seed=0, progress=False)
    means, signal = [], ops.convert_to_tensor(numbers(2000, 8))
    for layer in model.layers[:-1]:
        means.append(array(ops.matmul(signal, layer.kernel) + layer.bias).mean())
        signal = layer(signal)
    np.testing.assert_allclose(means, -0.8, atol=0.1)


class Mine(layers.ELU):
    """An activation layer of a user's own, which may change."""


def test_what_is_known_of_activation_layers_is_found_once():
    known = resolve(layers.ELU(0.7))
    calls = []

    def compute(activation):
        calls.append(activation)
        return len(calls)

    assert remembered(compute, known) == remembered(compute, resolve(layers.ELU(0.7, name="other"))) == 1
    assert remembered(compute, resolve(layers.ELU(0.8))) == 2
    assert remembered(compute, resolve(layers.ReLU(max_value=6, negative_slope=0.1))) == 3
    assert remembered(compute, resolve(layers.ReLU(negative_slope=0.1))) == 4
    assert remembered(compute, resolve(layers.LeakyReLU(0.1))) == 5
    assert remembered(compute, resolve(Mine())) != remembered(compute, resolve(Mine()))
