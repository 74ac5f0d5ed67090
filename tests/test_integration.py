"""Strings, classes, configs and instances in every Keras layer that takes an initializer."""

import math

import keras
import numpy as np
import pytest
from helpers import BACKEND, array, needs_axes
from keras import layers

import keras_winit as winit
from keras_winit.schemes import scheme_class

I = "winit>he_uniform"  # noqa: E741

# Every kind of layer with an initializer: how it is made, the shape it reads, and its arguments.
LAYERS = {
    "Dense": (lambda k: layers.Dense(5, kernel_initializer=k), (7,)),
    "EinsumDense": (lambda k: layers.EinsumDense("abc,cd->abd", (None, 5), kernel_initializer=k), (3, 7)),
    "Embedding": (lambda k: layers.Embedding(11, 5, embeddings_initializer=k), (4,)),
    "Conv1D": (lambda k: layers.Conv1D(6, 3, kernel_initializer=k), (8, 4)),
    "Conv2D": (lambda k: layers.Conv2D(6, 3, kernel_initializer=k), (8, 8, 4)),
    "Conv3D": (lambda k: layers.Conv3D(6, 2, kernel_initializer=k), (4, 4, 4, 2)),
    "Conv1DTranspose": (lambda k: layers.Conv1DTranspose(6, 3, kernel_initializer=k), (8, 4)),
    "Conv2DTranspose": (lambda k: layers.Conv2DTranspose(6, 3, kernel_initializer=k), (8, 8, 4)),
    "Conv3DTranspose": (lambda k: layers.Conv3DTranspose(6, 2, kernel_initializer=k), (4, 4, 4, 2)),
    "DepthwiseConv1D": (lambda k: layers.DepthwiseConv1D(3, depthwise_initializer=k), (8, 4)),
    "DepthwiseConv2D": (lambda k: layers.DepthwiseConv2D(3, depthwise_initializer=k), (8, 8, 4)),
    "SeparableConv1D": (
        lambda k: layers.SeparableConv1D(6, 3, depthwise_initializer=k, pointwise_initializer=k),
        (8, 4),
    ),
    "SeparableConv2D": (
        lambda k: layers.SeparableConv2D(6, 3, depthwise_initializer=k, pointwise_initializer=k),
        (8, 8, 4),
    ),
    "SimpleRNN": (
        lambda k: layers.SimpleRNN(5, kernel_initializer=k, recurrent_initializer=k),
        (4, 3),
    ),
    "LSTM": (lambda k: layers.LSTM(5, kernel_initializer=k, recurrent_initializer=k), (4, 3)),
    "GRU": (lambda k: layers.GRU(5, kernel_initializer=k, recurrent_initializer=k), (4, 3)),
    "ConvLSTM1D": (lambda k: layers.ConvLSTM1D(5, 3, kernel_initializer=k), (3, 6, 2)),
    "ConvLSTM2D": (lambda k: layers.ConvLSTM2D(5, 3, kernel_initializer=k), (3, 6, 6, 2)),
    "Bidirectional": (lambda k: layers.Bidirectional(layers.LSTM(5, kernel_initializer=k)), (4, 3)),
    "TimeDistributed": (lambda k: layers.TimeDistributed(layers.Dense(5, kernel_initializer=k)), (4, 3)),
    "BatchNormalization": (lambda k: layers.BatchNormalization(gamma_initializer=k), (7,)),
    "LayerNormalization": (lambda k: layers.LayerNormalization(gamma_initializer=k), (7,)),
    "PReLU": (lambda k: layers.PReLU(alpha_initializer=k), (7,)),
}


def built(name, initializer):
    make, shape = LAYERS[name]
    inputs = keras.Input(shape)
    return keras.Model(inputs, make(initializer)(inputs))


