"""Small models that make images, functions and series, after what their authors published."""

import math

import keras
import numpy as np
from keras import layers, ops

import keras_winit as winit
from published_models.task import LOGITS, Task, compiled, images, published, waves

Adam = keras.optimizers.Adam


@published
def autoencoder():
    """Convolutions over a series, to half and half again and back: what it cannot make is an anomaly."""

    def build():
        stack = [keras.Input((48, 1))]
        for layer, width in (
            (layers.Conv1D, 16),
            (layers.Conv1D, 8),
            (layers.Conv1DTranspose, 8),
            (layers.Conv1DTranspose, 16),
        ):
            stack += [layer(width, 7, padding="same", strides=2, activation="relu"), layers.Dropout(0.1)]
        stack.append(layers.Conv1DTranspose(1, 7, padding="same"))
        return compiled(keras.Sequential(stack), Adam(1e-3), "mse")

    x = waves(3000, 48)
    return Task(build, x, x, steps=200, batch=64)


@published
def denoiser():
    """A convolutional autoencoder of images, which ends in a sigmoid."""

    def build():
        stack = [keras.Input((16, 16, 1))]
        for _ in range(2):
            stack += [
                layers.Conv2D(16, 3, activation="relu", padding="same"),
                layers.MaxPooling2D(2, padding="same"),
            ]
        stack += [layers.Conv2DTranspose(16, 3, 2, activation="relu", padding="same") for _ in range(2)]
        stack.append(layers.Conv2D(1, 3, activation="sigmoid", padding="same"))
        return compiled(keras.Sequential(stack), "adam", "binary_crossentropy")

    clean, _ = images(16)
    noisy = clean + np.random.default_rng(0).normal(0, 0.4, clean.shape).astype("float32")
    return Task(build, noisy.clip(0, 1), clean, steps=150)


class Sample(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.seed = keras.random.SeedGenerator(0)

    def call(self, inputs):
        mean, log_variance = inputs
        self.add_loss(
            -0.005 * ops.mean(ops.sum(1 + log_variance - ops.square(mean) - ops.exp(log_variance), axis=1))
        )
        return mean + ops.exp(0.5 * log_variance) * keras.random.normal(ops.shape(mean), seed=self.seed)


@published
def vae():
    """A variational autoencoder of images."""

    def build():
        inputs = keras.Input((16, 16, 1))
        x = layers.Conv2D(16, 3, 2, activation="relu", padding="same")(inputs)
        x = layers.Flatten()(layers.Conv2D(32, 3, 2, activation="relu", padding="same")(x))
        x = layers.Dense(16, activation="relu")(x)
        x = Sample()([layers.Dense(4, name="mean")(x), layers.Dense(4, name="log_variance")(x)])
        x = layers.Reshape((4, 4, 16))(layers.Dense(4 * 4 * 16, activation="relu")(x))
        x = layers.Conv2DTranspose(16, 3, 2, activation="relu", padding="same")(x)
        x = layers.Conv2DTranspose(8, 3, 2, activation="relu", padding="same")(x)
        outputs = layers.Conv2DTranspose(1, 3, activation="sigmoid", padding="same")(x)
        return compiled(keras.Model(inputs, outputs), Adam(1e-3), "binary_crossentropy")

    x, _ = images(16)
    return Task(build, x, x, steps=200)


class Quantizer(layers.Layer):
    def build(self, _shape):
        self.codes = self.add_weight(shape=(8, 32), initializer="random_uniform", name="codes")

    def call(self, inputs):
        x = ops.reshape(inputs, (-1, 8))
        distance = ops.sum(self.codes**2, axis=0) - 2 * ops.matmul(x, self.codes)
        nearest = ops.one_hot(ops.argmin(distance, axis=1), 32)
        found = ops.reshape(ops.matmul(nearest, ops.transpose(self.codes)), ops.shape(inputs))
        self.add_loss(0.25 * ops.mean((ops.stop_gradient(found) - inputs) ** 2))
        self.add_loss(ops.mean((found - ops.stop_gradient(inputs)) ** 2))
        return inputs + ops.stop_gradient(found - inputs)


@published
def vq_vae():
    """An autoencoder through a book of codes."""

    def build():
        inputs = keras.Input((16, 16, 1))
        x = layers.Conv2D(16, 3, 2, activation="relu", padding="same")(inputs)
        x = layers.Conv2D(32, 3, 2, activation="relu", padding="same")(x)
        x = Quantizer()(layers.Conv2D(8, 1, padding="same")(x))
        for width in (32, 16):
            x = layers.Conv2DTranspose(width, 3, 2, activation="relu", padding="same")(x)
        return compiled(
            keras.Model(inputs, layers.Conv2DTranspose(1, 3, padding="same")(x)), Adam(1e-3), "mse"
        )

    x, _ = images(16)
    return Task(build, x - 0.5, x - 0.5, steps=200)


@published
def diffusion():
    """A U-Net that finds the noise in an image, its last convolution zero."""

    def block(x, width):
        skip = x if x.shape[3] == width else layers.Conv2D(width, 1)(x)
        x = layers.BatchNormalization(center=False, scale=False)(x)
        x = layers.Conv2D(width, 3, padding="same", activation="swish")(x)
        return layers.Add()([layers.Conv2D(width, 3, padding="same")(x), skip])

    def build():
        inputs, noise = keras.Input((16, 16, 1)), keras.Input((1, 1, 1))
        frequencies = np.exp(np.linspace(0, math.log(1000), 8)).astype("float32") * 2 * math.pi
        place = ops.concatenate([ops.sin(noise * frequencies), ops.cos(noise * frequencies)], 3)
        x = layers.Concatenate()([layers.Conv2D(16, 1)(inputs), layers.UpSampling2D(16)(place)])
        skips = []
        for width in (16, 24):
            x = block(x, width)
            skips.append(x)
            x = layers.AveragePooling2D(2)(x)
        x = block(x, 32)
        for width in (24, 16):
            x = block(
                layers.Concatenate()([layers.UpSampling2D(2, interpolation="bilinear")(x), skips.pop()]),
                width,
            )
        outputs = layers.Conv2D(1, 1, kernel_initializer="zeros")(x)
        return compiled(
            keras.Model([inputs, noise], outputs), keras.optimizers.AdamW(1e-3, weight_decay=1e-4), "mae"
        )

    rng = np.random.default_rng(0)
    clean = (images(16)[0] - 0.3) / 0.4
    angle = rng.uniform(0.02, 1.5, (len(clean), 1, 1, 1)).astype("float32")
    noise = rng.normal(size=clean.shape).astype("float32")
    mixed = (np.cos(angle) * clean + np.sin(angle) * noise).astype("float32")
    return Task(build, [mixed, np.sin(angle) ** 2], noise, steps=120, batch=16)


@published
def siren():
    """An image as a function of the place, by sines."""

    def build():
        stack = [keras.Input((2,))]
        for first in (True, False, False):
            stack.append(
                layers.Dense(
                    48, kernel_initializer=winit.Siren(first=first), activation=lambda x: ops.sin(30 * x)
                )
            )
        stack.append(layers.Dense(1, kernel_initializer=winit.Siren()))
        return compiled(keras.Sequential(stack), Adam(1e-4), "mse")

    return Task(build, *place_and_value(), steps=300, batch=128)


def place_and_value():
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 64)] * 2, indexing="ij"), -1).reshape(-1, 2)
    value = np.sin(7 * grid[:, :1]) * np.cos(9 * grid[:, 1:]) + 0.5 * np.sign(grid[:, :1] * grid[:, 1:])
    return grid.astype("float32"), value.astype("float32")


