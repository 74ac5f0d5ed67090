"""The layers that a model's outputs come out of."""

import keras
import pytest
from keras import layers, ops

import keras_winit as winit
from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.following import output_kernels


def classifier():
    return keras.Sequential([keras.Input((5,)), layers.Dense(4, "relu"), layers.Dense(3, name="head")])


def softmax_apart():
    return keras.Sequential([keras.Input((5,)), *classifier().layers, layers.Dropout(0.1), layers.Softmax()])


def scaled():
    inputs = keras.Input((5,))
    return keras.Model(inputs, 2.0 * layers.Dense(1, "tanh", name="head")(inputs) - 1.0)


def skip_over_everything():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(inputs)
    return keras.Model(inputs, inputs + layers.Conv2D(3, 3, padding="same", name="head")(x))


def two_heads():
    inputs = keras.Input((5,))
    x = layers.Dense(4, "relu")(inputs)
    return keras.Model(inputs, [layers.Dense(2, name="head")(x), layers.Dense(1, "sigmoid", name="other")(x)])


def towers():
    left, right = keras.Input((5,)), keras.Input((6,))
    pair = [layers.Dense(4, name="head")(left), layers.Dense(4, name="other")(right)]
    return keras.Model([left, right], layers.Dot(-1)(pair))


def normalized():
    return keras.Sequential([keras.Input((5,)), layers.Dense(4), layers.LayerNormalization()])


def recurrent():
    return keras.Sequential([keras.Input((7, 5)), layers.LSTM(4, name="head")])


def separable():
    return keras.Sequential([keras.Input((7, 5)), layers.SeparableConv1D(4, 3, name="head")])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.body, self.head = layers.Dense(4, "relu", name="body"), layers.Dense(3, name="head")

    def call(self, inputs):
        return {"out": ops.softmax(self.head(self.body(inputs)))}


def subclassed():
    model = Subclassed()
    model(ops.ones((2, 5)))
    return model


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (classifier, {("head", 0, True)}),
        (softmax_apart, {("head", 0, True)}),
        (scaled, {("head", 0, True)}),
        (skip_over_everything, {("head", 0, False)}),
        (two_heads, {("head", 0, True), ("other", 1, True)}),
        (towers, {("head", 0, False), ("other", 0, False)}),
        (normalized, set()),
        (recurrent, {("head", 0, True)}),
        (separable, {("head", 0, True)}),
        (subclassed, {("head", 0, True)}),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_an_output_comes_out_of(build, expected):
    found = output_kernels(Anatomy(build()))
    names = {
        (kernel.slot.path.split("/")[-3 if "lstm" in kernel.slot.path else -2], *kernel[1:3])
        for kernel in found
    }
    assert names == expected


def test_a_diagnosis_looks_at_an_output_before_its_softmax():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "tanh"), layers.Dense(5, "softmax", kernel_initializer="zeros")]
    )
    small = keras.initializers.RandomNormal(stddev=1e-4, seed=0)
    model.layers[-1].kernel.assign(small((8, 5)))
    report = winit.diagnose(model)
    assert report.layers[-1].distinct > 0.5
    assert "input_collapse" not in [finding.code for finding in report.findings]
