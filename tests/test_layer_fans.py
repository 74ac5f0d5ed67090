"""The fans of every layer, by formulas written out here and by the variance that comes out."""

import inspect

import keras
import numpy as np
import pytest
from helpers import BACKEND, array
from keras import layers, ops

import keras_winit as winit

# A layer with weights, its input shape, and for each variable the fans by the formula.
K2, G, S = (3, 5), 4, 6
RECURRENT_FANS = {"kernel": (3, 5), "recurrent_kernel": (5, 5), "bias": (3, 5)}
TABLE = {
    "Dense": (layers.Dense(7), (5,), {"kernel": (5, 7), "bias": (5, 7)}),
    "EinsumDense": (
        layers.EinsumDense("abc,cde->abde", (None, 4, 6), bias_axes="de"),
        (3, 8),
        {"kernel": (8, 24), "bias": (8, 24)},
    ),
    "Embedding": (layers.Embedding(11, 5), (3,), {"embeddings": (1, 5)}),
    "Conv1D": (layers.Conv1D(8, 3, groups=2), (9, 6), {"kernel": (9, 12), "bias": (9, 12)}),
    "Conv2D": (
        layers.Conv2D(8, K2, groups=G, strides=(2, 3)),
        (9, 9, 12),
        {"kernel": (15 * 12 / G, 15 * 8 / (G * S)), "bias": (45, 5)},
    ),
    "Conv3D": (layers.Conv3D(8, 2, dilation_rate=2), (5, 5, 5, 3), {"kernel": (24, 64), "bias": (24, 64)}),
    "Conv1DTranspose": (layers.Conv1DTranspose(8, 4, strides=2), (9, 6), {"kernel": (12, 32)}),
    "Conv2DTranspose": (
        layers.Conv2DTranspose(64, 4, strides=2),
        (5, 5, 32),
        {"kernel": (16 * 32 / 4, 16 * 64), "bias": (128, 1024)},
    ),
    "Conv3DTranspose": (layers.Conv3DTranspose(8, 2), (4, 4, 4, 3), {"kernel": (24, 64)}),
    "DepthwiseConv1D": (
        layers.DepthwiseConv1D(3, depth_multiplier=2, strides=2),
        (9, 6),
        {"kernel": (3, 3), "bias": (3, 3)},
    ),
    "DepthwiseConv2D": (layers.DepthwiseConv2D(3), (8, 8, 32), {"kernel": (9, 9), "bias": (9, 9)}),
    "SeparableConv1D": (
        layers.SeparableConv1D(7, 3, depth_multiplier=2, strides=2),
        (9, 6),
        {"depthwise_kernel": (3, 3), "pointwise_kernel": (12, 7), "bias": (12, 7)},
    ),
    "SeparableConv2D": (
        layers.SeparableConv2D(7, 3, depth_multiplier=2),
        (9, 9, 6),
        {"depthwise_kernel": (9, 18), "pointwise_kernel": (12, 7), "bias": (12, 7)},
    ),
    "SimpleRNN": (
        layers.SimpleRNN(5),
        (4, 3),
        {"kernel": (3, 5), "recurrent_kernel": (5, 5), "bias": (3, 5)},
    ),
    "LSTM": (layers.LSTM(5), (4, 3), {"kernel": (3, 5), "recurrent_kernel": (5, 5), "bias": (3, 5)}),
    "GRU": (layers.GRU(5), (4, 3), {"kernel": (3, 5), "recurrent_kernel": (5, 5), "bias": (3, 5)}),
    "SimpleRNNCell": (layers.SimpleRNNCell(5), (3,), {"kernel": (3, 5), "recurrent_kernel": (5, 5)}),
    "LSTMCell": (layers.LSTMCell(5), (3,), {"kernel": (3, 5), "recurrent_kernel": (5, 5)}),
    "GRUCell": (layers.GRUCell(5), (3,), {"kernel": (3, 5), "recurrent_kernel": (5, 5)}),
    "StackedRNNCells": (
        layers.StackedRNNCells([layers.LSTMCell(5, name="one"), layers.GRUCell(4, name="two")]),
        (3,),
        {"one/kernel": (3, 5), "two/kernel": (5, 4)},
    ),
    "RNN": (layers.RNN(layers.GRUCell(5)), (4, 3), {"kernel": (3, 5), "recurrent_kernel": (5, 5)}),
    "ConvLSTM1D": (layers.ConvLSTM1D(5, 3), (4, 8, 2), {"kernel": (6, 15), "recurrent_kernel": (15, 15)}),
    "ConvLSTM2D": (layers.ConvLSTM2D(5, 3), (4, 8, 8, 2), {"kernel": (18, 45), "recurrent_kernel": (45, 45)}),
    "ConvLSTM3D": (
        layers.ConvLSTM3D(5, 2),
        (3, 4, 4, 4, 2),
        {"kernel": (16, 40), "recurrent_kernel": (40, 40)},
    ),
    "Bidirectional": (
        layers.Bidirectional(layers.LSTM(5, name="half")),
        (4, 3),
        {"forward_half/lstm_cell/kernel": (3, 5), "backward_half/lstm_cell/recurrent_kernel": (5, 5)},
    ),
    "TimeDistributed": (layers.TimeDistributed(layers.Dense(7)), (4, 5), {"kernel": (5, 7), "bias": (5, 7)}),
    "SpectralNormalization": (
        layers.SpectralNormalization(layers.Conv2D(4, 3)),
        (8, 8, 2),
        {"kernel": (18, 36), "bias": (18, 36)},
    ),
    "MultiHeadAttention": (
        layers.MultiHeadAttention(4, 6, value_dim=3),
        "attention",
        {
            "query/kernel": (10, 24),
            "key/kernel": (10, 24),
            "value/kernel": (10, 12),
            "attention_output/kernel": (12, 10),
            "query/bias": (10, 24),
        },
    ),
    "GroupQueryAttention": (
        layers.GroupQueryAttention(6, 4, 2),
        "attention",
        {"query/kernel": (10, 24), "key/kernel": (10, 12), "attention_output/kernel": (24, 10)},
    ),
}
if hasattr(layers, "ReversibleEmbedding"):  # not in an older Keras
    TABLE["ReversibleEmbedding"] = (
        layers.ReversibleEmbedding(11, 5, tie_weights=False),
        (3,),
        {"embeddings": (1, 5), "reverse_embeddings": (5, 11)},
    )
