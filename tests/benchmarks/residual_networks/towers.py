"""Narrow residual networks of many equal blocks, and a diffusion U-Net."""

from functools import partial

import keras
from keras import layers
from published_models.generative import diffusion

from residual_networks.images import pixels
from residual_networks.network import NETWORKS, Network, adam

FILTERS = 16


def convolved(x):
    return layers.Conv2D(FILTERS, 3, padding="same")(x)


def normal(x):
    return layers.BatchNormalization()(x)


def bare(x):
    """The order of He et al. 2015, its normalization taken out."""
    y = convolved(layers.ReLU()(convolved(x)))
    return layers.ReLU()(layers.Add()([x, y]))


def first_order(x):
    """The order of He et al. 2015: normalized behind each convolution."""
    y = normal(convolved(layers.ReLU()(normal(convolved(x)))))
    return layers.ReLU()(layers.Add()([x, y]))


def second_order(x):
    """The order of He et al. 2016: normalized before each convolution."""
    y = convolved(layers.ReLU()(normal(x)))
    return layers.Add()([x, convolved(layers.ReLU()(normal(y)))])


def tower(block, depth):
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(FILTERS, 3, 2, padding="same")(inputs)
    if block is not second_order:
        x = layers.ReLU()(normal(x) if block is first_order else x)
    for _ in range(depth):
        x = block(x)
    if block is second_order:
        x = layers.ReLU()(normal(x))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


for kind, block, recipe, steps in (
    ("no norm", bare, "fixup", 150),
    ("v1", first_order, "zero_gamma", 60),
    ("v2", second_order, "zero_gamma", 60),
):
    for depth in (24, 100):
        NETWORKS[f"tower {depth}, {kind}"] = Network(
            partial(tower, block, depth), partial(pixels, 8), recipe, steps=steps
        )


def noise():
    task = diffusion()
    return task.x, task.y


NETWORKS["U-Net"] = Network(
    *(lambda: diffusion().build(), noise, "zero_gamma", adam, range(-7, -2)),
    loss=keras.losses.MeanAbsoluteError(),
)
