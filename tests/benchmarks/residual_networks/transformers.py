"""Transformers of text and of images."""

from functools import partial

import keras
from keras import layers
from published_models.task import characters
from published_models.text import Sum
from published_models.vision import Patches, Tokens

from residual_networks.images import pixels
from residual_networks.network import NETWORKS, Network, adam

LENGTH, WIDTH, HEADS = 24, 32, 2


def normal():
    return layers.LayerNormalization(epsilon=1e-6)


def attended(x, *, causal):
    return layers.MultiHeadAttention(HEADS, x.shape[-1] // HEADS)(x, x, use_causal_mask=causal)


def mixed(x):
    return layers.Dense(x.shape[-1])(layers.Dense(2 * x.shape[-1], "gelu")(x))


def pre_norm(x, *, causal=True):
    x = layers.Add()([x, attended(normal()(x), causal=causal)])
    return layers.Add()([x, mixed(normal()(x))])


def post_norm(x):
    x = normal()(layers.Add()([x, attended(x, causal=True)]))
    return normal()(layers.Add()([x, mixed(x)]))


def text():
    return characters(LENGTH)[:2]


def transformer(block, depth):
    """The next character of text, by a decoder alone."""
    letters = characters(LENGTH)[2]
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = Sum(LENGTH, letters, WIDTH)(inputs)
    for _ in range(depth):
        x = block(x)
    if block is pre_norm:
        x = normal()(x)
    return keras.Model(inputs, layers.Dense(letters)(x))


def vision_transformer():
    """Patches of four by four, six blocks, their mean."""
    inputs = keras.Input((16, 16, 1))
    x = Tokens(16, WIDTH)(Patches(4)(inputs))
    for _ in range(6):
        x = pre_norm(x, causal=False)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(normal()(x))))


for kind, block, recipe, steps in (
    ("post-norm", post_norm, "deepnorm", 100),
    ("pre-norm", pre_norm, "gpt2", 60),
):
    for depth in (12, 24, 48):
        NETWORKS[f"{kind} {depth}"] = Network(
            partial(transformer, block, depth), text, recipe, adam, range(-7, -2), steps=steps
        )
NETWORKS["ViT"] = Network(vision_transformer, partial(pixels, 16), "vit", adam, range(-7, -2))
