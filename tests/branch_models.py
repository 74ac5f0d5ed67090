"""Models with residual branches, and what a reader of their code expects of each.

Of each branch, in order: the layers of its last kernels, its kind, and how many kernels it has. Of every
other addition, a word of the reason why it ends no branch.
"""

from typing import NamedTuple

import keras
from keras import layers, ops

PRE, POST, INSIDE, PLAIN = "pre-norm", "post-norm", "normalized inside", "plain"


class Expected(NamedTuple):
    last: tuple
    kind: str
    kernels: int
    ends: bool = False
    projected: bool = False


class Case(NamedTuple):
    branches: list
    others: tuple = ()
    streams: int = 1


def expected(last, kind=PLAIN, kernels=1, **more):
    return Expected(tuple(last.split()), kind, kernels, **more)


def pre_norm():
    inputs = x = keras.Input((6, 16))
    for index in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(2, 8, name=f"attention_{index}")(y, y)
        y = layers.Dense(32, "gelu", name=f"up_{index}")(layers.LayerNormalization()(x))
        x = layers.Add()([layers.Dropout(0.1)(layers.Dense(16, name=f"down_{index}")(y)), x])
    return keras.Model(inputs, layers.Dense(3)(layers.LayerNormalization()(x)))


def post_norm():
    inputs = x = keras.Input((6, 16))
    for index in range(2):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 8)(x, x))
        y = layers.Dense(16, name=f"down_{index}")(layers.Dense(32, "gelu")(x))
        x = layers.LayerNormalization()(x + y)
    return keras.Model(inputs, layers.Dense(3)(x))


def resnet():
    """A projection beside the branch, and an identity."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, 2, padding="same", name="first")(x)))
    y = layers.BatchNormalization(name="end")(layers.Conv2D(8, 3, padding="same", name="second")(y))
    shortcut = layers.BatchNormalization()(layers.Conv2D(8, 1, 2, name="projection")(x))
    x = layers.ReLU()(layers.Add()([y, shortcut]))
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x)))
    y = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", name="third")(y))
    x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def gated():
    """A gated MLP: the kernel that writes to the stream is the last, not the gate."""
    inputs = keras.Input((6, 16))
    x = layers.RMSNormalization()(inputs)
    y = layers.Dense(32, "silu", name="gate")(x) * layers.Dense(32, name="up")(x)
    return keras.Model(inputs, layers.Dense(3)(inputs + layers.Dense(16, name="down")(y)))


def gated_end():
    """A gate that multiplies what the branch writes."""
    inputs = keras.Input((6, 16))
    y = layers.Dense(16, name="value")(inputs) * layers.Dense(16, "sigmoid", name="gate")(inputs)
    return keras.Model(inputs, layers.Dense(3)(inputs + y))


def squeezed():
    """A squeeze-and-excite gate inside of the branch."""
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    gate = layers.Dense(4, "sigmoid", name="excite")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return keras.Model(inputs, inputs + x * gate)


@keras.saving.register_keras_serializable("branches")
class Depth(layers.Layer):
    """Stochastic depth, and a scale of the branch that starts small."""

    def build(self, shape):
        self.scale = self.add_weight(
            name="scale", shape=(shape[-1],), initializer=keras.initializers.Constant(0.1)
        )
        self.seed = keras.random.SeedGenerator(0)

    def call(self, x, training=None):
        x = x * self.scale
        if not training:
            return x
        kept = keras.random.uniform((ops.shape(x)[0], 1), seed=self.seed)
        return x * ops.floor(kept + 0.9) / 0.9


def stochastic_depth():
    """LayerScale and stochastic depth behind the last kernel."""
    inputs = x = keras.Input((16,))
    for index in range(3):
        y = layers.Dense(32, "gelu")(layers.LayerNormalization()(x))
        x = x + Depth()(layers.Dense(16, name=f"down_{index}")(y))
    return keras.Model(inputs, layers.Dense(2)(x))


def side_by_side():
    """Attention and MLP read the same normalized stream, and are added one after the other."""
    inputs = keras.Input((6, 16))
    y = layers.LayerNormalization()(inputs)
    x = inputs + layers.MultiHeadAttention(2, 8)(y, y)
    x = x + layers.Dense(16, name="down")(layers.Dense(32, "gelu")(y))
    return keras.Model(inputs, layers.Dense(3)(x))


def joined_first():
    """The same, but added to one another first."""
    inputs = keras.Input((6, 16))
    y = layers.LayerNormalization()(inputs)
    both = layers.MultiHeadAttention(2, 8)(y, y) + layers.Dense(16, name="down")(layers.Dense(32, "gelu")(y))
    return keras.Model(inputs, layers.Dense(3)(inputs + both))


def cross_attention():
    """An encoder of one layer and a decoder with cross-attention."""
    source, target = keras.Input((7, 12)), keras.Input((6, 16))
    context = source + layers.Dense(12, name="encode")(layers.LayerNormalization()(source))
    context = layers.LayerNormalization()(context)
    y = layers.LayerNormalization()(target)
    x = target + layers.MultiHeadAttention(2, 8)(y, y)
    x = x + layers.MultiHeadAttention(2, 8)(layers.LayerNormalization()(x), context)
    y = layers.Dense(32, "gelu")(layers.LayerNormalization()(x))
    x = x + layers.Dense(16, name="down")(y)
    return keras.Model([source, target], layers.Dense(3)(x))


def dense_connections():
    """Each layer reads all before it, joined: nothing is added."""
    inputs = x = keras.Input((8,))
    for _ in range(3):
        x = layers.Concatenate()([x, layers.Dense(4, "relu")(x)])
    return keras.Model(inputs, layers.Dense(2)(x))


def dense_sums():
    """Each layer adds to all before it."""
    inputs = keras.Input((8,))
    one = inputs + layers.Dense(8, name="first")(inputs)
    two = layers.Add()([inputs, one, layers.Dense(8, name="second")(one)])
    return keras.Model(inputs, layers.Dense(2)(two))


def u_net():
    """Skips that are concatenated, and a residual block at each size."""
    inputs = keras.Input((16, 16, 3))
    x = high = layers.Conv2D(4, 3, padding="same")(inputs)
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu")(x)
    x = x + layers.Conv2D(8, 3, padding="same", name="low")(x)
    x = layers.Concatenate()([layers.UpSampling2D()(x), high])
    y = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = layers.Conv2D(8, 1, name="projection")(x) + layers.Conv2D(8, 3, padding="same", name="high")(y)
    return keras.Model(inputs, layers.Conv2D(3, 1)(x))


def whole_skip():
    """What comes in is added to what a model with smaller sizes in it puts out."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu")(inputs)
    x = layers.Conv2DTranspose(3, 4, 2, padding="same", name="noise")(x)
    return keras.Model(inputs, layers.Subtract()([inputs, x]))


