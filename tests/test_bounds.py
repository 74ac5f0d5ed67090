"""What calibrate leaves alone, since no factor should make up for what makes a signal small."""

import keras
import numpy as np
import pytest
from helpers import array
from keras import layers

import keras_winit as winit
from keras_winit.models.calibrating.targets import SHORT

DATA = np.random.default_rng(0).normal(size=(128, 32)).astype("float32")


def rows(model, data=DATA, **options):
    found = winit.calibrate(model, data, seed=0, progress=False, **options).rows
    return {row.path.split("/")[-2]: row for row in found}


def behind(before):
    inputs = keras.Input((32,))
    x = layers.Dense(40, "relu", name="first")(inputs)
    for layer in before:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(6, name="last")(layers.Dense(20, "tanh", name="behind")(x)))


@pytest.mark.parametrize(
    ("before", "cause"),
    [
        (
            [layers.LayerNormalization(gamma_initializer=keras.initializers.Constant(1e-4), name="norm")],
            "norm/gamma",
        ),
        (
            [layers.BatchNormalization(gamma_initializer=keras.initializers.Constant(1e-4), name="norm")],
            "norm/gamma, at most 0.0001,",
        ),
        (
            [
                layers.Dense(
                    30, name="near_zero", kernel_initializer=keras.initializers.RandomNormal(stddev=1e-5)
                )
            ],
            "near_zero/kernel",
        ),
    ],
    ids=["layer norm", "batch norm", "near-zero kernel"],
)
def test_a_kernel_is_not_made_ten_thousand_times_as_large(before, cause):
    model = behind(before)
    found = rows(model)["behind"]
    assert found.factor is None
    assert cause in found.reason
    assert "makes its signal small" in found.reason
    kernel = array(model.get_layer("behind").kernel)
    assert kernel.std() < 0.5


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e5])
def test_data_may_have_any_scale(scale):
    found = rows(behind([]), DATA * np.float32(scale))
    assert found["first"].factor == pytest.approx(rows(behind([]))["first"].factor / scale, rel=0.01)
    assert found["first"].after == SHORT
    assert found["behind"].factor == pytest.approx(1, abs=1e-5)  # 40 to 20 units: orthogonal, and it stays
    assert found["behind"].after == found["behind"].before


def test_an_average_over_many_places_is_made_up_for():
    inputs = keras.Input((40, 40, 3))
    x = layers.Conv2D(16, 3, activation="tanh", name="first")(inputs)
    x = layers.Dense(20, "tanh", name="behind")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, layers.Dense(5, name="last")(x))
    images = np.random.default_rng(0).normal(size=(16, 40, 40, 3)).astype("float32")
    found = rows(model, images, target_std=0.5)
    assert found["behind"].after == 0.5
    assert found["behind"].factor > 10


def test_in_a_short_chain_no_kernel_grows_but_what_reads_the_data():
    """Where Glorot's kernels let a signal shrink, larger ones would learn more slowly."""
    stack = [layers.Dense(40, "relu", name=f"hidden_{index}") for index in range(5)]
    model = keras.Sequential([keras.Input((32,)), *stack, layers.Dense(6, name="last")])
    found = rows(model, 1e-3 * DATA)
    assert found["hidden_0"].after == SHORT
    assert found["hidden_0"].factor > 100
    for index in range(1, 5):
        row = found[f"hidden_{index}"]
        assert row.factor == pytest.approx(1, abs=1e-6)
        assert 0.1 * SHORT < row.after < SHORT
        assert found[f"hidden_{index}"].after < found[f"hidden_{index - 1}"].after
    shrunk = rows(model, 100 * DATA, scheme={"hidden_3": keras.initializers.RandomNormal(stddev=5)})
    assert shrunk["hidden_3"].factor < 1
    exact = rows(model, 1e-3 * DATA, target_std=0.5)
    assert [exact[f"hidden_{index}"].after for index in range(5)] == [0.5] * 5


def blocks(*parts):
    """Four blocks of a dense layer, and a normalization before or behind its activation."""
    inputs = x = keras.Input((32,))
    for _ in range(4):
        x = layers.Dense(64)(x)
        for part in parts:
            x = part()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize(
    "parts",
    [
        (layers.ReLU, layers.BatchNormalization),
        (layers.BatchNormalization, layers.ReLU),
        (lambda: layers.Activation("gelu"), layers.BatchNormalization),
        (lambda: layers.Activation("tanh"), layers.BatchNormalization),
    ],
    ids=["relu first", "relu behind", "gelu first", "tanh first"],
)
def test_in_training_a_signal_has_the_size_that_it_has_in_use(parts):
    model = blocks(*parts)
    data = 3 * DATA + 1
    calibration = winit.calibrate(model, data, seed=0, progress=False)
    in_use, in_training = (array(model(data, training=training)).std() for training in (False, True))
    assert in_training == pytest.approx(in_use, rel=0.15)
    homogeneous = parts[0] is not layers.ReLU or parts[1] is layers.BatchNormalization
    if homogeneous and "tanh" not in str(model.get_config()):
        assert len(calibration.normalized) == 4


@pytest.mark.parametrize(("activation", "divided"), [("relu", True), ("silu", True), ("tanh", False)])
@pytest.mark.parametrize("own", [True, False])
def test_a_normalization_behind_an_activation_divides_by_a_kernels_size(activation, divided, own):
    inputs = keras.Input((32,))
    x = layers.Dense(64, activation if own else None, name="first")(inputs)
    x = x if own else layers.Activation(activation)(x)
    model = keras.Model(inputs, layers.Dense(3)(layers.LayerNormalization(name="norm")(x)))
    row = winit.initialize(model, seed=0).rows[0]
    assert (row.reason == "norm divides by its size") == divided


def test_statistics_that_were_learned_stay():
    inputs = keras.Input((32,))
    model = keras.Model(inputs, layers.Dense(3)(layers.BatchNormalization(name="learned")(inputs)))
    mean = model.get_layer("learned").moving_mean
    mean.assign(np.full(32, 0.5, "float32"))
    assert not winit.calibrate(model, DATA, scheme="keep", seed=0, progress=False).statistics
    np.testing.assert_array_equal(array(mean), 0.5)
    assert len(winit.calibrate(model, DATA, seed=0, progress=False).statistics) == 2  # which resets it first


@pytest.mark.parametrize("bias", [True, False])
def test_answers_are_made_no_larger_than_glorots(bias):
    stack = [layers.Dense(40, "relu") for _ in range(6)]
    model = keras.Sequential([keras.Input((32,)), *stack, layers.Dense(6, use_bias=bias, name="last")])
    rows(model)
    assert array(model.get_layer("last").kernel).std() <= 1.01 * (2 / 46) ** 0.5
