"""Kernels before a normalization, which divides by their size: what that leaves open, and what is chosen."""

import keras
import numpy as np
import pytest
import zoo
from helpers import BACKEND, array
from keras import layers, ops
from test_calibrate import application, noise

import keras_winit as winit
from keras_winit.models.anatomy.following import Graph
from keras_winit.models.anatomy.slots import slots
from keras_winit.models.running.watching import intercepted, no_gradients


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
    graph = Graph(model)
    found = [graph.normalizations_after(slot) for slot in slots(model) if slot.layer.name == "kernel"]
    return [layer.name for layer in found[0]]


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
        lambda: [layers.MaxPooling2D(), layers.Reshape((16, 7))],
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
        lambda: [layers.ReLU(), layers.BatchNormalization()],
        lambda: [layers.GaussianNoise(0.1), layers.BatchNormalization()],
        lambda: [layers.BatchNormalization(trainable=False)],
        lambda: [layers.BatchNormalization(renorm=True)],
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
def test_calibrate_leaves_a_size_that_is_divided_out_and_tells_the_moving_variance(kernel):
    norm = layers.BatchNormalization(name="norm")
    model = after(norm, kernel=kernel())
    x, fresh = images(), images(seed=1)
    winit.initialize(model, "orthogonal", seed=3)
    drawn = [array(v.value) for v in model.get_layer("kernel").trainable_variables]
    moved = array(norm.moving_mean.value)
    calibration = winit.calibrate(model, x, seed=3)
    left = [row for row in calibration.rows if row.path.startswith("kernel")]
    assert {(row.normalized, row.factor, row.reason) for row in left} == {
        (True, None, "norm divides by its size")
    }
    for one, other in zip(model.get_layer("kernel").trainable_variables, drawn, strict=True):
        np.testing.assert_array_equal(array(one.value), other)
    np.testing.assert_array_equal(array(norm.moving_mean.value), moved)
    assert "1 kernel rescaled" in str(calibration)
    assert f"{len(left)} normalized, 0 left alone" in str(calibration)
    # In use, what the normalization hands on has the deviation that it has in training.
    seen = keras.Model(model.input, norm.output)
    assert array(seen(x, training=False)).std() == pytest.approx(1, rel=1e-3)
    assert array(seen(fresh, training=False)).std() == pytest.approx(1, rel=0.05)
    # And the layers behind are calibrated on that.
    last = [row for row in calibration.rows if row.path.startswith("last")]
    assert array(model(x, training=False)).std() == pytest.approx(1, rel=0.01)
    assert last[0].factor is not None


def test_in_use_it_is_the_same_function_as_with_a_rescaled_kernel():
    told, rescaled = (after(layers.BatchNormalization(epsilon=1e-6), use_bias=False) for _ in range(2))
    x = images()
    winit.calibrate(told, x, seed=5)
    for mine, other in zip(rescaled.weights, told.weights, strict=True):
        mine.assign(other)
    variance = float(array(told.layers[2].moving_variance.value)[0])
    np.testing.assert_allclose(array(told.layers[2].moving_variance.value), variance)
    rescaled.layers[1].kernel.assign(rescaled.layers[1].kernel / variance**0.5)
    rescaled.layers[2].moving_variance.assign(np.ones(7, "float32"))
    np.testing.assert_allclose(
        array(told(x, training=False)), array(rescaled(x, training=False)), rtol=1e-3, atol=1e-4
    )


def test_a_kernel_that_drowns_in_the_epsilon_is_enlarged_as_far_as_it_takes():
    for size, stays in ((1.0, True), (1e-3, False)):
        norm = layers.BatchNormalization(epsilon=1e-3)
        model = after(norm, use_bias=False)
        winit.initialize(model, {"kernel": "orthogonal"}, seed=3)
        kernel = model.get_layer("kernel").kernel
        kernel.assign(size * kernel)
        row = winit.calibrate(model, images(), scheme="keep").rows[0]
        assert row.normalized
        assert (row.factor is None) is stays
        if not stays:  # to a variance of ten epsilons, and no further
            assert row.after == pytest.approx(0.1)
            assert row.factor == pytest.approx(0.1 / row.before)
        seen = keras.Model(model.input, norm.output)
        assert array(seen(images(), training=False)).std() == pytest.approx(1, rel=1e-3)
        assert array(seen(images(), training=True)).std() == pytest.approx(1, rel=0.05)


def test_statistics_that_fit_stay():
    norm = layers.BatchNormalization(momentum=0.5)
    model = after(norm)
    model(images(400), training=True)
    for _ in range(20):
        model(images(400), training=True)
    mean, variance = array(norm.moving_mean.value), array(norm.moving_variance.value)
    winit.calibrate(model, images(200), scheme="keep")
    np.testing.assert_array_equal(array(norm.moving_mean.value), mean)
    np.testing.assert_allclose(array(norm.moving_variance.value), variance, rtol=0.03)


def test_a_failure_takes_the_moving_variance_back(monkeypatch):
    model = zoo.functional()
    before = zoo.snapshot(model)
    x = zoo.data(model, "functional")

    def fail(self, *arguments):
        raise RuntimeError("planted")

    monkeypatch.setattr(winit.models.calibrating.calibrate.Drawing, "reset_optimizer", fail)
    with pytest.raises(RuntimeError, match="planted"):
        winit.calibrate(model, x, seed=0)
    zoo.assert_unchanged(model, before)


def test_auto_draws_what_is_divided_out_orthogonal():
    model = after(layers.BatchNormalization(name="norm"), kernel=layers.DepthwiseConv2D(3, name="kernel"))
    plan = winit.initialize(model, seed=0)
    rows = {row.path: (row.scheme, row.activation, row.reason) for row in plan.rows}
    assert rows["kernel/kernel"] == ("orthogonal", "relu", "norm divides by its size")
    kernel = array(model.get_layer("kernel").kernel.value)
    np.testing.assert_allclose(np.square(kernel).sum(axis=(0, 1)), 1, rtol=1e-5)  # each channel's own
    frozen = after(layers.BatchNormalization(trainable=False))
    assert winit.initialize(frozen, seed=0).rows[0].scheme == "he_uniform"


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


@pytest.mark.parametrize("name", ["MobileNetV2"] if BACKEND != "jax" else [])
def test_a_whole_architecture_answers_alike_in_training_and_in_use(name):
    model = application(name)
    winit.calibrate(model, noise(model, 1), seed=0)
    stds = {}

    def watch(layer):
        def hook(call, *arguments, **options):
            stds[layer.name] = float(ops.std(output := call(*arguments, **options)))
            return output

        return hook

    batch_norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    with no_gradients(), intercepted({layer: watch(layer) for layer in batch_norms}):
        model(noise(model, 2), training=False)
    assert len(stds) == 52
    for layer, std in stds.items():
        assert std == pytest.approx(1, rel=0.1), layer