def pyramid():
    """A feature pyramid: lateral convolutions, and what is smaller brought up."""
    inputs = keras.Input((16, 16, 3))
    high = layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    middle = layers.Conv2D(6, 3, 2, padding="same", activation="relu")(high)
    low = layers.Conv2D(8, 3, 2, padding="same", activation="relu")(middle)
    three = layers.Conv2D(5, 1)(low)
    two = layers.Conv2D(5, 1)(middle) + layers.UpSampling2D()(three)
    one = layers.Conv2D(5, 1)(high) + layers.UpSampling2D()(two)
    return keras.Model(inputs, [layers.Conv2D(5, 3)(each) for each in (one, two, three)])


def shared():
    """One block, called three times."""
    inputs = x = keras.Input((16,))
    norm, up, down = layers.LayerNormalization(), layers.Dense(32, "relu"), layers.Dense(16, name="down")
    for _ in range(3):
        x = x + down(up(norm(x)))
    return keras.Model(inputs, layers.Dense(2)(x))


def three():
    """An Add of three: two branches end in it."""
    inputs = keras.Input((8,))
    one = layers.Dense(8, name="one")(layers.Dense(9, "relu")(inputs))
    return keras.Model(
        inputs, layers.Dense(2)(layers.Add()([one, inputs, layers.Dense(8, name="two")(inputs)]))
    )


def embeddings():
    inputs, places = keras.Input((6,), dtype="int32"), keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8)(inputs) + layers.Embedding(6, 8)(places)
    return keras.Model([inputs, places], layers.Dense(3)(x))


def parallel():
    inputs = keras.Input((8,))
    return keras.Model(inputs, layers.Dense(8, name="one")(inputs) + layers.Dense(8, name="two")(inputs))


def losses():
    """Two losses of what a model puts out, added."""
    inputs = keras.Input((8,))
    code = layers.Dense(4)(inputs)
    again = layers.Dense(8)(code)
    return keras.Model(inputs, ops.mean((inputs - again) ** 2, axis=-1) + ops.mean(code**2, axis=-1))


