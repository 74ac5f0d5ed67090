"""Kernels before a normalization, which divides by their size: what that leaves open, and what is chosen."""

import keras
import numpy as np
import pytest
from helpers import array, needs_renorm
from keras import layers, ops
from normalized import after, images, normalizing

import keras_winit as winit
from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.following import NUMBER_STD
from keras_winit.models.anatomy.normalizing import normalizations_after

NORMALIZATIONS = [
    layers.BatchNormalization,
    layers.LayerNormalization,
    lambda **name: layers.GroupNormalization(7, **name),
    layers.RMSNormalization,
    layers.UnitNormalization,
]


@pytest.mark.parametrize("make", NORMALIZATIONS)
@pytest.mark.parametrize(
    "between",
    [
        list,
        lambda: [layers.ZeroPadding2D(1), layers.Dropout(0.0)],
        lambda: [layers.MaxPooling2D(), layers.Reshape((16, 7)), layers.UpSampling1D()],
        lambda: [layers.Permute((2, 1, 3)), layers.Identity()],
    ],
)
def test_what_scales_with_the_kernel_is_looked_through(make, between):
    norm = make(name="norm")
    model = after(*between(), norm)
    assert normalizing(model) == ["norm"]
    # Indeed: a kernel three times as large changes nothing in training.
    x = images()
    keras.utils.set_random_seed(1)
    first = array(model(x, training=True))
    for layer in model.layers:
        if layer.name == "kernel":
            layer.kernel.assign(3 * layer.kernel)
    keras.utils.set_random_seed(1)
    np.testing.assert_allclose(array(model(x, training=True)), first, rtol=0.02, atol=0.01)


@pytest.mark.parametrize(
    "between",
    [
        lambda: [layers.ELU(), layers.BatchNormalization()],
        lambda: [layers.GaussianNoise(0.1), layers.BatchNormalization()],
        lambda: [layers.BatchNormalization(trainable=False)],
        pytest.param(lambda: [layers.BatchNormalization(renorm=True)], marks=needs_renorm),
        lambda: [layers.GlobalAveragePooling2D(), layers.BatchNormalization()],  # far smaller by then
        lambda: [layers.Activation("tanh"), layers.LayerNormalization()],
    ],
)
def test_what_does_not_is_not(between):
    assert normalizing(after(*between())) == []


def test_all_that_reads_a_kernel_has_to_normalize_it():
    inputs = keras.Input((6,))
    x = layers.Dense(6, name="kernel")(inputs)
    one, two = layers.BatchNormalization(name="one")(x), layers.LayerNormalization(name="two")(x)
    assert normalizing(keras.Model(inputs, one + two)) == ["one", "two"]
    assert normalizing(keras.Model(inputs, one + two + x)) == []
    assert normalizing(keras.Model(inputs, [one, x])) == []
    assert normalizing(keras.Model(inputs, layers.Dense(2)(x))) == []


@keras.saving.register_keras_serializable("normalized")
class Gate(layers.Dense):
    def call(self, x):
        return x[..., :1] * ops.sigmoid(super().call(x))


@keras.saving.register_keras_serializable("normalized")
class Frozen(layers.BatchNormalization):
    def call(self, x, training=None):
        return super().call(x, training=False)


class Residual(layers.Wrapper):
    def call(self, x):
        return x + self.layer(x)


def test_layers_of_ones_own_are_not_taken_for_keras_own():
    inputs = keras.Input((6,))
    norm = layers.LayerNormalization()
    for model in (
        keras.Model(inputs, norm(Gate(6, name="kernel")(inputs))),
        keras.Model(inputs, Frozen()(layers.Dense(6, name="kernel")(inputs))),
        keras.Model(inputs, layers.LayerNormalization()(Residual(layers.Dense(6, name="kernel"))(inputs))),
        keras.Model(inputs, layers.LayerNormalization()(ops.pad(layers.Dense(6, name="kernel")(inputs), 1))),
    ):
        assert normalizing(model) == []
    steps = keras.Input((4, 6))
    recurrent = layers.LSTM(5, activation=None, name="kernel")
    model = keras.Model(steps, layers.LayerNormalization()(recurrent(steps)))
    anatomy = Anatomy(model)
    assert not any(normalizations_after(anatomy, slot) for slot in anatomy.slots)


