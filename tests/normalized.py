"""Kernels before a normalization, and what tests of them share."""

import keras
import numpy as np
from keras import layers

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.normalizing import normalizations_after


def images(count=48, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 8, 8, 5)).astype("float32") * 3


def after(*between, kernel=None, **options):
    """A model in which these layers come between a kernel and an activation."""
    inputs = keras.Input((8, 8, 5))
    x = (kernel or layers.Conv2D(7, 3, padding="same", name="kernel", **options))(inputs)
    for layer in between:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(2, name="last")(layers.Flatten()(layers.ReLU()(x))))


def normalizing(model):
    """The names of the normalizations that divide by the size of the layer `kernel`."""
    anatomy = Anatomy(model)
    found = [normalizations_after(anatomy, slot) for slot in anatomy.slots if slot.layer.name == "kernel"]
    return [layer.name for layer in found[0]]