def highway():
    """t·H(x) + (1 − t)·x: the gate is in both uses."""
    inputs = keras.Input((8,))
    gate = layers.Dense(8, "sigmoid", name="gate")(inputs)
    return keras.Model(
        inputs, layers.Dense(2)(gate * layers.Dense(8, "relu", name="h")(inputs) + (1 - gate) * inputs)
    )


@keras.saving.register_keras_serializable("branches")
class Block(layers.Layer):
    """A block with kernels, a normalization and an attention of one's own."""

    def build(self, shape):
        width = shape[-1]
        self.gain = self.add_weight(name="g", shape=(width,), initializer="ones")
        self.qkv = self.add_weight(name="a", shape=(width, 3 * width))
        self.out = self.add_weight(name="b", shape=(width, width))
        self.up = self.add_weight(name="c", shape=(width, 2 * width))
        self.down = self.add_weight(name="d", shape=(2 * width, width))

    def norm(self, x):
        return self.gain * (x / ops.sqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6))

    def call(self, x):
        query, key, value = ops.split(self.norm(x) @ self.qkv, 3, axis=-1)
        weights = ops.softmax(query @ ops.transpose(key, (0, 2, 1)) / x.shape[-1] ** 0.5)
        x = x + (weights @ value) @ self.out
        return x + ops.gelu(self.norm(x) @ self.up) @ self.down


def of_ones_own():
    inputs = keras.Input((6, 16))
    return keras.Model(inputs, layers.Dense(3)(Block(name="block_2")(Block(name="block_1")(inputs))))