def test_a_normalization_called_twice_cannot_be_told_of_both():
    inputs, norm = keras.Input((6,)), layers.BatchNormalization()
    one, two = norm(layers.Dense(6, name="kernel")(inputs)), norm(layers.Dense(6)(100 * inputs))
    model = keras.Model(inputs, [one, two])
    assert normalizing(model) == []
    x = np.random.default_rng(0).standard_normal((64, 6)).astype("float32")
    winit.calibrate(model, x, target_std=1.0, seed=0)
    for output in model(x, training=False):
        assert array(output).std() == pytest.approx(1, rel=0.01)


def test_what_a_subclassed_model_takes_from_inside_is_read():
    class Both(keras.Model):
        def __init__(self):
            super().__init__()
            inputs = keras.Input((6,))
            hidden = layers.Dense(6, name="kernel")(inputs)
            self.inner = keras.Model(inputs, hidden)
            self.full = keras.Model(inputs, layers.BatchNormalization()(hidden))

        def call(self, x):
            return self.inner(x) + self.full(x)

    model = Both()
    model(np.zeros((2, 6), "float32"))
    assert normalizing(model) == []


def test_through_nested_models_and_wrappers():
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(6), layers.Dense(5, name="kernel")])
    inputs = keras.Input((6,))
    outside = keras.Model(inputs, layers.BatchNormalization(name="norm")(inner(inputs)))
    assert normalizing(outside) == ["norm"]
    assert normalizing(keras.Model(inputs, inner(inputs))) == []
    first = keras.Sequential([keras.Input((5,)), layers.BatchNormalization(name="first"), layers.ReLU()])
    assert normalizing(keras.Model(inputs, first(inner(inputs)))) == ["first"]
    steps = keras.Input((4, 6))
    wrapped = layers.TimeDistributed(layers.Dense(3, name="kernel"))
    assert normalizing(keras.Model(steps, layers.LayerNormalization(name="norm")(wrapped(steps)))) == ["norm"]


@pytest.mark.parametrize(
    "kernel",
    [
        lambda: layers.Conv2D(7, 3, name="kernel", use_bias=False),
        lambda: layers.DepthwiseConv2D(3, name="kernel", bias_initializer="ones"),
        lambda: layers.SeparableConv2D(7, 3, name="kernel"),
        lambda: layers.EinsumDense("abcd,de->abce", (8, 8, 9), name="kernel"),
    ],
)
def test_calibrate_leaves_a_size_that_is_divided_out_and_tells_the_normalization(kernel):
    norm = layers.BatchNormalization(name="norm")
    model = after(norm, kernel=kernel())
    x, fresh = images(), images(seed=1)
    winit.initialize(model, "orthogonal", seed=3)
    drawn = [array(v.value) for v in model.get_layer("kernel").trainable_variables]
    calibration = winit.calibrate(model, x, seed=3)
    left = [row for row in calibration.rows if row.path.startswith("kernel")]
    assert {(row.normalized, row.factor, row.reason) for row in left} == {
        (True, None, "norm divides by its size")
    }
    for one, other in zip(model.get_layer("kernel").trainable_variables, drawn, strict=True):
        np.testing.assert_array_equal(array(one.value), other)
    assert "1 kernel rescaled" in str(calibration)
    assert f"{len(left)} normalized, 0 left alone" in str(calibration)
    # In use, what the normalization hands on is about what it hands on in training.
    seen = keras.Model(model.input, norm.output)
    in_use, in_training = (array(seen(x, training=training)) for training in (False, True))
    assert np.corrcoef(in_use.ravel(), in_training.ravel())[0, 1] > 0.95
    channels = tuple(range(in_use.ndim - 1))
    np.testing.assert_allclose(in_use.mean(channels), 0, atol=1e-4)
    assert in_use.std() == pytest.approx(1, rel=1e-3)
    assert array(seen(fresh, training=False)).std() == pytest.approx(1, rel=0.05)
    # And the layers behind are calibrated on that.
    last = [row for row in calibration.rows if row.path.startswith("last")]
    assert array(model(x, training=False)).std() == pytest.approx(NUMBER_STD, rel=0.01)
    assert last[0].factor is not None


