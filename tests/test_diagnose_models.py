"""diagnose on models as users have them: whatever they take, hold and put out."""

import re

import keras
import numpy as np
import pytest
from helpers import BACKEND, array, since
from keras import layers, ops

import keras_winit as winit


def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def regularized():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4, kernel_regularizer="l2"), layers.Dense(1)])
    model.compile("adam", "mse")
    return model, numbers(32, 8), numbers(32, 1)


def by_keyword():
    class Keyword(keras.Model):
        def __init__(self):
            super().__init__()
            self.embed, self.lstm, self.out = layers.Embedding(9, 5), layers.LSTM(6), layers.Dense(2)

        def call(self, x):
            return self.out(inputs=self.lstm(sequences=self.embed(inputs=x)))

    model, tokens = Keyword(), np.random.default_rng(0).integers(0, 9, (16, 4))
    model(tokens)
    return model, tokens, None


def gated():
    class Gated(keras.Model):
        def __init__(self):
            super().__init__()
            self.wide, self.out = layers.Dense(16, activation="glu"), layers.Dense(2)

        def call(self, x):
            return self.out(self.wide(x))

    model = Gated()
    model(numbers(2, 8))
    return model, numbers(32, 8), None


def activation_layers():
    inputs = keras.Input((8,))
    x = layers.Dense(16, activation=layers.PReLU())(inputs)
    x = layers.Dense(16, activation=layers.LeakyReLU())(x)
    return keras.Model(inputs, layers.Dense(2)(x)), numbers(32, 8), None


def never_called():
    class Unused(keras.Model):
        def __init__(self):
            super().__init__()
            self.beside, self.out = layers.SpectralNormalization(layers.Dense(5)), layers.Dense(2)

        def call(self, x):
            return self.out(x)

    model = Unused()
    model(numbers(2, 8))
    return model, numbers(32, 8), None


def integers_out():
    inputs = keras.Input((8,))
    return keras.Model(inputs, ops.argmax(layers.Dense(4)(inputs), -1)), numbers(32, 8), None


def rematerialized():
    with keras.RematScope(mode="full"):
        inputs = keras.Input((8,))
        model = keras.Model(inputs, layers.Dense(2)(layers.Dense(16, "relu")(inputs)))
    return model, numbers(32, 8), None


def stateful():
    inputs = keras.Input(batch_shape=(4, 5, 3))
    x = layers.LSTM(6, stateful=True, return_sequences=True)(inputs)
    return keras.Model(inputs, layers.Dense(2)(layers.GRU(4, stateful=True)(x))), numbers(100, 5, 3), None


def large_data():
    inputs = keras.Input((20,))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Dense(32, use_bias=False)(inputs)))
    return keras.Model(inputs, layers.Dense(2)(layers.Dense(32, "relu")(x))), 1e5 * numbers(64, 20), None


def fixed_kernel():
    inputs = keras.Input((8, 8, 4))
    blur = layers.DepthwiseConv2D(3, use_bias=False, trainable=False, padding="same")
    model = keras.Model(inputs, layers.Conv2D(6, 3)(blur(inputs)))
    taps = np.outer([1, 2, 1], [1, 2, 1]) / 16
    blur.kernel.assign(np.repeat(taps[..., None], 4, axis=2)[..., None])
    return model, numbers(16, 8, 8, 4), None


def weighted_loss():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(1)])
    model.compile("adam", keras.losses.MeanSquaredError(reduction="sum"), loss_weights=[100.0])
    return model, numbers(64, 8), numbers(64)


def rare_classes():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(1000, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model, numbers(64, 8), np.array([0] * 63 + [3])


def two_outputs():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, [layers.Dense(1)(inputs), layers.Dense(3)(inputs)])
    model.compile("adam", ["mse", "mae"])
    return model, numbers(16, 8), [numbers(16, 1), numbers(16, 3)]


def own_loss():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.out = layers.Dense(1)

        def call(self, x):
            return self.out(x)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return ops.mean(ops.square(y_pred - y) * ops.mean(x))

    model = Own()
    model(numbers(2, 8))
    model.compile("adam", "mse")
    return model, 1 + numbers(16, 8), numbers(16, 1)


def optional_input():
    class Optional(keras.Model):
        def __init__(self):
            super().__init__()
            self.out = layers.Dense(2)

        def call(self, inputs):
            return self.out(inputs["x"])

    model = Optional()
    model({"x": numbers(2, 3), "mask": None})
    return model, {"x": numbers(16, 3), "mask": None}, None