@published
def nerf():
    """A function of the place by eight ReLU layers with a skip, its inputs as sines."""

    def build():
        inputs = keras.Input((2,))
        waves_of = [inputs, *(f(2.0**k * inputs) for k in range(5) for f in (ops.sin, ops.cos))]
        place = x = layers.concatenate(waves_of)
        for index in range(8):
            x = layers.Dense(48, activation="relu")(x)
            if index == 3:
                x = layers.concatenate([x, place])
        return compiled(keras.Model(inputs, layers.Dense(1)(x)), Adam(5e-4), "mse")

    return Task(build, *place_and_value(), steps=300, batch=128)


@published
def conv_lstm():
    """The next frame of a moving square."""

    def build():
        stack = [keras.Input((5, 12, 12, 1))]
        for size in (5, 3):
            stack += [
                layers.ConvLSTM2D(8, size, padding="same", return_sequences=True, activation="relu"),
                layers.BatchNormalization(),
            ]
        stack.append(layers.Conv3D(1, 3, activation="sigmoid", padding="same"))
        return compiled(keras.Sequential(stack), "adam", "binary_crossentropy")

    rng = np.random.default_rng(0)
    frames = np.zeros((500, 6, 12, 12, 1), "float32")
    start, speed = rng.integers(0, 12, (500, 2)), rng.integers(-1, 2, (500, 2))
    for time in range(6):
        for row in range(3):
            for column in range(3):
                place = (start + time * speed + (row, column)) % 12
                frames[np.arange(500), time, place[:, 0], place[:, 1]] = 1
    return Task(build, frames[:, :-1], frames[:, 1:], steps=60, batch=8)


@published
def series_transformer():
    """Which frequency a series has, by transformer blocks with convolutions in them."""

    def build():
        inputs = keras.Input((48, 1))
        x = inputs
        for _ in range(3):
            y = layers.LayerNormalization(epsilon=1e-6)(
                layers.Dropout(0.1)(layers.MultiHeadAttention(2, 16)(x, x))
            )
            skip = y + x
            y = layers.Dropout(0.1)(layers.Conv1D(4, 1, activation="relu")(skip))
            x = layers.LayerNormalization(epsilon=1e-6)(layers.Conv1D(1, 1)(y)) + skip
        x = layers.GlobalAveragePooling1D(data_format="channels_first")(x)
        x = layers.Dropout(0.2)(layers.Dense(64, activation="relu")(x))
        return compiled(keras.Model(inputs, layers.Dense(4)(x)), Adam(1e-3), LOGITS)

    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, 2000)
    x = np.sin((0.2 + 0.15 * kind)[:, None] * np.arange(48) + rng.uniform(0, 6, (2000, 1)))
    return Task(
        build, (x + rng.normal(0, 0.2, x.shape)).astype("float32")[..., None], kind.astype("int32"), steps=120
    )


@published
def wavenet():
    """Gated causal convolutions with residuals and skips that predict the next value."""

    def build():
        inputs = keras.Input((48, 1))
        x, skips = layers.Conv1D(16, 1)(inputs), []
        for dilation in (1, 2, 4, 8):
            options = {"padding": "causal", "dilation_rate": dilation}
            value = layers.Conv1D(16, 2, activation="tanh", **options)(x)
            y = value * layers.Conv1D(16, 2, activation="sigmoid", **options)(x)
            skips.append(layers.Conv1D(16, 1)(y))
            x = x + layers.Conv1D(16, 1)(y)
        y = layers.Conv1D(16, 1, activation="relu")(layers.Activation("relu")(layers.add(skips)))
        return compiled(keras.Model(inputs, layers.Conv1D(1, 1)(y)), Adam(1e-3), "mse")

    x = waves(2000, 49)
    return Task(build, x[:, :-1], x[:, 1:], steps=200)