def example(model, name):
    shape = (2, *model.input_shape[1:])
    rng = np.random.default_rng(0)
    return rng.integers(0, 11, shape) if name == "Embedding" else rng.normal(size=shape).astype("float32")


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_string_works_in_every_layer(name, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = built(name, I)
        assert np.isfinite(array(model(example(model, name)))).all()
        again = keras.Model.from_config(model.get_config())
        assert again.get_config() == model.get_config()
    finally:
        keras.config.set_dtype_policy(before)


@needs_axes
@pytest.mark.parametrize("attention", ["MultiHeadAttention", "GroupQueryAttention"])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_attention_gets_the_fans_of_its_einsums(attention, policy):
    kwargs = {"kernel_initializer": "winit>lecun_normal", "dtype": policy}
    if attention == "MultiHeadAttention":
        layer = layers.MultiHeadAttention(8, 16, **kwargs)
    else:
        layer = layers.GroupQueryAttention(16, 8, 4, **kwargs)
    data = keras.Input((5, 32))
    model = keras.Model(data, layer(data, data))
    kernels = {w.path.split("/")[-2]: w for w in model.trainable_variables if w.name == "kernel"}
    for part, fan_in in (("query", 32), ("key", 32), ("value", 32), ("attention_output", 8 * 16)):
        kernel = array(kernels[part])
        tolerance = 5 / math.sqrt(2 * kernel.size)
        assert kernel.std() == pytest.approx(1 / math.sqrt(fan_in), rel=tolerance), part
    assert np.isfinite(array(model(np.ones((2, 5, 32), "float32")))).all()


@pytest.mark.parametrize("name", winit.names())
def test_every_scheme_works_in_an_einsum_or_says_why_not(name):
    layer = layers.MultiHeadAttention(2, 6, kernel_initializer=f"winit>{name}", use_bias=False)
    data = keras.Input((5, 8))
    try:
        layer(data, data)
    except ValueError as error:
        assert "Received" in str(error)
        assert name in ("prior_bias", "chrono_bias", "icnr", "per_gate")


@needs_axes
def test_orthogonal_attention_is_orthogonal_as_a_matrix():
    layer = layers.MultiHeadAttention(2, 6, kernel_initializer="winit>orthogonal", use_bias=False)
    layer.build((None, 5, 12), (None, 5, 12))
    query = array(layer.query_dense.kernel).reshape(12, 12)
    np.testing.assert_allclose(query.T @ query, np.eye(12), atol=1e-5)


@pytest.mark.parametrize("name", winit.names())
def test_every_kind_of_identifier_gives_the_scheme(name):
    cls = scheme_class(name)
    spellings = (name, cls.__name__, *cls.aliases)
    identifiers = [f"winit>{spelling}" for spelling in spellings]
    identifiers += [cls, cls(), keras.saving.serialize_keras_object(cls())]
    identifiers += [{"class_name": f"winit>{spelling}", "config": {}} for spelling in spellings]
    for identifier in identifiers:
        scheme = keras.initializers.get(identifier)
        assert type(scheme) is cls
        serialized = keras.saving.serialize_keras_object(scheme)
        assert serialized["registered_name"] == f"winit>{name}"
    for spelling in spellings:
        assert type(winit.get(spelling)) is cls
        assert type(winit.get(f"winit>{spelling}")) is cls


def test_names_are_a_contract():
    # A saved model holds these: a name may join this list, and none may ever leave it.
    assert set(winit.names(aliases=True)) >= set(
        "zeros zero Zeros ones one Ones constant Constant random_uniform uniform RandomUniform random_normal "
        "normal RandomNormal truncated_normal TruncatedNormal fan_in_uniform torch_default FanInUniform "
        "glorot_uniform xavier_uniform GlorotUniform glorot_normal xavier_normal GlorotNormal he_uniform "
        "kaiming_uniform HeUniform he_normal kaiming_normal HeNormal lecun_uniform LecunUniform lecun_normal "
        "LecunNormal variance_scaling VarianceScaling siren Siren orthogonal Orthogonal delta_orthogonal "
        "DeltaOrthogonal identity eye Identity dirac Dirac sparse Sparse bilinear Bilinear scaled Scaled "
        "per_gate PerGate summed Summed icnr ICNR prior_bias PriorBias chrono_bias ChronoBias "
        "looks_linear mirrored LooksLinear looks_linear_bias LooksLinearBias".split()
    )


def test_keras_names_stay_its_own():
    assert type(keras.initializers.get("he_uniform")) is keras.initializers.HeUniform
    assert type(keras.initializers.get("HeUniform")) is keras.initializers.HeUniform


@pytest.mark.skipif(BACKEND == "torch", reason="ours fills in place, in one pass: other numbers")
@pytest.mark.parametrize("name", ["GlorotUniform", "HeUniform", "LecunUniform"])
def test_uniform_schemes_draw_the_numbers_of_keras(name):
    for seed in (0, 7):
        theirs = getattr(keras.initializers, name)(seed=seed)((30, 20))
        np.testing.assert_allclose(array(getattr(winit, name)(seed=seed)((30, 20))), array(theirs), rtol=1e-5)


def test_a_layer_trains():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(16, "relu", kernel_initializer="winit>kaiming_uniform"),
            layers.Dense(1, kernel_initializer="winit>orthogonal", bias_initializer="winit>constant"),
        ]
    )
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    data = rng.normal(size=(256, 4)).astype("float32")
    losses = model.fit(data, data.sum(1), epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
