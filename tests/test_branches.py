"""Residual branches, found by what is computed."""

import keras
import numpy as np
import pytest
from helpers import array
from keras import layers

import keras_winit as winit
from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.branches import SHARE, shares
from keras_winit.models.anatomy.branches import branches_of as branches


def found_in(model):
    """The last kernels of each branch, and what normalizes it."""
    return [
        ([slot.path.split("/")[-2] for slot in each.last], getattr(each.normalization, "name", None))
        for each in branches(Anatomy(model))
    ]


def pre_norm():
    inputs = x = keras.Input((6, 16))
    for index in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(2, 8, name=f"attention_{index}")(y, y)
        y = layers.Dense(32, "gelu", name=f"up_{index}")(layers.LayerNormalization()(x))
        x = layers.Add()([layers.Dropout(0.1)(layers.Dense(16, name=f"down_{index}")(y)), x])
    return keras.Model(inputs, layers.Dense(3)(x))


def resnet():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, 2, padding="same", name="first")(x)))
    y = layers.BatchNormalization(name="end")(layers.Conv2D(8, 3, padding="same", name="second")(y))
    x = layers.ReLU()(layers.Add()([y, layers.Conv2D(8, 1, 2, name="projection")(x)]))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def gated():
    """A gated MLP: the kernel that writes to the stream is the last, not the gate."""
    inputs = keras.Input((6, 16))
    x = layers.RMSNormalization()(inputs)
    y = layers.Dense(32, "silu", name="gate")(x) * layers.Dense(32, name="up")(x)
    return keras.Model(inputs, layers.Dense(3)(inputs + layers.Dense(16, name="down")(y)))


def embeddings():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8)(inputs) + layers.Embedding(6, 8)(keras.ops.arange(6))
    return keras.Model(inputs, layers.Dense(3)(x))


def parallel():
    inputs = keras.Input((8,))
    return keras.Model(inputs, layers.Dense(8, name="one")(inputs) + layers.Dense(8, name="two")(inputs))


def squeezed():
    """A squeeze-and-excite gate inside of the branch."""
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    gate = layers.Dense(4, "sigmoid", name="excite")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return keras.Model(inputs, inputs + x * gate)


class Block(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.norm, self.up = layers.LayerNormalization(), layers.Dense(32, "relu", name="up")
        self.down = layers.Dense(16, name="down")

    def call(self, x):
        return x + self.down(self.up(self.norm(x)))


def subclassed():
    inputs = keras.Input((16,))
    return keras.Model(inputs, layers.Dense(3)(Block()(Block()(inputs))))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (
            pre_norm,
            [
                (["attention_output"], None),
                (["down_0"], None),
                (["attention_output"], None),
                (["down_1"], None),
            ],
        ),
        (resnet, [(["second"], "end")]),
        (gated, [(["down"], None)]),
        (embeddings, []),
        (parallel, []),
        (squeezed, [(["excite", "conv"], None)]),
        (subclassed, [(["down"], None), (["down"], None)]),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_branches_are_found(build, expected):
    assert [(sorted(last), norm) for last, norm in found_in(build())] == [
        (sorted(last), norm) for last, norm in expected
    ]


def test_resnet50_has_sixteen_that_a_normalization_ends():
    model = keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3))
    found = branches(Anatomy(model))
    assert len(found) == 16
    assert all(each.normalization.name.endswith("_3_bn") for each in found)
    assert not shares(Anatomy(model))


@pytest.mark.parametrize("method", ["initialize", "calibrate"])
def test_a_branch_starts_small_beside_its_stream(method):
    model = pre_norm()
    data = np.random.default_rng(0).normal(size=(64, 6, 16)).astype("float32")
    down = model.get_layer("down_0")
    if method == "initialize":
        plan = winit.initialize(model, seed=0)
        row = next(row for row in plan.rows if row.path == down.kernel.path)
        assert row.scheme == "scaled(glorot_uniform)"
        assert row.reason == f"no activation follows; the last of a branch, {SHARE} times"
        assert array(down.kernel).std() == pytest.approx(SHARE * (2 / 48) ** 0.5, rel=0.1)
    else:
        winit.calibrate(model, data, seed=0, progress=False)
        inner = keras.Model(model.inputs, down.output)
        assert array(inner(data)).std() == pytest.approx(0.5 * SHARE, rel=0.01)


def test_many_branches_start_smaller():
    inputs = x = keras.Input((8,))
    for _ in range(25):
        x = x + layers.Dense(8)(layers.LayerNormalization()(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    assert set(shares(Anatomy(model)).values()) == {1 / 5}
