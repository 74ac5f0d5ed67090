"""Small models of tables, users, graphs and actions, after what their authors published."""

import keras
import numpy as np
from keras import layers, ops

from published_models.task import LOGITS, Task, compiled, images, published

Adam = keras.optimizers.Adam
SIZES = (7, 40, 100)


def table():
    """Four numbers and three kinds, and a class that depends on them."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(6000, 4)).astype("float32")
    kinds = [rng.integers(0, size, 6000).astype("int32") for size in SIZES]
    score = sum(rng.normal(size=(size, 3))[each] for size, each in zip(SIZES, kinds, strict=True))
    score += 1.5 * np.stack([numbers[:, 0] * numbers[:, 1], numbers[:, 2], -numbers[:, 3]], -1)
    return [numbers, *kinds], score.argmax(1).astype("int32")


def embedded(width=lambda size: int(size**0.5)):
    numbers, kinds = keras.Input((4,)), [keras.Input((), dtype="int32") for _ in SIZES]
    found = [layers.Embedding(size, width(size))(each) for size, each in zip(SIZES, kinds, strict=True)]
    return [numbers, *kinds], numbers, found


@published
def deep_and_cross():
    """Products of the inputs beside a deep network."""

    def build():
        inputs, numbers, kinds = embedded()
        x = cross = deep = layers.concatenate([numbers, *kinds])
        for _ in range(2):
            cross = x * layers.Dense(x.shape[-1])(cross) + cross
        cross = layers.BatchNormalization()(cross)
        for _ in range(2):
            deep = layers.Dropout(0.1)(layers.ReLU()(layers.BatchNormalization()(layers.Dense(32)(deep))))
        outputs = layers.Dense(3, activation="softmax")(layers.concatenate([cross, deep]))
        return compiled(keras.Model(inputs, outputs), Adam(1e-3), "sparse_categorical_crossentropy")

    return Task(build, *table(), steps=300, batch=64)


@published
def wide_embeddings():
    """Numbers and kinds through three dense layers with SELU, as a table is often learned."""

    def build():
        inputs, numbers, kinds = embedded(lambda _: 8)
        x = layers.concatenate([layers.BatchNormalization()(numbers), *kinds])
        for units in (64, 32):
            x = layers.Dropout(0.1)(
                layers.Dense(units, activation="selu", kernel_initializer="lecun_normal")(x)
            )
        outputs = layers.Dense(3, activation="softmax")(x)
        return compiled(keras.Model(inputs, outputs), Adam(1e-3), "sparse_categorical_crossentropy")

    return Task(build, *table(), steps=300, batch=64)


class Gated(layers.Layer):
    """A gated residual network, as in the temporal fusion transformer."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.first, self.second = layers.Dense(units, activation="elu"), layers.Dense(units)
        self.value, self.gate = layers.Dense(units), layers.Dense(units, activation="sigmoid")
        self.project, self.norm, self.drop = (
            layers.Dense(units),
            layers.LayerNormalization(),
            layers.Dropout(0.1),
        )

    def call(self, inputs):
        x = self.drop(self.second(self.first(inputs)))
        return self.norm(self.project(inputs) + self.value(x) * self.gate(x))


@published
def gated_residual():
    """Variables that are weighed by a softmax, each through a gated residual network."""

    def build():
        inputs, numbers, kinds = embedded(lambda _: 16)
        every = [layers.Dense(16)(numbers), *kinds]
        weights = layers.Dense(len(every), activation="softmax")(Gated(16)(layers.concatenate(every)))
        x = ops.sum(ops.stack([Gated(16)(each) for each in every], 1) * ops.expand_dims(weights, -1), axis=1)
        return compiled(keras.Model(inputs, layers.Dense(3)(x)), Adam(1e-3), LOGITS)

    return Task(build, *table(), steps=200, batch=64)


@published
def collaborative_filtering():
    """The product of a user's and a film's vectors, and two numbers."""
    rng = np.random.default_rng(0)
    users, films = rng.integers(0, 150, 8000), rng.integers(0, 200, 8000)
    taste = (rng.normal(size=(150, 4))[users] * rng.normal(size=(200, 4))[films]).sum(1) / 2
    y = (1 / (1 + np.exp(-taste)))[:, None].astype("float32")

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            given = {"embeddings_initializer": "he_normal"}
            self.users, self.films = layers.Embedding(150, 16, **given), layers.Embedding(200, 16, **given)
            self.user_bias, self.film_bias = layers.Embedding(150, 1), layers.Embedding(200, 1)

        def call(self, inputs):
            user, film = inputs[:, 0], inputs[:, 1]
            product = ops.sum(self.users(user) * self.films(film), axis=1, keepdims=True)
            return ops.sigmoid(product + self.user_bias(user) + self.film_bias(film))

    x = np.stack([users, films], 1).astype("int32")

    def build():
        model = Model()
        model(x[:2])
        return compiled(model, Adam(1e-2), "mse")

    return Task(build, x, y, steps=300, batch=64)


