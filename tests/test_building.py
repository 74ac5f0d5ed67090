"""Schemes that have to know which layer they are drawn for."""

import keras
import numpy as np
import pytest
from helpers import BACKEND, array, since
from keras import layers

import keras_winit as winit

# On PyTorch an older Keras puts the outputs of odd kernels elsewhere.
MOVED = since(3, 15, "PyTorch's transposed convolutions are padded otherwise") if BACKEND == "torch" else ()
CASES = [
    (layers.Conv2DTranspose, 4, 2, "same"),
    (layers.Conv2DTranspose, 4, 2, "valid"),
    pytest.param(layers.Conv2DTranspose, 5, 2, "same", marks=MOVED),
    pytest.param(layers.Conv2DTranspose, 3, 2, "same", marks=MOVED),
    (layers.Conv2DTranspose, 2, 2, "same"),
    (layers.Conv2DTranspose, 7, 3, "same"),
    (layers.Conv1DTranspose, 9, 3, "same"),
    (layers.Conv1DTranspose, 9, 3, "valid"),
    (layers.Conv3DTranspose, 4, 2, "same"),
]
SPATIAL = {layers.Conv1DTranspose: (12,), layers.Conv2DTranspose: (12, 12), layers.Conv3DTranspose: (6, 6, 6)}


def blocks_differ(y, stride):
    """The most that any pixel of a block differs from the block's mean."""
    shape = [y.shape[0]]
    for size in y.shape[1:-1]:
        shape += [size // stride, stride]
    blocks = np.reshape(
        y[(slice(None), *(slice(size // stride * stride) for size in y.shape[1:-1]))], (*shape, -1)
    )
    within = tuple(range(2, len(shape), 2))
    return np.abs(blocks - blocks.mean(within, keepdims=True)).max() / y.std()


@pytest.mark.parametrize("how", ["layer", "initialize"])
@pytest.mark.parametrize(("kind", "size", "stride", "padding"), CASES)
def test_icnr_in_a_transposed_convolution_starts_as_a_nearest_neighbour_resize(
    kind, size, stride, padding, how
):
    scheme = winit.ICNR("lecun_normal", factor=stride, seed=3)
    given = scheme if how == "layer" else "zeros"
    layer = kind(70, size, strides=stride, padding=padding, kernel_initializer=given, name="up")
    model = keras.Sequential([keras.Input((*SPATIAL[kind], 50)), layer])
    if how == "initialize":
        winit.initialize(model, {"up": scheme}, seed=0)
    x = np.random.default_rng(0).normal(size=(4, *SPATIAL[kind], 50)).astype("float32")
    y = array(model(x))
    assert blocks_differ(y, stride) < 1e-4
    inner = y[(slice(None), *(slice(size, -size) for _ in SPATIAL[kind]))] if padding == "valid" else y
    if inner.size > 10_000:
        assert inner.std() == pytest.approx(1.0, rel=0.1)  # the edges of a block of several taps read less
    assert winit.diagnose(model, x).ok


def test_icnr_reloads_in_a_transposed_convolution(tmp_path):
    layer = layers.Conv2DTranspose(3, 4, strides=2, padding="same", kernel_initializer=winit.ICNR(seed=1))
    model = keras.Sequential([keras.Input((5, 5, 2)), layer])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(again.layers[0].kernel), array(layer.kernel))
    assert again.layers[0].kernel_initializer.get_config() == layer.kernel_initializer.get_config()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": 3}, "its strides must be the factor"),
        ({"strides": (2, 1)}, "its strides must be the factor"),
        ({"kernel_size": 1}, "its kernel at least as large"),
        ({"output_padding": 1}, "Leave it None"),
    ],
)
def test_icnr_refuses_a_transposed_convolution_that_it_cannot_smooth(options, message):
    options = {"kernel_size": 4, "strides": 2, "padding": "same", **options}
    with pytest.raises(ValueError, match=message):
        layers.Conv2DTranspose(3, kernel_initializer=winit.ICNR(factor=2), **options).build((None, 6, 6, 2))


@pytest.mark.parametrize(
    ("layer", "gates"),
    [
        (layers.LSTM(4, recurrent_initializer="winit>identity"), 4),
        (layers.GRU(4, kernel_initializer="winit>identity"), 3),
        (layers.ConvLSTM1D(4, 3, recurrent_initializer="winit>identity"), 4),
    ],
    ids=["lstm", "gru", "conv_lstm"],
)
def test_an_identity_of_all_gates_is_refused(layer, gates):
    shape = (None, 5, 6, 4) if "conv" in layer.name else (None, 5, 4)
    with pytest.raises(ValueError, match=rf'PerGate\("identity", gates={gates}\)'):
        layer.build(shape)


def test_an_identity_for_each_gate_is_drawn():
    layer = layers.LSTM(4, recurrent_initializer=winit.PerGate("identity", gates=4))
    layer.build((None, 5, 3))
    np.testing.assert_array_equal(array(layer.cell.recurrent_kernel), np.tile(np.eye(4), 4))
    simple = layers.SimpleRNN(4, recurrent_initializer="winit>identity")
    simple.build((None, 5, 3))
    np.testing.assert_array_equal(array(simple.cell.recurrent_kernel), np.eye(4))