@keras.saving.register_keras_serializable("branches")
class Subclassed(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.norms = [layers.LayerNormalization() for _ in range(2)]
        self.ups = [layers.Dense(32, "relu") for _ in range(2)]
        self.downs = [layers.Dense(16, name=f"down_{index}") for index in range(2)]

    def call(self, x):
        for norm, up, down in zip(self.norms, self.ups, self.downs, strict=True):
            x = x + down(up(norm(x)))
        return x


def subclassed():
    model = Subclassed()
    model(ops.zeros((2, 16)))
    return model


def diffusion():
    """A U-Net of residual blocks with the time's embedding added inside, attention and concatenated skips."""
    image, time = keras.Input((16, 16, 3)), keras.Input((8,))
    time_1 = layers.Dense(8, "silu")(time)

    def block(x, width, name):
        shortcut = x if x.shape[-1] == width else layers.Conv2D(width, 1)(x)
        y = layers.Activation("silu")(layers.GroupNormalization(2)(x))
        y = layers.Conv2D(width, 3, padding="same")(y)
        y = y + layers.Reshape((1, 1, width))(layers.Dense(width)(time_1))
        y = layers.Activation("silu")(layers.GroupNormalization(2)(y))
        return shortcut + layers.Conv2D(width, 3, padding="same", name=name)(y)

    x = layers.Conv2D(4, 3, padding="same")(image)
    x = high = block(x, 4, "down_1")
    x = block(layers.AveragePooling2D(2)(x), 8, "down_2")
    y = layers.Reshape((64, 8))(layers.GroupNormalization(2)(x))
    y = layers.MultiHeadAttention(2, 4)(y, y)
    x = x + layers.Reshape((8, 8, 8))(y)
    x = block(layers.Concatenate()([layers.UpSampling2D()(x), high]), 4, "up_1")
    x = layers.Activation("silu")(layers.GroupNormalization(2)(x))
    return keras.Model([image, time], layers.Conv2D(3, 3, padding="same", kernel_initializer="zeros")(x))


_ATTENTION = expected("attention_output", PRE, 4)

CASES = {
    pre_norm: Case([_ATTENTION, expected("down_0", PRE, 2), _ATTENTION, expected("down_1", PRE, 2)]),
    post_norm: Case(
        [
            expected("attention_output", POST, 4),
            expected("down_0", POST, 2),
            expected("attention_output", POST, 4),
            expected("down_1", POST, 2),
        ]
    ),
    resnet: Case(
        [
            expected("second", INSIDE, 2, ends=True, projected=True),
            expected("third", INSIDE, 2, ends=True),
        ]
    ),
    gated: Case([expected("down", PRE, 3)]),
    gated_end: Case([expected("value", PLAIN, 2)]),
    squeezed: Case([expected("conv", PLAIN, 2)]),
    stochastic_depth: Case([expected(f"down_{index}", PRE, 2) for index in range(3)]),
    side_by_side: Case([_ATTENTION, expected("down", PRE, 2)]),
    joined_first: Case([expected("attention_output down", PRE, 6)], ("side by side",)),
    cross_attention: Case(
        [
            _ATTENTION,
            expected("encode", PRE, 1),  # the trace has the decoder's first
            expected("attention_output", PRE, 4),
            expected("down", PRE, 2),
        ],
        streams=2,
    ),
    dense_connections: Case([], streams=0),
    dense_sums: Case([expected("first"), expected("second")]),
    u_net: Case([expected("low"), expected("high", PLAIN, 2, projected=True)]),
    whole_skip: Case([expected("noise", PLAIN, 2)]),
    pyramid: Case([], ("two sizes",) * 2, streams=0),
    shared: Case([expected("down", PRE, 2)] * 3),
    three: Case([expected("one", PLAIN, 2), expected("two")]),
    embeddings: Case([], ("an embedding is added",), streams=0),
    parallel: Case([], ("side by side",), streams=0),
    losses: Case([], ("as a loss",), streams=0),
    highway: Case([expected("h")]),
    of_ones_own: Case([expected(f"block_{1 + index // 2}", PRE, 2) for index in range(4)]),
    subclassed: Case([expected("down_0", PRE, 2), expected("down_1", PRE, 2)]),
    diffusion: Case(
        [
            expected("down_1", PRE, 3),
            expected("down_2", PRE, 3, projected=True),
            expected("attention_output", PRE, 4),
            expected("up_1", PRE, 3, projected=True),
        ],
        # The second time, what it is added to comes from the time too.
        ("shares no signal", "is spread over", "is spread over"),
    ),
}


# Of keras.applications: how many branches there are, of how many kernels each, how many streams have a
# projection beside, and what normalizes them. By the papers' tables and the code in Keras.
class Family(NamedTuple):
    kinds: dict
    kernels: dict
    projected: int = 0
    ends: int = 0
    size: int = 64


APPLICATIONS = {
    "ResNet50": Family({INSIDE: 16}, {3: 16}, projected=4, ends=16),
    "ResNet50V2": Family({INSIDE: 4, PRE: 12}, {3: 16}, projected=4),
    "MobileNetV2": Family({INSIDE: 10}, {3: 10}, ends=10),
    "MobileNetV3Small": Family({INSIDE: 6}, {3: 1, 5: 5}, ends=6),
    "EfficientNetB0": Family({INSIDE: 9}, {5: 9}, ends=9),
    "EfficientNetV2B0": Family({INSIDE: 15}, {2: 2, 5: 13}, ends=15),
    "ConvNeXtTiny": Family({INSIDE: 18}, {3: 18}),
    "Xception": Family({INSIDE: 12}, {4: 4, 6: 8}, projected=4, ends=12, size=71),
    "VGG16": Family({}, {}),
    "DenseNet121": Family({}, {}),
}
SLOW_APPLICATIONS = {
    "ResNet101": Family({INSIDE: 33}, {3: 33}, projected=4, ends=33),
    "ResNet152": Family({INSIDE: 50}, {3: 50}, projected=4, ends=50),
    "ResNet101V2": Family({INSIDE: 4, PRE: 29}, {3: 33}, projected=4),
    "ResNet152V2": Family({INSIDE: 4, PRE: 46}, {3: 50}, projected=4),
    "MobileNetV3Large": Family({INSIDE: 10}, {2: 1, 3: 4, 5: 5}, ends=10),
    "EfficientNetB1": Family({INSIDE: 16}, {4: 1, 5: 15}, ends=16),
    "EfficientNetB4": Family({INSIDE: 25}, {4: 1, 5: 24}, ends=25),
    "EfficientNetV2S": Family({INSIDE: 35}, {1: 2, 2: 6, 5: 27}, ends=35),
    "ConvNeXtSmall": Family({INSIDE: 36}, {3: 36}),
    "ConvNeXtBase": Family({INSIDE: 36}, {3: 36}),
    # Of 12 normal cells the fifth sum; in 4 reduction cells sep(sep(h) + …) + maxpool(h), and in the first
    # of them, which starts from one signal, two sums with a projection.
    "NASNetMobile": Family({INSIDE: 18}, {4: 14, 10: 4}, projected=2, ends=18, size=96),
    # Kernels of blocks of 35, 17 and 8: 1 + 2 + 3, 1 + 3, 1 + 3, and the one that writes.
    "InceptionResNetV2": Family({INSIDE: 40}, {7: 10, 5: 30}, size=96),
}