@published
def two_towers():
    """A user's and an item's tower, and a softmax over the items of the batch."""
    rng = np.random.default_rng(0)
    users = rng.integers(0, 200, 6000).astype("int32")
    items = ((users * 7) % 50 + rng.integers(0, 3, 6000)).clip(max=52).astype("int32")

    def tower(count):
        inputs = keras.Input((), dtype="int32")
        x = layers.Dense(32, activation="relu")(layers.Embedding(count, 32)(inputs))
        return inputs, layers.Dense(16)(x)

    def in_batch(_labels, scores):
        return keras.losses.sparse_categorical_crossentropy(
            ops.arange(ops.shape(scores)[0]), scores, from_logits=True
        )

    def build():
        (user, one), (item, two) = tower(200), tower(53)
        scores = ops.matmul(one, ops.transpose(two))
        return compiled(keras.Model([user, item], scores), keras.optimizers.Adagrad(0.1), in_batch)

    return Task(build, [users, items], np.zeros(6000, "int32"), steps=200, batch=32)


@published
def rare_class():
    """One in fifty is positive; the last bias starts at the prior."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8000, 20)).astype("float32")
    score = x[:, :5].sum(1) + 0.5 * x[:, 5] * x[:, 6]
    y = (score > np.quantile(score, 0.98)).astype("float32")[:, None]

    def build():
        prior = keras.initializers.Constant(np.log(0.02 / 0.98))
        stack = [keras.Input((20,))]
        for _ in range(2):
            stack += [layers.Dense(64, activation="relu"), layers.Dropout(0.3)]
        stack.append(layers.Dense(1, activation="sigmoid", bias_initializer=prior))
        return compiled(keras.Sequential(stack), Adam(1e-3), "binary_crossentropy")

    return Task(build, x, y, steps=300, batch=128)


class Neighbours(layers.Layer):
    """Graph attention: a softmax over the neighbours, by what two vectors make of the nodes."""

    def __init__(self, units, heads, **options):
        super().__init__(**options)
        self.units, self.heads = units, heads

    def build(self, shape):
        width = shape[0][-1]
        given = {"initializer": "glorot_uniform"}
        self.kernel = self.add_weight(shape=(width, self.heads, self.units), name="kernel", **given)
        self.source = self.add_weight(shape=(self.heads, self.units), name="source", **given)
        self.target = self.add_weight(shape=(self.heads, self.units), name="target", **given)

    def call(self, inputs):
        x, edges = inputs
        hidden = ops.einsum("bnd,dhu->bnhu", x, self.kernel)
        source = ops.einsum("bnhu,hu->bhn", hidden, self.source)
        target = ops.einsum("bnhu,hu->bhn", hidden, self.target)
        scores = ops.leaky_relu(source[..., :, None] + target[..., None, :])
        weights = ops.softmax(scores + (edges[:, None] - 1) * 1e4, axis=-1)
        mixed = ops.einsum("bhnm,bmhu->bnhu", weights, hidden)
        return ops.reshape(mixed, (-1, x.shape[1], self.heads * self.units))


@published
def graph_attention():
    """Which of four kinds a graph of twelve nodes is, by its edges and what its nodes hold."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, 3000)
    centre = rng.normal(size=(4, 10)) * 0.4
    x = (centre[kind][:, None] + rng.normal(size=(3000, 12, 10))).astype("float32")
    edges = (rng.random((3000, 12, 12)) < (0.1 + 0.1 * kind)[:, None, None]).astype("float32")
    edges = np.maximum(edges, np.eye(12, dtype="float32"))

    def build():
        inputs = [keras.Input((12, 10)), keras.Input((12, 12))]
        h = layers.Dense(32, activation="relu")(inputs[0])
        for _ in range(2):
            h = layers.add([layers.Activation("elu")(Neighbours(8, 4)([h, inputs[1]])), h])
        outputs = layers.Dense(4)(layers.GlobalAveragePooling1D()(h))
        return compiled(keras.Model(inputs, outputs), Adam(3e-3), LOGITS)

    return Task(build, [x, edges], kind.astype("int32"), steps=120)


