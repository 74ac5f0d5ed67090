"""How long the plain chain of kernels is that each kernel is in."""

import keras
import pytest
from keras import layers

import keras_winit as winit
from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.following import DEEP, Depths
from keras_winit.models.calibrating.targets import LONG, SHORT


def stack(count, between=()):
    """Dense layers, some of them with what comes behind them."""
    model = keras.Sequential([keras.Input((6,))])
    for index in range(count):
        model.add(layers.Dense(6, "relu"))
        for where, layer in between:
            if where == index:
                model.add(layer)
    return model


def residual():
    inputs = x = keras.Input((6,))
    for _ in range(12):
        x = layers.Add()([x, layers.Dense(6)(layers.Dense(6, "relu")(x))])
    return keras.Model(inputs, x)


def joined():
    """Two towers of different heights, whose features are joined."""
    one, two = keras.Input((6,)), keras.Input((6,))
    low, high = layers.Dense(6)(one), layers.Dense(6)(layers.Dense(6)(layers.Dense(6)(two)))
    return keras.Model([one, two], layers.Dense(2)(layers.Concatenate()([low, high])))


def recurrent():
    steps = keras.Input((4, 6))
    return keras.Model(steps, layers.Dense(2)(layers.LSTM(6)(layers.Dense(6)(steps))))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: stack(12), [12] * 12),
        (lambda: stack(5, [(1, layers.Dropout(0.5)), (2, layers.Flatten())]), [5] * 5),
        (lambda: stack(6, [(1, layers.LayerNormalization())]), [2, 2, 4, 4, 4, 4]),
        (lambda: stack(4, [(0, layers.BatchNormalization())]), [1, 3, 3, 3]),
        (residual, [2] * 24),
        (joined, [2, 4, 4, 4, 4]),
        (recurrent, [1, 2, 2]),  # what comes out of it is bounded, and a start
    ],
    ids=["plain", "looked through", "normalized", "batch normalized", "residual", "joined", "recurrent"],
)
def test_the_longest_chain_counts(build, expected):
    anatomy = Anatomy(build())
    depths = Depths(anatomy)
    assert sorted(depths.of(slot) for slot in anatomy.slots if slot.role == "kernel") == sorted(expected)


@pytest.mark.parametrize(("count", "scheme"), [(DEEP - 1, "glorot_uniform"), (DEEP, "he_uniform")])
def test_he_is_for_long_chains(count, scheme):
    plan = winit.initialize(stack(count), seed=0)
    assert {row.scheme for row in plan.rows if row.role == "kernel"} == {scheme}


@pytest.mark.parametrize(("count", "std"), [(DEEP - 1, SHORT), (DEEP, LONG)])
def test_calibrate_aims_lower_in_short_chains(count, std):
    rows = winit.calibrate(stack(count), seed=0).rows
    assert rows[0].after == max(row.after or 0.0 for row in rows) == std
    assert (len({row.after for row in rows}) == 1) == (std == LONG)


def test_of_a_layer_alone_nothing_is_known():
    layer = layers.Dense(3, "relu")
    layer.build((None, 4))
    anatomy = Anatomy(layer)
    assert not any(Depths(anatomy).is_short(slot) for slot in anatomy.slots)
    assert winit.initialize(layer, seed=0).rows[0].scheme == "he_uniform"