def half_lstm():
    inputs = keras.Input((5, 8))
    x = layers.LSTM(6, dtype="mixed_bfloat16", return_sequences=True)(inputs)
    return keras.Model(inputs, layers.GRU(4, dtype="mixed_bfloat16")(x)), numbers(32, 5, 8), None


USERS = [
    *(regularized, by_keyword, gated, activation_layers, never_called, integers_out, rematerialized),
    *(stateful, large_data, fixed_kernel, weighted_loss, rare_classes, two_outputs, own_loss),
    half_lstm,
]


OPTIONAL = pytest.param(
    optional_input, id="optional_input", marks=since(3, 13, "None is no input of a model's call")
)


@pytest.mark.parametrize("make", [*(pytest.param(make, id=make.__name__) for make in USERS), OPTIONAL])
def test_models_as_users_have_them(make):
    model, data, labels = make()
    states = [
        state
        for layer in model._flatten_layers()
        if getattr(layer, "stateful", False)
        for state in keras.tree.flatten(layer.states)
    ]
    before = [np.array(array(state.value)) for state in states]
    report = winit.diagnose(model, data, labels)
    assert not report.errors, [str(finding) for finding in report.findings]
    assert not report.notes or make is never_called, report.notes
    assert (report.loss is None) == (labels is None)
    calibration = winit.calibrate(model, data, seed=0)
    assert calibration.calibrated
    reasons = {row.reason for row in calibration.skipped}
    said = "frozen|SpectralNormalization divides it by its norm at each step"
    said += "|an embedding: it has the size that its scheme gives it"
    said += r"|[\d.]+ times as large it would be too large for its fans: "
    said += r".*embeddings, at most 0.0[45]\d*, makes its signal small"
    assert all(re.fullmatch(said, reason) for reason in reasons), reasons
    after = {(row.path, row.gate): row.after for row in calibration.calibrated}
    for row in winit.calibrate(model, data, scheme="keep", seed=0).calibrated:
        assert row.before == pytest.approx(after[row.path, row.gate], rel=0.02), row.path
    for state, value in zip(states, before, strict=True):
        np.testing.assert_array_equal(array(state.value), value)
    assert winit.diagnose(model, data, labels).layers
    if make is not optional_input:
        again = winit.calibrate(model, seed=0)  # a probe does too
        assert again.calibrated or make is by_keyword  # all of whose kernels read a small embedding


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about tf.function")
@pytest.mark.parametrize("function", [winit.diagnose, winit.calibrate])
def test_what_tensorflow_compiles_is_not_spoilt(function):
    import tensorflow as tf

    class Compiled(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.norm = layers.Dense(5), layers.BatchNormalization()

        @tf.function
        def call(self, x, training=False):
            return self.norm(self.dense(x), training=training)

    model, data = Compiled(), 3 + numbers(32, 6)
    model(data[:2])
    result = function(model, data)
    assert len(getattr(result, "layers", None) or result.calibrated) == 1
    before = array(model.norm.moving_mean.value).copy()
    model.compile("sgd", "mse")
    model.fit(data + 1, numbers(32, 5), batch_size=32, verbose=0)
    assert not np.allclose(array(model.norm.moving_mean.value), before)
    assert not tf.config.functions_run_eagerly()


def test_outputs_that_are_no_tensors_are_passed_over():
    class Optional(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            return {"out": self.dense(x), "attentions": None}

    model = Optional()
    model(np.ones((2, 4), "float32"))
    assert winit.diagnose(model, np.random.default_rng(0).normal(size=(8, 4)).astype("float32")).ok


def test_zeros_that_a_layer_asks_for_have_a_remedy_that_helps():
    inputs = keras.Input((6,))
    hidden = layers.Dense(5, "relu", kernel_initializer="zeros", name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(hidden))
    (finding,) = [finding for finding in winit.diagnose(model).findings if finding.code == "zero"]
    assert (
        finding.remedy == "Draw it anew, for the layer asks for zeros: `initialize(model, overwrite=True)`."
    )
    winit.initialize(model, overwrite=True)
    assert winit.diagnose(model).ok


class Numbered(layers.Layer):
    """A layer whose own arguments are called as ours might be."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 6), name="kernel")

    def call(self, x, layer=0, call=1, hook=2, reached=3):
        return ops.matmul(x, self.kernel) * (layer + call + hook + reached)


def test_arguments_of_any_name_are_handed_on():
    inputs = keras.Input((9,))
    x = Numbered()(inputs, layer=1, call=2, hook=3, reached=4)
    model = keras.Model(inputs, layers.Dense(2)(layers.BatchNormalization()(x)))
    winit.calibrate(model, seed=0, progress=False)
    assert winit.diagnose(model, numbers(32, 9)).layers