def test_auto_draws_what_is_divided_out_orthogonal():
    kernel = layers.DepthwiseConv2D(3, name="kernel", depthwise_initializer=winit.HeNormal(fans=(2, 9)))
    model = after(layers.BatchNormalization(name="norm"), kernel=kernel)
    plan = winit.initialize(model, seed=0)
    rows = {row.path: (row.scheme, row.activation, row.reason) for row in plan.rows}
    assert rows["kernel/kernel"] == ("orthogonal", "relu", "norm divides by its size")
    kernel = array(model.get_layer("kernel").kernel.value)
    np.testing.assert_allclose(np.square(kernel).sum(axis=(0, 1)), 1, rtol=1e-5)  # each channel's own
    frozen = after(layers.BatchNormalization(trainable=False))
    assert winit.initialize(frozen, seed=0).rows[0].scheme == "glorot_uniform"


def test_what_is_divided_out_is_no_larger_than_its_layer_asks():
    """By Keras' fans a depthwise kernel is small: it learns the faster."""
    norm = layers.BatchNormalization(name="norm")
    model = after(norm, kernel=layers.DepthwiseConv2D(3, name="kernel"))
    row = winit.initialize(model, seed=0).rows[0]
    assert (row.scheme, row.reason) == (
        "GlorotUniform",
        "norm divides by its size: as small as its layer asks",
    )
    assert type(model.get_layer("kernel").depthwise_initializer) is keras.initializers.GlorotUniform


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: layers.Dense(4096, name="kernel"), (1,)),  # an orthogonal one gives 1/4096 of the variance
        (lambda: layers.EinsumDense("abc,c->abc", (5, 6), name="kernel"), (5, 6)),  # no matrix
    ],
)
def test_auto_does_not_draw_orthogonal_what_would_drown_or_cannot_be(layer, shape):
    inputs = keras.Input(shape)
    x = layers.ReLU()(layers.LayerNormalization()(layer()(inputs)))
    assert winit.initialize(keras.Model(inputs, x), seed=0).rows[0].scheme == "glorot_uniform"


def test_a_step_turns_a_kernel_by_the_square_of_its_size():
    """What a normalized kernel's size does: a step of descent turns it by an angle that goes as 1/size²."""
    x = np.random.default_rng(0).standard_normal((64, 12)).astype("float32")
    y = np.random.default_rng(1).integers(0, 3, 64)
    angles = {}
    for size in (1.0, 4.0):
        model = keras.Sequential(
            [
                keras.Input((12,)),
                layers.Dense(9, use_bias=False),
                layers.BatchNormalization(epsilon=1e-9),
                layers.ReLU(),
                layers.Dense(3),
            ]
        )
        winit.initialize(model, "orthogonal", seed=0)
        kernel = model.layers[0].kernel
        kernel.assign(size * kernel)
        before = array(kernel.value).ravel()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(1e-2), loss)
        model.train_on_batch(x, y)
        turned = array(kernel.value).ravel()
        moved = turned - before * (turned @ before) / (before @ before)
        angles[size] = np.linalg.norm(moved) / np.linalg.norm(before)
    assert angles[1.0] / angles[4.0] == pytest.approx(16, rel=0.02)
