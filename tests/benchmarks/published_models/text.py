"""Small models of text, after what their authors published."""

import keras
import numpy as np
from keras import layers, ops

from published_models.task import LOGITS, Task, characters, compiled, positions, published, sentences

Adam = keras.optimizers.Adam


@published
def text_convnet():
    """Embedded words, two convolutions over them, and the greatest of each."""

    def build():
        inputs = keras.Input((None,), dtype="int32")
        x = layers.Dropout(0.5)(layers.Embedding(500, 64)(inputs))
        x = layers.Conv1D(64, 7, strides=3, activation="relu")(x)
        x = layers.Conv1D(64, 3, strides=2, activation="relu")(x)
        x = layers.Dropout(0.5)(layers.Dense(64, activation="relu")(layers.GlobalMaxPooling1D()(x)))
        outputs = layers.Dense(1, activation="sigmoid")(x)
        return compiled(keras.Model(inputs, outputs), "adam", "binary_crossentropy")

    return Task(build, *sentences(4000, 30, 500), steps=250)


@published
def bidirectional_lstm():
    """Two bidirectional LSTMs on embedded words."""

    def build():
        inputs = keras.Input((None,), dtype="int32")
        x = layers.Bidirectional(layers.LSTM(16, return_sequences=True))(layers.Embedding(500, 32)(inputs))
        x = layers.Dense(1, activation="sigmoid")(layers.Bidirectional(layers.LSTM(16))(x))
        return compiled(keras.Model(inputs, x), "adam", "binary_crossentropy")

    return Task(build, *sentences(4000, 20, 500), steps=200)


class Sum(layers.Layer):
    """Embeddings of tokens and of positions, added."""

    def __init__(self, length, words, width, scale=None, **options):
        super().__init__(**options)
        given = (
            {} if scale is None else {"embeddings_initializer": keras.initializers.RandomNormal(stddev=scale)}
        )
        self.length = length
        self.tokens, self.places = (
            layers.Embedding(words, width, **given),
            layers.Embedding(length, width, **given),
        )

    def call(self, inputs):
        return self.tokens(inputs) + self.places(positions(self.length))


class PostNorm(layers.Layer):
    def __init__(self, heads, width, inner, *, causal=False, **options):
        super().__init__(**options)
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.inner = keras.Sequential([layers.Dense(inner, activation="relu"), layers.Dense(width)])
        self.first, self.second = (layers.LayerNormalization(epsilon=1e-6) for _ in range(2))
        self.drop, self.again = layers.Dropout(0.1), layers.Dropout(0.1)
        self.causal = causal

    def call(self, inputs):
        x = self.attention(inputs, inputs, use_causal_mask=self.causal)
        x = self.first(inputs + self.drop(x))
        return self.second(x + self.again(self.inner(x)))


@published
def mini_gpt():
    """Keras' miniature GPT, which normalizes behind each sum."""
    x, y, letters = characters(24)

    def build():
        inputs = keras.Input((24,), dtype="int32")
        hidden = Sum(24, letters, 48)(inputs)
        for _ in range(2):
            hidden = PostNorm(2, 48, 96, causal=True)(hidden)
        return compiled(keras.Model(inputs, layers.Dense(letters)(hidden)), "adam", LOGITS)

    return Task(build, x, y, steps=150)


class PreNorm(layers.Layer):
    def __init__(self, heads, width, inner, **options):
        super().__init__(**options)
        normal = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.02)}
        self.attention = layers.MultiHeadAttention(heads, width // heads, **normal)
        self.up, self.down = layers.Dense(inner, "gelu", **normal), layers.Dense(width, **normal)
        self.first, self.second = layers.LayerNormalization(), layers.LayerNormalization()

    def call(self, inputs):
        x = self.first(inputs)
        x = inputs + self.attention(x, x, use_causal_mask=True)
        return x + self.down(self.up(self.second(x)))


@published
def gpt2():
    """GPT-2: pre-norm blocks, and an output tied to the embedding, all of deviation 0.02."""
    x, y, letters = characters(24)

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            normal = keras.initializers.RandomNormal(stddev=0.02)
            self.tokens = layers.ReversibleEmbedding(letters, 48, embeddings_initializer=normal)
            self.places = layers.Embedding(24, 48, embeddings_initializer=normal)
            self.blocks = [PreNorm(3, 48, 192) for _ in range(4)]
            self.norm = layers.LayerNormalization()

        def call(self, inputs):
            x = self.tokens(inputs) + self.places(positions(24))
            for block in self.blocks:
                x = block(x)
            return self.tokens(self.norm(x), reverse=True)

    def build():
        model = Model()
        model(x[:2])
        return compiled(model, keras.optimizers.AdamW(2e-3), LOGITS)

    return Task(build, x, y, steps=150)


@published
def bert():
    """Two post-norm blocks that read a pair of sentences by a token of their own."""

    def build():
        normal = keras.initializers.TruncatedNormal(stddev=0.02)
        inputs = keras.Input((20,), dtype="int32")
        x = layers.LayerNormalization(epsilon=1e-12)(Sum(20, 500, 48, 0.02)(inputs))
        for _ in range(2):
            x = PostNorm(3, 48, 96)(layers.Dropout(0.1)(x))
        x = layers.Dense(48, activation="tanh", kernel_initializer=normal)(x[:, 0, :])
        x = layers.Dense(1, kernel_initializer=normal)(layers.Dropout(0.1)(x))
        return compiled(
            keras.Model(inputs, x),
            keras.optimizers.AdamW(5e-4),
            keras.losses.BinaryCrossentropy(from_logits=True),
        )

    return Task(build, *sentences(4000, 20, 500), steps=250)


@published
def translation():
    """A GRU that reads digits and one that writes them backwards, letter by letter."""

    def build():
        given, before = keras.Input((6,), dtype="int32"), keras.Input((6,), dtype="int32")
        _, state = layers.GRU(48, return_state=True)(layers.Embedding(12, 24, mask_zero=True)(given))
        x = layers.GRU(48, return_sequences=True)(
            layers.Embedding(12, 24, mask_zero=True)(before), initial_state=state
        )
        outputs = layers.Dense(12, activation="softmax")(x)
        return compiled(keras.Model([given, before], outputs), "rmsprop", "sparse_categorical_crossentropy")

    x = np.random.default_rng(0).integers(1, 11, (4000, 6)).astype("int32")
    y = x[:, ::-1]
    before = np.concatenate([np.full((4000, 1), 11, "int32"), y[:, :-1]], 1)
    return Task(build, [x, before], y, steps=250, batch=64)


class Fourier(layers.Layer):
    def __init__(self, width, inner, **options):
        super().__init__(**options)
        self.inner = keras.Sequential([layers.Dense(inner, activation="relu"), layers.Dense(width)])
        self.first, self.second = layers.LayerNormalization(), layers.LayerNormalization()

    def call(self, inputs):
        mixed, _ = ops.fft2((inputs, ops.zeros_like(inputs)))
        x = self.first(inputs + mixed)
        return self.second(x + self.inner(x))


@published
def fnet():
    """A Fourier transform in the place of attention."""

    def build():
        inputs = keras.Input((20,), dtype="int32")
        x = Fourier(32, 64)(Sum(20, 500, 32)(inputs))
        x = layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(Fourier(32, 64)(x)))
        outputs = layers.Dense(1, activation="sigmoid")(x)
        return compiled(keras.Model(inputs, outputs), Adam(1e-3), "binary_crossentropy")

    return Task(build, *sentences(4000, 20, 500), steps=250)
