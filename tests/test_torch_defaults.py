"""`initialize(model, "torch")` against PyTorch itself: deviation and bounds of every tensor."""

import keras
import numpy as np
import pytest
from helpers import array
from keras import layers

import keras_winit as winit

torch = pytest.importorskip("torch", reason="PyTorch is what this compares with")
nn = torch.nn

A, B, H = 90, 70, 64


def flat(*tensors):
    return np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors])


def module_draws(make, pick, repeats=6):
    """Many draws of a module's tensor, so that its deviation and bounds are known well."""
    return np.concatenate([pick(make()) for _ in range(repeats)])


def in_proj(m):
    return flat(m.in_proj_weight)


RECURRENT = {"LSTM": layers.LSTM, "GRU": layers.GRU, "SimpleRNN": layers.SimpleRNN}
CASES = {
    "dense": (
        lambda: layers.Dense(B),
        (A,),
        lambda: nn.Linear(A, B),
        {"kernel": lambda m: flat(m.weight), "bias": lambda m: flat(m.bias)},
    ),
    "conv": (
        lambda: layers.Conv2D(60, 3, groups=2, strides=2),
        (9, 9, 40),
        lambda: nn.Conv2d(40, 60, 3, groups=2, stride=2),
        {"kernel": lambda m: flat(m.weight), "bias": lambda m: flat(m.bias)},
    ),
    "depthwise": (
        lambda: layers.DepthwiseConv2D(3),
        (9, 9, 600),
        lambda: nn.Conv2d(600, 600, 3, groups=600),
        {"kernel": lambda m: flat(m.weight), "bias": lambda m: flat(m.bias)},
    ),
    "transposed": (
        lambda: layers.Conv2DTranspose(30, 4, strides=2),
        (9, 9, 50),
        lambda: nn.ConvTranspose2d(50, 30, 4, stride=2),
        {"kernel": lambda m: flat(m.weight), "bias": lambda m: flat(m.bias)},
    ),
    "embedding": (
        lambda: layers.Embedding(200, 60),
        (4,),
        lambda: nn.Embedding(200, 60),
        {"embeddings": lambda m: flat(m.weight)},
    ),
    "lstm": (
        lambda: layers.LSTM(H),
        (5, A),
        lambda: nn.LSTM(A, H),
        {
            "/kernel": lambda m: flat(m.weight_ih_l0),
            "recurrent_kernel": lambda m: flat(m.weight_hh_l0),
            "bias": lambda m: flat(m.bias_ih_l0) + flat(m.bias_hh_l0),
        },
    ),
    "gru": (
        lambda: layers.GRU(H),
        (5, A),
        lambda: nn.GRU(A, H),
        {
            "/kernel": lambda m: flat(m.weight_ih_l0),
            "recurrent_kernel": lambda m: flat(m.weight_hh_l0),
            "bias": lambda m: flat(m.bias_ih_l0, m.bias_hh_l0),
        },
    ),
    "rnn": (
        lambda: layers.SimpleRNN(H),
        (5, A),
        lambda: nn.RNN(A, H),
        {
            "/kernel": lambda m: flat(m.weight_ih_l0),
            "recurrent_kernel": lambda m: flat(m.weight_hh_l0),
            "bias": lambda m: flat(m.bias_ih_l0) + flat(m.bias_hh_l0),
        },
    ),
    "attention": (
        lambda: layers.MultiHeadAttention(4, 16),
        (5, 64),
        lambda: nn.MultiheadAttention(64, 4),
        {
            "query/kernel": in_proj,
            "key/kernel": in_proj,
            "value/kernel": in_proj,
            "attention_output/kernel": lambda m: flat(m.out_proj.weight),
            "query/bias": lambda m: flat(m.in_proj_bias),
            "attention_output/bias": lambda m: flat(m.out_proj.bias),
        },
    ),
    "batch norm": (
        layers.BatchNormalization,
        (A,),
        lambda: nn.BatchNorm1d(A),
        {
            "gamma": lambda m: flat(m.weight),
            "beta": lambda m: flat(m.bias),
            "moving_mean": lambda m: flat(m.running_mean),
            "moving_variance": lambda m: flat(m.running_var),
        },
    ),
    "layer norm": (
        layers.LayerNormalization,
        (A,),
        lambda: nn.LayerNorm(A),
        {"gamma": lambda m: flat(m.weight), "beta": lambda m: flat(m.bias)},
    ),
    "group norm": (
        lambda: layers.GroupNormalization(2),
        (A,),
        lambda: nn.GroupNorm(2, A),
        {"gamma": lambda m: flat(m.weight), "beta": lambda m: flat(m.bias)},
    ),
    "prelu": (layers.PReLU, (A,), lambda: nn.PReLU(A), {"alpha": lambda m: flat(m.weight)}),
}


@pytest.mark.parametrize("name", CASES)
def test_deviation_and_bounds_of_every_tensor(name):
    make, shape, module, picks = CASES[name]
    torch.manual_seed(0)
    inputs = keras.Input(shape, dtype="int32" if name == "embedding" else None)
    layer = make()
    model = keras.Model(inputs, layer(inputs, inputs) if name == "attention" else layer(inputs))
    repeats = 6
    drawn = {path: [] for path in picks}
    for seed in range(repeats):
        winit.initialize(model, "torch", seed=seed)
        for path in picks:
            found = [v for v in model.variables if v.path.endswith(path)]
            assert len(found) == 1, (path, [v.path for v in model.variables])
            drawn[path].append(array(found[0]).ravel())
    for path, pick in picks.items():
        ours, theirs = np.concatenate(drawn[path]), module_draws(module, pick, repeats)
        if theirs.std() == 0:
            np.testing.assert_array_equal(ours, theirs[0])
            continue
        count = min(ours.size, theirs.size)
        # Five standard errors of the ratio of two deviations, for a kurtosis of up to 3.
        assert ours.std() == pytest.approx(theirs.std(), rel=5 * np.sqrt(2 * 2 / (4 * count))), path
        if name != "embedding":
            bound = np.abs(theirs).max()
            # A sum of two uniforms comes near its bound only with the root of the count.
            near = 4 / np.sqrt(count) if "bias" in path and name in ("lstm", "rnn") else 20 / count
            assert np.abs(ours).max() == pytest.approx(bound, rel=near), path


def test_the_record_has_no_forced_forget_gate():
    model = keras.Sequential([keras.Input((4, 3)), layers.LSTM(5)])
    winit.initialize(model, "torch", seed=0)
    assert model.layers[0].unit_forget_bias is False
    bias = array(model.layers[0].cell.bias)
    np.testing.assert_array_equal(bias, array(model.layers[0].cell.bias_initializer((20,))))
