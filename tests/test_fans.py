"""Fans of a shape."""

import copy
import pickle

import keras
import pytest
from helpers import TAKES_AXES

import keras_winit as winit
from keras_winit.theory.fans import Fans


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((), (None, None), (1, 1)),
        ((7,), (None, None), (7, 7)),
        ((3, 5), (None, None), (3, 5)),
        ((4, 3, 5), (None, None), (12, 20)),
        ((2, 4, 3, 5), (None, None), (24, 40)),
        ((2, 2, 4, 3, 5), (None, None), (48, 80)),
        ((32, 8, 16), ([0], [1, 2]), (32, 128)),
        ((8, 16, 32), ([0, 1], [2]), (128, 32)),
        ((8, 16, 32), ([-3, -2], [-1]), (128, 32)),
        ((4, 16, 32), ([1], [2]), (16, 32)),
        ((5,), ([], [0]), (1, 5)),
    ],
)
def test_fans_of_a_shape(shape, axes, expected):
    assert winit.compute_fans(shape, *axes) == expected
    if axes == (None, None) or TAKES_AXES:
        given = axes if TAKES_AXES else ()
        keras_fans = keras.src.initializers.random_initializers.compute_fans(shape, *given)
        assert tuple(winit.compute_fans(shape, *axes)) == tuple(keras_fans)


def test_a_pair_with_names():
    fans = winit.compute_fans((3, 3, 32, 64))
    fan_in, fan_out = fans
    assert (fan_in, fan_out) == (fans.fan_in, fans.fan_out) == (288, 576)
    assert [fans.average(mode) for mode in ("fan_in", "fan_out", "fan_avg")] == [288, 576, 432]
    assert fans.average("fan_geo_avg") == pytest.approx((288 * 576) ** 0.5)


def test_copies_keep_the_note():
    fans = Fans(3, 4.5, "by hand")
    for again in (copy.copy(fans), copy.deepcopy(fans), pickle.loads(pickle.dumps(fans))):
        assert again == fans
        assert again.note == "by hand"


@pytest.mark.parametrize("pair", [(0, 1), (1, -1), ("a", 1), (None, 1), (float("inf"), 1), (True, 1)])
def test_bad_fans(pair):
    with pytest.raises((TypeError, ValueError), match="`fan_(in|out)` must be .*Received"):
        Fans(*pair)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (([0], None), "go together"),
        (([0], [5]), "does not have"),
        (([0], [0]), "either an input or an output"),
        (([0, 0], [1]), "must not repeat"),
        (("0", [1]), "must be a list of integers"),
        (([0.5], [1]), "must hold integers"),
    ],
)
def test_bad_axes(axes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        winit.compute_fans((3, 4), *axes)
