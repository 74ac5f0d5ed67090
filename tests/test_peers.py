"""The comparison with peers, every cell that can be seen here."""

import inspect
import json
import statistics

import keras
import numpy as np
import pytest
from benchmark_page import RESULTS
from helpers import BACKEND, array
from keras import layers
from peers import COMPARISON, PEERS, cell

import keras_winit as winit


def fan_in(initializer, layer, channels):
    """The fan_in that a variance of 1/fan_in betrays."""
    name = "depthwise_initializer" if isinstance(layer, layers.DepthwiseConv2D) else "kernel_initializer"
    setattr(layer, name, initializer)
    layer.build((None, 12, 12, channels))
    return 1 / array(layer.kernel).var()


def test_every_row_has_a_cell_for_each_peer():
    assert all(len(cells) == len(PEERS) for cells in COMPARISON.values())


def test_this_package():
    assert cell("initializers", "keras_winit") == str(len(winit.names()))
    assert cell("orthogonal in bfloat16", "keras_winit") == "yes"
    assert winit.Orthogonal()((4, 4), dtype="bfloat16").shape == (4, 4)
    for layer, exact in ((layers.DepthwiseConv2D(9), 81), (layers.Conv2DTranspose(64, 4, strides=2), 128)):
        layer.build((None, 12, 12, 32))
        assert winit.layer_fans(layer, layer.kernel).fan_in == exact


def test_keras():
    kinds = {item for item in vars(keras.initializers).values() if inspect.isclass(item)}
    assert cell("initializers", "Keras") == str(len(kinds - {keras.initializers.Initializer}))
    lecun = keras.initializers.LecunNormal(seed=0)
    assert fan_in(lecun, layers.DepthwiseConv2D(9), 64) == pytest.approx(64 * 81, rel=0.1)
    assert fan_in(lecun, layers.Conv2DTranspose(64, 4, strides=2), 32) == pytest.approx(64 * 16, rel=0.1)
    attention = layers.MultiHeadAttention(2, 4, kernel_initializer=keras.initializers.HeNormal(seed=0))
    attention.build((None, 5, 8), (None, 5, 8))
    query, key = (array(getattr(attention, f"{name}_dense").kernel) for name in ("query", "key"))
    assert (cell("query, key and value differ, given a seed", "Keras") == "no") == np.array_equal(query, key)
    winit.initialize(attention, "he_normal", seed=0)
    query, key = (array(getattr(attention, f"{name}_dense").kernel) for name in ("query", "key"))
    assert not np.array_equal(query, key)


@pytest.mark.skipif(BACKEND == "torch", reason="refuses only after PyTorch's own message")
def test_keras_has_no_orthogonal_bfloat16():
    assert cell("orthogonal in bfloat16", "Keras") == "no"
    with pytest.raises(Exception, match=r"(?i)bfloat16|dtype"):
        keras.initializers.Orthogonal()((4, 4), dtype="bfloat16")


def test_torch():
    torch = pytest.importorskip("torch")
    names = [name for name in vars(torch.nn.init) if name.endswith("_") and not name.startswith("_")]
    assert cell("initializers", "torch.nn.init") == str(len(names))
    depthwise = torch.nn.Conv2d(32, 32, 3, groups=32).weight
    transposed = torch.nn.ConvTranspose2d(32, 64, 4, stride=2).weight
    fans = torch.nn.init._calculate_fan_in_and_fan_out
    assert (fans(depthwise)[0], fans(transposed)[0]) == (9, 64 * 16)
    known = [
        name
        for name in ("relu", "leaky_relu", "selu", "tanh", "sigmoid", "gelu", "silu", "elu", "softplus")
        if _has_gain(torch, name)
    ]
    assert cell("gain of an activation", "torch.nn.init") == f"{len(known)} in a table"
    with pytest.raises(RuntimeError, match="not implemented"):
        torch.nn.init.orthogonal_(torch.empty(4, 4, dtype=torch.bfloat16))


def _has_gain(torch, name):
    try:
        torch.nn.init.calculate_gain(name)
    except ValueError:
        return False
    return True


def test_jax():
    jax = pytest.importorskip("jax")
    found = vars(jax.nn.initializers)
    names = [name for name in found if not name.startswith("_") and name != "Initializer"]
    aliases = [name for name in names if name.startswith(("kaiming", "xavier"))]
    assert cell("initializers", "jax.nn") == str(len(names) - len(aliases))
    with pytest.raises(Exception, match="bfloat16"):
        jax.nn.initializers.orthogonal()(jax.random.key(0), (4, 4), "bfloat16")


@pytest.mark.parametrize(
    ("peer", "method"), [("keras_winit", "looks_linear"), ("Keras", "Keras' default"), ("LSUV", "LSUV")]
)
def test_what_trains_at_40_layers(peer, method):
    cells = json.loads((RESULTS / "trainability_dense.json").read_text("utf-8"))["cells"]
    solved = [
        statistics.median(scores[method]) >= 0.9 for key, scores in cells.items() if key.endswith(" 40")
    ]
    assert len(solved) == 12
    assert cell("trains 40 plain layers, of 12 activations", peer) == str(sum(solved))
