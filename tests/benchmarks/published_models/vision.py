"""Small models of images, after what their authors published."""

import keras
import numpy as np
from keras import layers, ops

from published_models.task import LOGITS, Task, compiled, images, published, waves

Adam = keras.optimizers.Adam


@published
def convnet():
    """Two convolutions with pooling: Keras' first example."""

    def build():
        stack = [
            keras.Input((16, 16, 1)),
            *(layers.Conv2D(16, 3, activation="relu"), layers.MaxPooling2D()),
            *(layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D()),
            *(layers.Flatten(), layers.Dropout(0.5), layers.Dense(10, activation="softmax")),
        ]
        return compiled(keras.Sequential(stack), Adam(1e-3), "sparse_categorical_crossentropy")

    return Task(build, *images(16))


@published
def resnet():
    """Residual blocks with batch normalization, in the order of He et al. 2015."""

    def block(x, width, stride):
        skip = x
        if stride > 1:
            skip = layers.BatchNormalization()(layers.Conv2D(width, 1, stride, use_bias=False)(x))
        x = layers.Conv2D(width, 3, stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.Add()([layers.BatchNormalization()(x), skip]))

    def build():
        inputs = keras.Input((16, 16, 1))
        x = layers.Conv2D(12, 3, padding="same", use_bias=False)(inputs)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        for width, stride in ((12, 1), (12, 1), (24, 2), (24, 1), (48, 2), (48, 1)):
            x = block(x, width, stride)
        x = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
        return compiled(keras.Model(inputs, x), keras.optimizers.SGD(0.1, momentum=0.9), LOGITS)

    return Task(build, *images(16), steps=120)


@published
def xception():
    """Separable convolutions with residuals, as Keras' example of classification from scratch."""

    def build():
        inputs = keras.Input((16, 16, 1))
        x = layers.Conv2D(16, 3, 2, padding="same")(layers.Rescaling(1.0)(inputs))
        x = skip = layers.Activation("relu")(layers.BatchNormalization()(x))
        for width in (24, 32, 48):
            for _ in range(2):
                x = layers.Activation("relu")(x)
                x = layers.BatchNormalization()(layers.SeparableConv2D(width, 3, padding="same")(x))
            x = layers.MaxPooling2D(3, 2, padding="same")(x)
            x = skip = layers.add([x, layers.Conv2D(width, 1, 2, padding="same")(skip)])
        x = layers.Activation("relu")(
            layers.BatchNormalization()(layers.SeparableConv2D(64, 3, padding="same")(x))
        )
        x = layers.Dropout(0.25)(layers.GlobalAveragePooling2D()(x))
        return compiled(keras.Model(inputs, layers.Dense(10)(x)), Adam(3e-4), LOGITS)

    return Task(build, *images(16), steps=150)


class Patches(layers.Layer):
    def __init__(self, size, **options):
        super().__init__(**options)
        self.size = size

    def call(self, inputs):
        found = ops.image.extract_patches(inputs, size=self.size)
        return ops.reshape(found, (-1, found.shape[1] * found.shape[2], found.shape[3]))


class Tokens(layers.Layer):
    def __init__(self, count, width, **options):
        super().__init__(**options)
        self.count = count
        self.projection, self.places = layers.Dense(width), layers.Embedding(count, width)

    def call(self, inputs):
        return self.projection(inputs) + self.places(ops.expand_dims(ops.arange(self.count), 0))


@published
def vision_transformer():
    """Pre-norm blocks on patches with learned positions."""

    def build():
        inputs = keras.Input((16, 16, 1))
        x = Tokens(16, 32)(Patches(4)(inputs))
        for _ in range(3):
            y = layers.LayerNormalization(epsilon=1e-6)(x)
            x = layers.Add()([layers.MultiHeadAttention(2, 16, dropout=0.1)(y, y), x])
            y = layers.LayerNormalization(epsilon=1e-6)(x)
            for units in (64, 32):
                y = layers.Dropout(0.1)(layers.Dense(units, activation="gelu")(y))
            x = layers.Add()([y, x])
        x = layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(x))
        x = layers.Dense(10)(layers.Dropout(0.3)(layers.Dense(64, activation="gelu")(x)))
        return compiled(keras.Model(inputs, x), keras.optimizers.AdamW(1e-3, weight_decay=1e-4), LOGITS)

    return Task(build, *images(16))


class Mixer(layers.Layer):
    def __init__(self, tokens, width, **options):
        super().__init__(**options)
        self.across = keras.Sequential([layers.Dense(tokens, activation="gelu"), layers.Dense(tokens)])
        self.within = keras.Sequential([layers.Dense(width, activation="gelu"), layers.Dense(width)])
        self.norm, self.other = layers.LayerNormalization(), layers.LayerNormalization()

    def call(self, inputs):
        x = ops.transpose(self.norm(inputs), (0, 2, 1))
        x = inputs + ops.transpose(self.across(x), (0, 2, 1))
        return x + self.within(self.other(x))


@published
def mlp_mixer():
    """Dense layers across tokens and within them."""

    def build():
        inputs = keras.Input((16, 16, 1))
        x = layers.Dense(32)(Patches(4)(inputs))
        for _ in range(3):
            x = Mixer(16, 32)(x)
        x = layers.Dense(10)(layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(x)))
        return compiled(keras.Model(inputs, x), keras.optimizers.AdamW(2e-3, weight_decay=1e-4), LOGITS)

    return Task(build, *images(16))


