"""Centring: where `calibrate` moves the units of a layer, and which layers it leaves."""

import keras
import numpy as np
import pytest
from helpers import array
from keras import layers, ops

import keras_winit as winit
from keras_winit.models.anatomy.following import NUMBER_STD
from keras_winit.theory.linearity import linear_place

RNG = np.random.default_rng(0)


def numbers(*shape):
    return RNG.standard_normal(shape).astype("float32")


def stack(activation, depth=20, width=48, **options):
    hidden = [layers.Dense(width, activation, **options) for _ in range(depth)]
    return keras.Sequential([keras.Input((width,)), *hidden, layers.Dense(5)])


def pre_activations(model, x):
    """What each layer of a sequential model puts out before its activation."""
    found, signal = [], ops.convert_to_tensor(x)
    for layer in model.layers:
        if layer.weights:
            activation, layer.activation = layer.activation, keras.activations.linear
            found.append(array(layer(signal)))
            layer.activation = activation
        signal = layer(signal)
    return found


def test_the_most_linear_place():
    for name in ("relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "softplus", "relu6"):
        assert linear_place(name) == 1
    assert linear_place("relu", 0.5) == 0.5
    for name in (None, "tanh", "softsign", "sigmoid", "hard_sigmoid"):
        assert linear_place(name) == 0
    assert linear_place(lambda x: ops.relu(-x)) == -1


@pytest.mark.parametrize(
    ("center", "activation", "place"),
    [
        *(("bias", "relu", 2.0), ("bias", "tanh", 0.0), ("bias", "sigmoid", 0.0)),
        *(("auto", "sigmoid", 0.0), ("auto", "softplus", 2.0)),
    ],
)
def test_each_unit_is_moved_to_its_place(center, activation, place):
    model, x = stack(activation), numbers(200, 48)
    calibration = winit.calibrate(model, x, center=center, target_std=2.0, seed=1)
    *hidden, last = pre_activations(model, x)
    for values in hidden:
        np.testing.assert_allclose(values.mean(axis=0), place, atol=1e-3)
        assert values.std() == pytest.approx(2, rel=1e-3)
    np.testing.assert_allclose(last.mean(axis=0), 0, atol=1e-3)
    assert [row.centre for row in calibration.rows] == [place] * 20 + [0]
    assert "centred at" in str(calibration)


def test_convolutions_are_centred_channel_by_channel():
    model = keras.Sequential(
        [
            *(keras.Input((8, 8, 3)), layers.Conv2D(6, 3), layers.ReLU(), layers.MaxPooling2D()),
            *(layers.Conv2D(4, 3), layers.Activation("gelu"), layers.Flatten(), layers.Dense(3)),
        ]
    )
    x = numbers(50, 8, 8, 3)
    calibration = winit.calibrate(model, x, center="bias", target_std=1.0, seed=1)
    first, second, last = pre_activations(model, x)
    np.testing.assert_allclose(first.mean(axis=(0, 1, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(second.mean(axis=(0, 1, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(last.mean(axis=0), 0, atol=1e-3)
    assert [row.centre for row in calibration.rows] == [1, 1, 0]


@pytest.mark.parametrize("activation", ["sigmoid", "softplus", "hard_sigmoid"])
def test_inputs_stay_apart_at_depth(activation):
    """The share of the last signal's power that differs from sample to sample."""
    x, shares = numbers(100, 48), {}
    for center in ("none", "weights", "bias"):
        model = stack(activation, depth=40)
        winit.calibrate(model, x, center=center, seed=1)
        shares[center] = winit.diagnose(model, x).to_dict()["layers"][-1]["distinct"]
    assert shares["none"] < 0.01
    assert shares["weights"] > 0.1
    assert shares["bias"] > 0.99


@pytest.mark.parametrize(
    ("activation", "share"), [("relu", 0.0), ("sigmoid", 0.92), ("softplus", 0.82), ("tanh", 0.0)]
)
def test_the_share_of_the_mean_weight(activation, share):
    model, x = stack(activation, depth=3), numbers(100, 48)
    winit.initialize(model, "orthogonal", seed=4)
    before = array(model.layers[1].kernel)
    winit.calibrate(model, x, scheme="keep", center="weights")
    after = array(model.layers[1].kernel)
    wanted = before - share * before.mean(axis=0)
    cosine = np.sum(after * wanted) / np.linalg.norm(after) / np.linalg.norm(wanted)
    assert cosine == pytest.approx(1, abs=1e-4)
    assert not array(model.layers[1].bias).any()
    # The first layer reads data, which has no such constant.
    assert array(model.layers[0].kernel).mean() != pytest.approx(0, abs=1e-6)


def residual():
    inputs = keras.Input((12,))
    x = layers.Dense(12, "sigmoid", name="first")(inputs)
    x = layers.Dense(12, "relu", name="relu")(x)
    x = layers.Dense(12, "sigmoid", name="before_add")(x)
    x = layers.Add()([x, layers.Dense(12, "sigmoid", name="branch")(x)])
    x = layers.BatchNormalization()(layers.Dense(12, name="before_norm")(x))
    x = layers.Dense(12, "softplus", use_bias=False, name="no_bias")(layers.ReLU()(x))
    x = layers.Dense(12, "softplus", name="bias_kept")(x)
    return keras.Model(inputs, layers.Dense(4, "softmax", name="output")(x))


def test_auto_centres_chains_of_what_is_mostly_constant():
    model = residual()
    kept = model.get_layer("bias_kept").bias
    kept.trainable = False
    calibration = winit.calibrate(model, numbers(64, 12), target_std=1.0, seed=1)
    found = {row.path.split("/")[-2]: row.centre for row in calibration.rows}
    assert found == {
        "first": 0,
        "relu": None,
        "before_add": None,
        "branch": None,
        "before_norm": None,
        "no_bias": None,
        "bias_kept": None,
        "output": 0,
    }
    assert not array(kept).any()
    everywhere = winit.calibrate(model, numbers(64, 12), center="bias", target_std=1.0, seed=1)
    found = {row.path.split("/")[-2]: row.centre for row in everywhere.rows}
    assert found["relu"] == 1
    assert found["branch"] == found["before_add"] == 0
    assert found["no_bias"] is found["bias_kept"] is None
    assert found["before_norm"] is None  # which centres it itself


def test_a_normalization_across_units_does_not_centre_them():
    inputs = keras.Input((12,))
    x = layers.LayerNormalization()(layers.Dense(12, name="before_norm")(inputs))
    model = keras.Model(inputs, layers.Dense(4, name="output")(layers.Activation("sigmoid")(x)))
    first = winit.calibrate(model, numbers(64, 12), center="bias", target_std=1.0, seed=1).rows[0]
    assert (first.centre, first.normalized, first.after) == (0, False, 1.0)
    assert winit.calibrate(model, numbers(64, 12), center="none", target_std=1.0, seed=1).rows[0].normalized


@pytest.mark.parametrize(
    ("activation", "depth", "place"),
    [("gelu", 19, None), ("gelu", 20, 1), ("silu", 20, 1), ("relu", 20, None), ("elu", 20, None)],
)
def test_auto_centres_in_long_chains_what_makes_gradients_grow(activation, depth, place):
    calibration = winit.calibrate(stack(activation, depth=depth), numbers(64, 48), seed=1)
    assert {row.centre for row in calibration.rows[:-1]} == {place}
    assert calibration.rows[-1].centre == 0  # the answers, in any case


def test_auto_centres_only_what_is_drawn_and_no_twins():
    names = [f"h{index}" for index in range(24)]
    hidden = [layers.Dense(16, "gelu", name=name) for name in names]
    model = keras.Sequential([keras.Input((16,)), *hidden, layers.Dense(3, name="head")])
    calibration = winit.calibrate(model, numbers(32, 16), scheme={"head": "orthogonal"}, seed=1)
    assert {row.centre for row in calibration.rows} == {None, 0}  # the head's are answers
    assert not any(array(layer.bias).any() for layer in hidden)
    winit.calibrate(model, numbers(32, 16), scheme="looks_linear", seed=1)
    again = winit.calibrate(model, numbers(32, 16), scheme="configured", seed=1)  # a factor times twins
    assert {row.centre for row in again.rows if "head" not in row.path} == {None}


@pytest.mark.parametrize("scheme", ["keep", "looks_linear", {"^nothing$": "auto"}])
def test_auto_leaves_what_is_not_drawn_or_needs_no_centring(scheme):
    model, x = stack("softplus", depth=4), numbers(64, 48)
    calibration = winit.calibrate(model, x, scheme=scheme, seed=1)
    assert not any(array(layer.bias).any() for layer in model.layers[:-1])
    hidden = [row for row in calibration.rows if row.path != model.layers[-1].kernel.path]
    assert all(row.centre is None for row in hidden)
    # What a mapping does not name is left as it is.
    assert len(calibration.calibrated) == (0 if isinstance(scheme, dict) else 5)


class Own(keras.Model):
    """A model whose call goes by numbers, so that nobody can trace it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(9, "gelu"), layers.Dense(4)

    def call(self, inputs):
        assert float(ops.sum(inputs)) != 0
        return self.second(self.first(inputs))


def test_a_model_that_does_not_tell_its_connections():
    model, x = Own(), numbers(64, 6)
    model(x)
    assert all(row.centre is None for row in winit.calibrate(model, x, target_std=1.0, seed=1).rows)
    before = array(model.first.kernel)
    with pytest.raises(ValueError, match="What feeds each layer of .* is not seen"):
        winit.calibrate(model, x, center="weights", target_std=1.0, seed=2)
    np.testing.assert_array_equal(array(model.first.kernel), before)
    # By biases, what each layer says of its own activation is enough.
    assert [row.centre for row in winit.calibrate(model, x, center="bias", target_std=1.0, seed=1).rows] == [
        1,
        0,
    ]


def test_what_cannot_be_scaled_is_not_moved():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, "relu"), layers.Dense(3)])
    calibration = winit.calibrate(model, np.zeros((20, 6), "float32"), seed=1)
    assert calibration.rows[0].reason == "its output has no variance"
    assert not any(array(layer.bias).any() for layer in model.layers)


def test_biases_are_taken_back_where_anything_fails(monkeypatch):
    model, x = stack("relu", depth=3), numbers(64, 48)
    for layer in model.layers:
        layer.bias.assign(numbers(*layer.bias.shape))
    before = [array(weight) for weight in model.weights]

    def fails(*_, **__):
        raise RuntimeError("on the way")

    monkeypatch.setattr(model.layers[-1], "call", fails)
    with pytest.raises(ValueError, match="on the way"):
        winit.calibrate(model, x, center="bias", seed=1)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value)


def test_a_bias_that_is_there_counts():
    """With "keep" and "bias" the old bias is part of what is measured, and of what is moved."""
    model, x = stack("tanh", depth=2), numbers(200, 48)
    for layer in model.layers:
        layer.bias.assign(3 * numbers(*layer.bias.shape))
    winit.calibrate(model, x, target_std=1.0, scheme="keep", center="bias")
    *hidden, answers = pre_activations(model, x)
    for values in (*hidden, answers):
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=2e-3)
    assert all(values.std() == pytest.approx(1, rel=2e-3) for values in hidden)
    assert answers.std() == pytest.approx(NUMBER_STD, rel=0.05)


@pytest.mark.parametrize("center", ["centre", None, 3, True])
def test_a_bad_center(center):
    with pytest.raises((TypeError, ValueError), match="`center` must be one of .*Received"):
        winit.calibrate(stack("relu", depth=1), numbers(8, 48), center=center)
