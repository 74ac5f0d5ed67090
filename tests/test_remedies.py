"""The remedy of every finding of networks that fail: the finding goes, and the network trains."""

import re

import keras
import numpy as np
import pytest
from helpers import array
from keras import layers

import keras_winit as winit
from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.diagnosing.findings import Remedies

CLASSES, WIDTH = 4, 24
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
TRAINED = 0.9


def blobs():
    """Four clouds in sixteen dimensions, standardized."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 512)
    x = 2 * rng.standard_normal((CLASSES, 16))[labels] + rng.standard_normal((512, 16))
    return ((x - x.mean(axis=0)) / x.std(axis=0)).astype("float32"), labels


X, Y = blobs()


def plain(activation, depth, kernel="glorot_uniform"):
    hidden = [layers.Dense(WIDTH, activation, kernel_initializer=kernel, name=f"h{i}") for i in range(depth)]
    return keras.Sequential([keras.Input((16,)), *hidden, layers.Dense(CLASSES)])


def drawn(activation, depth, std):
    return plain(activation, depth, keras.initializers.RandomNormal(stddev=std))


def dead():
    model = plain("relu", 5, "he_normal")
    model.get_layer("h2").bias.assign(np.full(WIDTH, -100.0))
    return model


def zero():
    model = plain("relu", 5, "he_normal")
    model.get_layer("h2").kernel.assign(0 * array(model.get_layer("h2").kernel.value))
    return model


# A network that fails, and the data it is given.
FAILING = {
    "gelu, 10 layers by default": (lambda: plain("gelu", 10), X),
    "relu, 12 layers by default": (lambda: plain("relu", 12), X),
    "sigmoid, 6 layers by default": (lambda: plain("sigmoid", 6), X),
    "tanh, 10 layers, too large": (lambda: drawn("tanh", 10, 1.0), X),
    "relu, 8 layers, too small": (lambda: drawn("relu", 8, 0.05), X),
    "a dead layer": (dead, X),
    "a zero layer": (zero, X),
    "data of a deviation of 1e-4": (lambda: plain("relu", 2), 1e-4 * X),
    "data of a deviation of 1e5": (lambda: plain("tanh", 2), 1e5 * X),
}


def made(name):
    keras.utils.set_random_seed(0)
    return FAILING[name][0]()


def call_of(remedy):
    """The call between backquotes, of those this package makes."""
    return next(
        call for call in re.findall("`([^`]*)`", remedy) if call.startswith(("initialize", "calibrate"))
    )


def apply(call, model, data):
    names = {"initialize": winit.initialize, "calibrate": winit.calibrate, "model": model, "data": data}
    eval(call, {"__builtins__": {}}, names)


def accuracy(model, data):
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9, clipnorm=1.0), LOSS, jit_compile=False)
    keras.utils.set_random_seed(0)
    model.fit(data, Y, batch_size=32, epochs=12, verbose=0)
    return float(np.mean(array(model(data)).argmax(axis=1) == Y))


@pytest.mark.parametrize("name", FAILING)
def test_the_finding_goes_and_the_network_trains(name):
    data = FAILING[name][1]
    report = winit.diagnose(made(name), data, Y, LOSS)
    assert report.errors
    done: dict[str, tuple[set[str], float]] = {}
    for finding in report.errors:
        call = call_of(finding.remedy)
        if call not in done:
            mended = made(name)
            apply(call, mended, data)
            left = {each.code for each in winit.diagnose(mended, data, Y, LOSS).errors}
            done[call] = left, accuracy(mended, data)
        assert finding.code not in done[call][0], (str(finding), done[call])
        assert done[call][1] >= TRAINED, (str(finding), done[call])


def test_without_the_remedy_they_do_not_train():
    """Else the remedies would prove nothing."""
    assert accuracy(made("gelu, 10 layers by default"), X) < TRAINED


def test_a_remedy_never_names_what_was_just_done():
    model = plain("tanh", 30)
    for call in ("calibrate(model, data)", 'initialize(model, "looks_linear")'):
        apply(call, model, X)
        for finding in winit.diagnose(model, X, Y, LOSS).findings:
            assert call.partition("(")[0] + "(model" not in finding.remedy or call not in finding.remedy


@pytest.mark.parametrize("pooled", [False, True])
def test_what_pools_is_not_told_to_start_as_a_linear_map_of_each_place(pooled):
    pool = [layers.MaxPooling2D()] if pooled else []
    hidden = [layers.Conv2D(6, 3, padding="same", activation="relu") for _ in range(4)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *hidden, *pool, layers.Flatten(), layers.Dense(3)])
    call = "calibrate(model, data)" if pooled else 'initialize(model, "looks_linear")'
    assert f"`{call}`" in Remedies(Anatomy(model)).scale