# Layers with weights none of which is a kernel, an embedding or a recurrent weight.
WITHOUT_KERNEL = {
    "AdditiveAttention",
    "Attention",
    "BatchNormalization",
    "GroupNormalization",
    "LayerNormalization",
    "Normalization",
    "PReLU",
    "RMSNormalization",
    "STFTSpectrogram",
}


def built(layer, shape):
    if not layer.built:
        layer.build(*[(None, 3, 10)] * 2 if shape == "attention" else [(2, *shape)])
    return layer


def classes_with_weights():
    """Every class of keras.layers whose own code, or its bases', makes a weight or wraps a layer."""
    for name, cls in vars(layers).items():
        if not (inspect.isclass(cls) and issubclass(cls, layers.Layer)) or cls is layers.Layer:
            continue
        code = "".join(
            inspect.getsource(base)
            for base in cls.__mro__
            if base.__module__.startswith("keras.src.layers") and base is not layers.Layer
        )
        if "add_weight(" in code or "EinsumDense(" in code or issubclass(cls, (layers.Wrapper, layers.RNN)):
            yield name, cls


def test_the_table_covers_every_layer_of_keras():
    """A new layer with weights in a later Keras fails here until it has a row."""
    aliases = {"Convolution1D", "Convolution2D", "Convolution3D", "Convolution1DTranspose"}
    aliases |= {"Convolution2DTranspose", "Convolution3DTranspose", "DepthwiseConvolution1D"}
    aliases |= {"DepthwiseConvolution2D", "SeparableConvolution1D", "SeparableConvolution2D"}
    abstract = {"Wrapper"}
    found = {name for name, _ in classes_with_weights()} - aliases - abstract
    assert (
        found - set(TABLE) - WITHOUT_KERNEL - {"TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper"}
        == set()
    )