def pendulum():
    """States of a pendulum, actions and what they cost."""
    rng = np.random.default_rng(0)
    angle, speed = rng.uniform(-3, 3, 3000), rng.uniform(-8, 8, 3000)
    action = rng.uniform(-2, 2, (3000, 1)).astype("float32")
    state = np.stack([np.cos(angle), np.sin(angle), speed], 1).astype("float32")
    reward = -(angle**2 + 0.1 * speed**2 + 0.001 * action[:, 0] ** 2)
    return state, action, reward[:, None].astype("float32"), np.clip(-2 * angle - 0.3 * speed, -2, 2)[:, None]


@published
def ddpg_actor():
    """A policy whose last kernel starts at ±0.003, before a tanh."""
    state, _, _, best = pendulum()

    def build():
        last = keras.initializers.RandomUniform(-0.003, 0.003)
        inputs = keras.Input((3,))
        x = layers.Dense(64, activation="relu")(inputs)
        x = layers.Dense(64, activation="relu")(x)
        outputs = 2.0 * layers.Dense(1, activation="tanh", kernel_initializer=last)(x)
        return compiled(keras.Model(inputs, outputs), Adam(1e-3), "mse")

    return Task(build, state, best.astype("float32"), steps=200, batch=64)


@published
def ddpg_critic():
    """What a state and an action are worth."""
    state, action, reward, _ = pendulum()

    def build():
        inputs = [keras.Input((3,)), keras.Input((1,))]
        x = layers.Dense(32, activation="relu")(layers.Dense(16, activation="relu")(inputs[0]))
        x = layers.Concatenate()([x, layers.Dense(32, activation="relu")(inputs[1])])
        for _ in range(2):
            x = layers.Dense(64, activation="relu")(x)
        return compiled(keras.Model(inputs, layers.Dense(1)(x)), Adam(2e-3), "mse")

    return Task(build, [state, action], reward, steps=200, batch=64)


@published
def policy():
    """PPO: tanh layers, orthogonal with a gain, and a head of 0.01."""
    state, _, _, best = pendulum()

    def build():
        def orthogonal(gain):
            return keras.initializers.Orthogonal(gain)

        stack = [
            keras.Input((3,)),
            *(layers.Dense(64, "tanh", kernel_initializer=orthogonal(2**0.5)) for _ in range(2)),
            layers.Dense(5, kernel_initializer=orthogonal(0.01)),
        ]
        return compiled(keras.Sequential(stack), Adam(1e-3, epsilon=1e-5), LOGITS)

    return Task(
        build, state, np.digitize(best[:, 0], (-1.5, -0.5, 0.5, 1.5)).astype("int32"), steps=200, batch=64
    )


@published
def point_net():
    """Points of a digit, turned by a small network whose last bias is the identity."""

    def dense(units, x):
        return layers.Activation("relu")(layers.BatchNormalization(momentum=0.0)(layers.Dense(units)(x)))

    def pointwise(units, x):
        x = layers.BatchNormalization(momentum=0.0)(layers.Conv1D(units, 1, padding="valid")(x))
        return layers.Activation("relu")(x)

    def turned(x, size):
        y = layers.GlobalMaxPooling1D()(pointwise(64, pointwise(16, x)))
        identity = keras.initializers.Constant(np.eye(size).flatten())
        y = layers.Dense(size * size, kernel_initializer="zeros", bias_initializer=identity)(dense(32, y))
        return layers.Dot(axes=(2, 1))([x, layers.Reshape((size, size))(y)])

    def build():
        inputs = keras.Input((32, 3))
        x = pointwise(16, turned(inputs, 3))
        x = layers.GlobalMaxPooling1D()(pointwise(64, pointwise(32, turned(x, 16))))
        x = layers.Dropout(0.3)(dense(32, x))
        outputs = layers.Dense(10, activation="softmax")(x)
        return compiled(keras.Model(inputs, outputs), Adam(1e-3), "sparse_categorical_crossentropy")

    pictures, digit = images(8)
    rng = np.random.default_rng(0)
    points = []
    for picture in pictures[..., 0]:
        row, column = np.divmod(rng.choice(64, 32, p=picture.ravel() / picture.sum()), 8)
        points.append(np.stack([row - 3.5, column - 3.5, 4 * picture[row, column]], 1) / 4)
    return Task(build, np.array(points, "float32"), digit, steps=150)
