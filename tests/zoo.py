"""Models of every kind, small, for the tests of what acts on a whole model."""

import keras
import numpy as np
from keras import layers, ops


def sequential():
    return keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(9, activation="relu"),
            layers.Dropout(0.1),
            layers.Dense(9, activation="tanh"),
            layers.Dense(4, activation="softmax"),
        ]
    )


def functional():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Activation("gelu")(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.LeakyReLU(negative_slope=0.1)(x)
    skip = x
    x = layers.SeparableConv2D(6, 3, padding="same")(x)
    x = layers.Add()([x, skip])
    x = layers.Conv2DTranspose(5, 4, strides=2, padding="same")(x)
    x = ops.relu(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(4)(x))


def nested():
    inner_inputs = keras.Input((7,))
    inner = keras.Model(inner_inputs, layers.Dense(6)(layers.Dense(8, activation="relu")(inner_inputs)))
    inputs = keras.Input((7,))
    x = layers.Activation("tanh")(inner(inputs))
    return keras.Model(inputs, layers.Dense(2)(keras.Sequential([layers.Dense(5)])(x)))


def shared():
    inputs = keras.Input((6,))
    dense = layers.Dense(6, activation="elu")
    return keras.Model(inputs, layers.Dense(2)(dense(dense(inputs))))


def attention():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(20, 8)(inputs)
    x = layers.LayerNormalization()(x)
    x = layers.MultiHeadAttention(2, 4)(x, x) + x
    x = layers.RMSNormalization()(x)
    x = layers.GroupQueryAttention(4, 2, 1)(x, x)
    x = layers.EinsumDense("abc,cd->abd", (None, 6), activation="silu")(x)
    return keras.Model(inputs, layers.TimeDistributed(layers.Dense(3))(x))


def recurrent():
    inputs = keras.Input((5, 6))
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(inputs)
    x = layers.GRU(5, return_sequences=True)(x)
    x = layers.RNN([layers.LSTMCell(4), layers.SimpleRNNCell(3)])(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def wrapped():
    inputs = keras.Input((6, 6, 2))
    x = layers.SpectralNormalization(layers.Conv2D(4, 3))(inputs)
    x = layers.PReLU()(x)
    x = layers.GroupNormalization(2)(x)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


@keras.saving.register_keras_serializable("zoo")
class Subclassed(keras.Model):
    def __init__(self, units=6, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first = layers.Dense(units, activation="relu")
        self.blocks = [layers.Dense(units) for _ in range(2)]

    def call(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 5), "float32"))
    return model


MODELS = {
    make.__name__: make
    for make in (sequential, functional, nested, shared, attention, recurrent, wrapped, subclassed)
}
SHAPES = {"subclassed": (5,)}


def data(model, name, count=3):
    shape = (count, *(SHAPES[name] if name in SHAPES else model.input_shape[1:]))
    rng = np.random.default_rng(0)
    return rng.integers(0, 20, shape) if name == "attention" else rng.normal(size=shape).astype("float32")


def snapshot(model):
    """Everything that must not change: weights, and what the layers say they were made with."""
    configs = {
        (layer.name, key): repr(value)
        for layer in model._flatten_layers()
        for key, value in vars(layer).items()
        if key.endswith("_initializer") or key == "unit_forget_bias"
    }
    return [np.array(w) for w in model.get_weights()], configs


def assert_unchanged(model, before):
    weights, configs = snapshot(model)
    for one, other in zip(weights, before[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert configs == before[1]