@pytest.mark.parametrize("name", TABLE)
def test_fans_by_formula(name):
    layer, shape, expected = TABLE[name]
    built(layer, shape)
    for variable, fans in expected.items():
        found = winit.layer_fans(layer, variable)
        assert found == pytest.approx(fans), variable
        assert not found.note


@pytest.mark.parametrize("name", TABLE)
def test_every_kernel_has_an_exact_rule(name):
    layer, shape, _ = TABLE[name]
    for variable in built(layer, shape).variables:
        if "kernel" in variable.name or "embeddings" in variable.name:
            assert not winit.layer_fans(layer, variable).note


def test_a_shared_expert_axis_is_neither():
    layer = layers.EinsumDense("abe,beh->abh", (4, 16))
    layer.build((None, 4, 8))
    assert winit.layer_fans(layer) == (8, 16)


def test_users_register_their_own_layer():
    class Own(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(name="kernel", shape=(2, 3, 4))
            self.extra = self.add_weight(name="extra", shape=(3, 4))
            self.built = True

    class Child(Own):
        pass

    layer = Child()
    layer.build(None)
    before = winit.layer_fans(layer)
    assert before == (6, 8)
    assert "no rule for Child" in before.note

    @winit.layer_fans.register(Own)
    def _(layer, variable):
        return winit.Fans(24, 1) if variable.name == "kernel" else None

    assert winit.layer_fans(layer) == (24, 1)
    assert "no rule" in winit.layer_fans(layer, "extra").note


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: winit.layer_fans("dense"), "must be a Keras layer"),
        (lambda: winit.layer_fans(layers.Dense(3)), "is not built"),
        (lambda: winit.layer_fans(built(layers.Dense(3), (4,)), "kernle"), 'Did you mean "kernel"'),
        (
            lambda: winit.layer_fans(built(layers.MultiHeadAttention(2, 3), "attention"), "kernel"),
            "Give more of the path",
        ),
        (
            lambda: winit.layer_fans(built(layers.Dense(3), (4,)), keras.Variable(np.ones(3))),
            "has no such variable",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


# ---- What the layers really do with a standard normal input. ----


def conv_cases(rank, kinds):
    """Every combination of the options that a layer allows, at sizes that average well."""
    for kernel, strides, dilation in ((3, 1, 1), (2, 2, 1), (3, 2, 1), (3, 1, 2)):
        for extra in kinds:
            yield rank, kernel, strides, dilation, extra


CONVOLUTIONS = [
    case
    for rank, groups in ((1, (1, 4)), (2, (1, 4)), (3, (1, 2)))
    for case in conv_cases(rank, [{"groups": g} for g in groups])
]
DEPTHWISE = [case for rank in (1, 2) for case in conv_cases(rank, [{"depth_multiplier": m} for m in (1, 3)])]
TRANSPOSED = [
    (rank, kernel, strides, dilation, {})
    for rank in (1, 2, 3)
    for kernel, strides, dilation in ((3, 1, 1), (4, 2, 1), (3, 2, 1), (2, 3, 1), (3, 1, 2))
    if BACKEND != "tensorflow" or dilation == 1  # TensorFlow has no dilated transposed one on the CPU
]
CHANNELS = {1: (128, 96), 2: (64, 48), 3: (48, 32)}
SPATIAL = {1: 64, 2: 20, 3: 14}


def input_gradient(function, data, upstream):
    """The gradient of sum(function(data)·upstream) with respect to the data."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        data = tf.convert_to_tensor(data)
        with tf.GradientTape() as tape:
            tape.watch(data)
            loss = tf.reduce_sum(function(data) * upstream)
        return array(tape.gradient(loss, data))
    if BACKEND == "jax":
        import jax

        return np.asarray(jax.grad(lambda x: (function(x) * upstream).sum())(data))
    import torch

    data = torch.tensor(data, requires_grad=True)
    (function(data) * torch.tensor(upstream)).sum().backward()
    return data.grad.numpy()


def inner(values, rank, margin, period):
    """What is a margin away from the borders, in whole periods of the strides."""
    if not rank:
        return values
    slices = [slice(margin, margin + (size - 2 * margin) // period * period) for size in values.shape[1:-1]]
    return values[(slice(None), *slices)]


def measure(layer, shape, *, rank=0, margins=(0, 0), periods=(1, 1)):
    """Variances of the output and, with fan_out, of the input's gradient, away from the borders."""
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input(shape[1:]), layer])
    data = rng.normal(size=shape).astype("float32")
    winit.initialize(model, "lecun_normal", seed=1)
    forward = inner(array(model(data)), rank, margins[0], periods[0]).var()
    winit.initialize(model, winit.VarianceScaling(1.0, "fan_out"), seed=1)
    upstream = rng.normal(size=model(data).shape).astype("float32")
    backward = inner(input_gradient(model, data, upstream), rank, margins[1], periods[1]).var()
    return forward, backward


