"""The choice by activation: what the literature says, for every activation that Keras ships."""

import keras
import pytest
from helpers import array
from keras import layers

import keras_winit as winit
from keras_winit.schemes import scheme_class
from keras_winit.theory.activations import builtin_names
from keras_winit.theory.gains import balanced

HE = [
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "celu",
    "gelu",
    "silu",
    "swish",
    "mish",
    "hard_silu",
    "hard_swish",
]
GLOROT = [
    "sigmoid",
    "hard_sigmoid",
    "tanh",
    "hard_tanh",
    "softsign",
    "linear",
    "softmax",
    "log_softmax",
    "sparsemax",
]
EXACT = (
    "exponential glu hard_shrink log_sigmoid soft_shrink softplus sparse_plus sparse_sigmoid squareplus "
    "tanh_shrink"
)
EXPECTED = {
    **dict.fromkeys(HE, "he_uniform"),
    **dict.fromkeys(GLOROT, "glorot_uniform"),
    **dict.fromkeys(EXACT.split(), "variance_scaling"),
    "selu": "lecun_normal",
}


def test_every_activation_of_keras_has_a_recommendation():
    assert set(EXPECTED) == set(builtin_names()) - {"threshold"}


@pytest.mark.parametrize(("activation", "name"), EXPECTED.items())
def test_the_published_choice(activation, name):
    found = winit.recommend(activation)
    assert found.name == name
    assert found.gain == pytest.approx(winit.gain(activation))
    assert found.reason
    assert found.source
    for other in found.alternatives:
        assert other in winit.names()
    scheme = winit.for_activation(activation, seed=3)
    assert type(scheme) is scheme_class(name)
    assert tuple(scheme((4, 6)).shape) == (4, 6)
    if name == "variance_scaling":
        assert scheme.scale == pytest.approx(balanced(activation).gain ** 2)
    text = str(found)
    for part in (f"winit>{name}", f"{found.gain:.4f}", found.reason, found.source):
        assert part in text


@pytest.mark.parametrize("activation", EXPECTED)
@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_distribution_and_method(activation, distribution):
    published = winit.for_activation(activation, distribution=distribution)
    assert published.distribution == distribution
    exact = winit.for_activation(activation, distribution=distribution, method="exact")
    assert type(exact) is winit.VarianceScaling
    assert exact.distribution == distribution
    assert exact.scale == pytest.approx(winit.gain(activation) ** 2)


def test_slopes_reach_the_scheme():
    assert winit.for_activation("leaky_relu").negative_slope == 0.2
    assert winit.for_activation(layers.LeakyReLU(negative_slope=0.05)).negative_slope == 0.05
    assert winit.for_activation(layers.ReLU(negative_slope=0.1)).negative_slope == pytest.approx(0.1)
    prelu = layers.PReLU(alpha_initializer=keras.initializers.Constant(0.25))
    assert winit.for_activation(prelu).negative_slope == pytest.approx(0.25)
    assert type(winit.for_activation(layers.PReLU())) is winit.HeUniform


def test_none_is_linear():
    assert type(winit.for_activation(None)) is winit.GlorotUniform


def test_callables_get_their_own_gain():
    found = winit.recommend(lambda x: x**2)
    assert found.name == "variance_scaling"
    assert found.arguments["scale"] == pytest.approx(1 / 3, abs=1e-4)


def test_registered_and_serialized_activations():
    @keras.saving.register_keras_serializable("test_choose")
    def double(x):
        return 2 * x

    assert winit.gain("test_choose>double") == pytest.approx(0.5)
    config = keras.saving.serialize_keras_object(double)
    assert winit.recommend(config).activation == "double"


@pytest.mark.parametrize(
    ("layer", "scheme"),
    [
        (layers.Dense(3, activation="relu"), winit.HeUniform),
        (layers.Conv2D(3, 3, activation="tanh"), winit.GlorotUniform),
        (layers.Dense(3, activation="selu"), winit.LecunNormal),
        (layers.Dense(3, activation=layers.LeakyReLU(negative_slope=0.1)), winit.HeUniform),
        (layers.LSTM(3), winit.GlorotUniform),
        (layers.Embedding(3, 4), winit.GlorotUniform),
        (layers.Dense(3, activation="softplus"), winit.VarianceScaling),
        (layers.TimeDistributed(layers.Dense(3, activation="relu")), winit.HeUniform),
    ],
)
def test_for_layer(layer, scheme):
    assert type(winit.for_layer(layer, seed=1)) is scheme


def test_for_layer_in_use():
    layer = layers.Dense(5, activation=layers.LeakyReLU(negative_slope=0.5))
    layer.kernel_initializer = winit.for_layer(layer, distribution="normal", seed=1)
    layer.build((None, 4000))
    assert array(layer.kernel).std() == pytest.approx((2 / 1.25 / 4000) ** 0.5, rel=5 * (1 / 40000) ** 0.5)


@pytest.mark.parametrize(
    ("layer", "shape", "fans"),
    [
        (layers.DepthwiseConv2D(3, activation="relu", strides=2), (8, 8, 32), (9, 9 / 4)),
        (layers.Conv2DTranspose(64, 4, strides=2, activation="relu"), (8, 8, 32), (128, 1024)),
        (layers.TimeDistributed(layers.Dense(7, activation="relu")), (3, 5), (5, 7)),
        (layers.LSTM(5), (3, 4), (4, 5)),
        (layers.Bidirectional(layers.GRU(5)), (3, 4), (4, 5)),
        (layers.SeparableConv2D(7, 3, activation="relu"), (8, 8, 32), None),  # two kernels, two fans
        (layers.Embedding(3, 4), (5,), (1, 4)),
    ],
)
def test_for_layer_has_the_fans_of_a_built_layer(layer, shape, fans):
    layer.build((None, *shape))
    scheme = winit.for_layer(layer)
    assert scheme.fans == (fans if fans is None else pytest.approx(fans))
    assert scheme.name == ("he_uniform" if "relu" in str(layer.get_config()) else "glorot_uniform")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: winit.recommend("reul"), "Did you mean"),
        (lambda: winit.recommend("relu", distribution="gauss"), "`distribution` must be one of"),
        (lambda: winit.recommend("relu", method="guess"), "`method` must be one of"),
        (lambda: winit.for_activation("relu", seed="x"), "`seed` must be"),
        (lambda: winit.for_layer("relu"), "must be a Keras layer"),
        (lambda: winit.recommend(7), "An activation is a name"),
    ],
)
def test_errors(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
