"""Subclassed models and composite layers are seen as the functional model that computes the same."""

import keras
import numpy as np
import pytest
from helpers import array
from keras import layers, ops

import keras_winit as winit


class Block(layers.Layer):
    """A convolution, its normalization and activation, and a gate that multiplies the signal."""

    def __init__(self, filters, **options):
        super().__init__(**options)
        self.conv = layers.Conv2D(filters, 3, padding="same", use_bias=False, name="conv")
        self.norm = layers.BatchNormalization(name="norm")
        self.squeeze = layers.Dense(3, "relu", name="squeeze")
        self.excite = layers.Dense(filters, "sigmoid", name="excite")

    def build(self, shape):
        wide = (*shape[:-1], self.conv.filters)
        self.conv.build(shape)
        self.norm.build(wide)
        self.squeeze.build((shape[0], wide[-1]))
        self.excite.build((shape[0], 3))

    def call(self, x):
        x = ops.silu(self.norm(self.conv(x)))
        weights = self.excite(self.squeeze(ops.mean(x, axis=(1, 2))))
        return x * weights[:, None, None, :]


class Net(keras.Model):
    """Two such blocks, and a plain stack behind them."""

    def __init__(self, depth=24):
        super().__init__(name="net")
        self.blocks = [Block(8, name=f"block_{index}") for index in range(2)]
        self.stack = keras.Sequential([layers.Dense(16, "gelu") for _ in range(depth)])
        self.head = layers.Dense(3, name="head")

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(self.stack(ops.reshape(ops.max(x, axis=(1, 2)), (-1, 8))))


def functional(depth=24):
    inputs = x = keras.Input((8, 8, 3))
    for _ in range(2):
        x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
        x = layers.Activation("silu")(layers.BatchNormalization()(x))
        weights = layers.Dense(3, "relu")(layers.GlobalAveragePooling2D()(x))
        weights = layers.Dense(8, "sigmoid")(weights)
        x = layers.Multiply()([x, layers.Reshape((1, 1, 8))(weights)])
    x = layers.GlobalMaxPooling2D()(x)
    for _ in range(depth):
        x = layers.Dense(16, "gelu")(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def subclassed():
    model = Net()
    model(np.zeros((1, 8, 8, 3), "float32"))
    return model


@pytest.mark.parametrize("scheme", ["auto", "looks_linear", "torch", "he_normal"])
def test_they_are_planned_alike(scheme):
    plans = [winit.initialize(make(), scheme, seed=1) for make in (functional, subclassed)]
    one, other = ([row for row in plan.rows if row.role == "kernel"] for plan in plans)
    for left, right in zip(one, other, strict=True):
        assert (left.scheme, left.activation, left.fans) == (right.scheme, right.activation, right.fans)
    normalized = [row.reason for row in other if "divides by its size" in row.reason]
    assert len(normalized) == (2 if scheme in ("auto", "looks_linear") else 0)
    if scheme == "looks_linear":
        mirrored = [row for row in other if row.scheme == "looks_linear"]
        assert len(mirrored) >= 25
        assert mirrored[-1].reason == "reads twins through gelu; then the model's output"


def test_they_are_calibrated_alike():
    data = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
    found = []
    for make in (functional, subclassed):
        model = make()
        calibration = winit.calibrate(model, data, seed=1, progress=False)
        rows = sorted((row.factor is None, row.normalized, row.centre is None) for row in calibration.rows)
        gates = [row.path for row in calibration.skipped if row.reason.startswith("a gate")]
        found.append((rows, len(gates), len(calibration.normalized), len(calibration.statistics)))
        after = {row.path.split("/")[-2]: row.after for row in calibration.calibrated}
        assert array(model(data)).std() == pytest.approx(list(after.values())[-1], rel=0.02)
    assert found[0] == found[1]
    rows, gates, normalized, statistics = found[1]
    assert (gates, normalized, statistics) == (2, 2, 4)
    # GELU in a chain of twenty or more is centred.
    assert sum(not uncentred for _, _, uncentred in rows) >= 24