def assert_one(*variances):
    assert variances == pytest.approx([1.0] * len(variances), rel=0.05)


@pytest.mark.parametrize(("rank", "kernel", "strides", "dilation", "extra"), CONVOLUTIONS)
def test_measured_convolutions(rank, kernel, strides, dilation, extra):
    if BACKEND == "tensorflow" and rank == 3 and (extra["groups"] > 1 and dilation > 1):
        pytest.skip("TensorFlow has no dilated grouped 3-D convolution on CPU")
    channels, filters = CHANNELS[rank]
    layer = getattr(layers, f"Conv{rank}D")(
        filters, kernel, strides=strides, dilation_rate=dilation, use_bias=False, **extra
    )
    shape = (8 if rank < 3 else 4, *(SPATIAL[rank],) * rank, channels)
    margins, periods = (0, (kernel - 1) * dilation), (1, strides)
    assert_one(*measure(layer, shape, rank=rank, margins=margins, periods=periods))


@pytest.mark.parametrize(("rank", "kernel", "strides", "dilation", "extra"), DEPTHWISE)
def test_measured_depthwise_convolutions(rank, kernel, strides, dilation, extra):
    layer = getattr(layers, f"DepthwiseConv{rank}D")(
        kernel, strides=strides, dilation_rate=dilation, use_bias=False, **extra
    )
    channels = 6000 if rank == 1 else 2000
    shape = (2, *((32,) if rank == 1 else (14, 14)), channels)
    margins, periods = (0, (kernel - 1) * dilation), (1, strides)
    assert_one(*measure(layer, shape, rank=rank, margins=margins, periods=periods))


@pytest.mark.parametrize(("rank", "kernel", "strides", "dilation", "extra"), TRANSPOSED)
def test_measured_transposed_convolutions(rank, kernel, strides, dilation, extra):
    channels, filters = CHANNELS[rank]
    layer = getattr(layers, f"Conv{rank}DTranspose")(
        filters, kernel, strides=strides, dilation_rate=dilation, use_bias=False, **extra
    )
    shape = (4 if rank < 3 else 2, *({1: 48, 2: 14, 3: 9}[rank],) * rank, channels)
    margins, periods = ((kernel - 1) * dilation, 0), (strides, 1)
    assert_one(*measure(layer, shape, rank=rank, margins=margins, periods=periods))


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("strides", [1, 2])
def test_measured_separable_convolutions(rank, multiplier, strides):
    layer = getattr(layers, f"SeparableConv{rank}D")(
        64, 3, depth_multiplier=multiplier, strides=strides, use_bias=False
    )
    shape = (8, *((40,) if rank == 1 else (14, 14)), 1500)
    assert_one(*measure(layer, shape, rank=rank, margins=(0, 2), periods=(1, strides)))


@pytest.mark.parametrize(
    ("equation", "output_shape", "shape"),
    [
        ("ab,bc->ac", (200,), (64, 300)),
        ("abc,cd->abd", (None, 200), (16, 8, 300)),
        ("abc,cde->abde", (None, 10, 20), (16, 8, 300)),
        ("abcd,cde->abe", (None, 200), (16, 8, 10, 30)),
        ("...x,xy->...y", (200,), (16, 8, 300)),
        ("abe,beh->abh", (6, 80), (64, 6, 120)),
    ],
)
def test_measured_einsums(equation, output_shape, shape):
    assert_one(*measure(layers.EinsumDense(equation, output_shape), shape))