class Scale(layers.Layer):
    def build(self, shape):
        self.gamma = self.add_weight(shape=shape[-1:], initializer=keras.initializers.Constant(1e-6))

    def call(self, inputs):
        return inputs * self.gamma


@published
def convnext():
    """Depthwise 7×7, LayerNorm, a wide GELU, and a scale that starts at 1e-6."""

    def build():
        normal = keras.initializers.TruncatedNormal(stddev=0.02)
        inputs = keras.Input((16, 16, 1))
        x = layers.LayerNormalization(epsilon=1e-6)(
            layers.Conv2D(24, 2, 2, kernel_initializer=normal)(inputs)
        )
        for stage, width in enumerate((24, 48)):
            if stage:
                x = layers.LayerNormalization(epsilon=1e-6)(x)
                x = layers.Conv2D(width, 2, 2, kernel_initializer=normal)(x)
            for _ in range(2):
                y = layers.DepthwiseConv2D(5, padding="same", depthwise_initializer=normal)(x)
                y = layers.Dense(4 * width, kernel_initializer=normal)(
                    layers.LayerNormalization(epsilon=1e-6)(y)
                )
                y = layers.Dense(width, kernel_initializer=normal)(layers.Activation("gelu")(y))
                x = x + Scale()(y)
        x = layers.LayerNormalization(epsilon=1e-6)(layers.GlobalAveragePooling2D()(x))
        x = layers.Dense(10, kernel_initializer=normal)(x)
        return compiled(keras.Model(inputs, x), keras.optimizers.AdamW(2e-3, weight_decay=0.05), LOGITS)

    return Task(build, *images(16))


@published
def unet():
    """A U-Net that marks the pixels of a digit, in noise."""

    def build():
        inputs = keras.Input((16, 16, 1))

        def twice(x, width):
            for _ in range(2):
                x = layers.Conv2D(width, 3, padding="same")(x)
                x = layers.Activation("relu")(layers.BatchNormalization()(x))
            return x

        skips, x = [], inputs
        for width in (8, 16):
            x = twice(x, width)
            skips.append(x)
            x = layers.MaxPooling2D()(x)
        x = twice(x, 32)
        for width in (16, 8):
            x = layers.Conv2DTranspose(width, 3, 2, padding="same")(x)
            x = twice(layers.Concatenate()([x, skips.pop()]), width)
        outputs = layers.Conv2D(1, 1, activation="sigmoid")(x)
        return compiled(keras.Model(inputs, outputs), "rmsprop", "binary_crossentropy")

    clean, _ = images(16)
    noisy = clean + np.random.default_rng(0).normal(0, 0.4, clean.shape).astype("float32")
    return Task(build, noisy, (clean > 0.4).astype("float32"), steps=100, batch=16)


@published
def super_resolution():
    """ESPCN: convolutions, and pixels that are put between one another."""

    def build():
        inputs = keras.Input((8, 8, 1))
        x = layers.Conv2D(32, 5, padding="same", activation="relu", kernel_initializer="orthogonal")(inputs)
        x = layers.Conv2D(32, 3, padding="same", activation="relu", kernel_initializer="orthogonal")(x)
        x = layers.Conv2D(16, 3, padding="same", activation="relu", kernel_initializer="orthogonal")(x)
        x = layers.Conv2D(4, 3, padding="same", activation="relu", kernel_initializer="orthogonal")(x)
        x = ops.reshape(ops.transpose(ops.reshape(x, (-1, 8, 8, 2, 2)), (0, 1, 3, 2, 4)), (-1, 16, 16, 1))
        return compiled(keras.Model(inputs, x), Adam(1e-3), "mse")

    fine = waves(1500, 256)[..., 0].reshape(-1, 16, 16, 1) * 0.25 + 0.5
    return Task(build, fine.reshape(-1, 8, 2, 8, 2, 1).mean((2, 4)), fine, steps=200)


@published
def siamese():
    """Two digits through one tower: are they the same?"""

    def build():
        inputs = keras.Input((16, 16, 1))
        x = layers.AveragePooling2D(2)(
            layers.Conv2D(8, 5, activation="tanh")(layers.BatchNormalization()(inputs))
        )
        x = layers.AveragePooling2D(2)(layers.Conv2D(16, 3, activation="tanh")(x))
        tower = keras.Model(
            inputs, layers.Dense(10, activation="tanh")(layers.BatchNormalization()(layers.Flatten()(x)))
        )
        pair = [keras.Input((16, 16, 1)), keras.Input((16, 16, 1))]
        one, two = map(tower, pair)
        distance = ops.sqrt(ops.sum(ops.square(one - two), axis=1, keepdims=True) + 1e-6)
        outputs = layers.Dense(1, activation="sigmoid")(layers.BatchNormalization()(distance))
        return compiled(keras.Model(pair, outputs), keras.optimizers.RMSprop(1e-3), "binary_crossentropy")

    x, digit = images(16)
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, len(x), (2, 3000))
    for index in range(0, 3000, 2):
        two[index] = rng.choice(np.flatnonzero(digit == digit[one[index]]))
    return Task(build, [x[one], x[two]], (digit[one] == digit[two]).astype("float32")[:, None], batch=16)