def test_measured_dense_and_time_distributed():
    assert_one(*measure(layers.Dense(200, use_bias=False), (256, 300)))
    assert_one(*measure(layers.TimeDistributed(layers.Dense(200, use_bias=False)), (32, 8, 300)))


def test_measured_embedding():
    model = keras.Sequential([keras.Input((8,)), layers.Embedding(700, 96)])
    winit.initialize(model, "lecun_normal", seed=1)
    tokens = np.random.default_rng(0).integers(0, 700, (200, 8))
    assert_one(array(model(tokens)).var())


RECURRENT = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}


@pytest.mark.parametrize(("name", "gates"), RECURRENT.items())
@pytest.mark.parametrize("both", [False, True])
def test_measured_gates(name, gates, both):
    """What each gate reads of a standard normal input, and of a standard normal state."""
    layer = getattr(layers, name)(120)
    wrapped = layers.Bidirectional(layer) if both else layer
    model = keras.Sequential([keras.Input((3, 160)), wrapped])
    rng = np.random.default_rng(0)
    for scheme in ("lecun_normal", {"recurrent": "lecun_normal", ".*": "lecun_normal"}):
        winit.initialize(model, scheme, seed=1)
        for variable in model.variables:
            if "kernel" in variable.name:
                kernel = array(variable)
                data = rng.normal(size=(500, kernel.shape[0]))
                for gate in np.split(kernel, gates, axis=1):
                    assert_one((data @ gate).var())
    winit.initialize(model, {"kernel": winit.VarianceScaling(1.0, "fan_out")}, seed=1)
    for variable in model.variables:
        if "kernel" in variable.name:
            for gate in np.split(array(variable), gates, axis=1):
                assert_one((rng.normal(size=(500, 120)) @ gate.T).var())


@pytest.mark.parametrize("rank", [1, 2])
def test_measured_convolutional_gates(rank):
    layer = getattr(layers, f"ConvLSTM{rank}D")(40, 3, use_bias=False)
    spatial = (12,) * rank
    model = keras.Sequential([keras.Input((2, *spatial, 60)), layer])
    winit.initialize(model, {"kernel": "lecun_normal"}, seed=1)
    for kernel, channels in ((layer.cell.kernel, 60), (layer.cell.recurrent_kernel, 40)):
        data = np.random.default_rng(0).normal(size=(16, *spatial, channels)).astype("float32")
        for gate in ops.split(ops.convert_to_tensor(kernel), 4, axis=-1):
            assert_one(array(ops.conv(data, gate, data_format="channels_last")).var())


def test_measured_attention_projections():
    data = keras.Input((4, 150))
    model = keras.Model(data, layers.MultiHeadAttention(10, 18, use_bias=False)(data, data))
    winit.initialize(model, "lecun_normal", seed=1)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        kernel = array(variable)
        matrix = kernel.reshape(150, -1) if "output" not in variable.path else kernel.reshape(-1, 150)
        assert_one((rng.normal(size=(500, matrix.shape[0])) @ matrix).var())


def test_keras_own_fans_are_as_wrong_as_the_documentation_says():
    """A control: by the shape, these measurements fail by the factors that the README names."""
    data = np.random.default_rng(0).normal(size=(2, 14, 14, 2000)).astype("float32")
    layer = layers.DepthwiseConv2D(3, use_bias=False, depthwise_initializer=keras.initializers.LecunNormal(1))
    assert array(layer(data)).var() == pytest.approx(1 / 2000, rel=0.1)
    by_string = layers.DepthwiseConv2D(3, use_bias=False, depthwise_initializer="winit>lecun_normal")
    assert array(by_string(data)).var() == pytest.approx(1 / 2000, rel=0.1)
    exact = layers.DepthwiseConv2D(3, use_bias=False, depthwise_initializer=winit.LecunNormal(1, fans=(9, 9)))
    assert array(exact(data)).var() == pytest.approx(1, rel=0.05)
