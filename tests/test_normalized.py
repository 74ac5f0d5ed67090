"""Kernels before a normalization, which divides by their size: what that leaves open, and what is chosen."""

import math

import keras
import numpy as np
import pytest
import zoo
from helpers import BACKEND, array, needs_renorm
from keras import layers, ops
from test_calibrate import application, noise

import keras_winit as winit
from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.branches import GAMMA
from keras_winit.models.anatomy.following import NUMBER_STD
from keras_winit.models.anatomy.normalizing import normalizations_after
from keras_winit.models.calibrating import centring
from keras_winit.models.calibrating.centring import drifts_apart
from keras_winit.models.running.watching import intercepted, no_gradients
from keras_winit.support.exact import channel_moments


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


def blocks(activation, count, width=48):
    model = keras.Sequential([keras.Input((width,))])
    for _ in range(count):
        model.add(layers.Dense(width))
        model.add(layers.BatchNormalization())
        model.add(layers.Activation(activation))
    model.add(layers.Dense(5))
    return model


@pytest.mark.parametrize("center", ["auto", "bias", "weights", "none"])
@pytest.mark.parametrize(("activation", "count"), [("relu", 6), ("sigmoid", 12)])
def test_a_model_computes_in_use_what_it_computes_in_training(activation, count, center):
    """Nearly: channels keep variances of their own, of which a batch says too little."""
    x = np.random.default_rng(0).uniform(0, 255, (200, 48)).astype("float32")  # such as pixels
    model = blocks(activation, count)
    apart = np.corrcoef(*(array(model(x, training=training)).ravel() for training in (False, True)))[0, 1]
    calibration = winit.calibrate(model, x, center=center, seed=0)
    in_use, in_training = (array(model(x, training=training)) for training in (False, True))
    together = np.corrcoef(in_use.ravel(), in_training.ravel())[0, 1]
    assert together > 0.95
    assert together > apart
    assert in_training.std() == pytest.approx(calibration.calibrated[-1].after, rel=0.05)
    assert len(calibration.normalized) == count
    assert 0.1 < calibration.calibrated[0].factor < 10


@pytest.mark.parametrize(
    ("activation", "count", "centres"),
    [("silu", 20, False), ("gelu", 20, False), ("silu", 19, True), ("relu", 20, True), ("tanh", 20, True)],
)
def test_what_would_scatter_samples_keeps_what_they_have_in_common(activation, count, centres):
    x = np.random.default_rng(0).standard_normal((64, 48)).astype("float32")
    model = blocks(activation, count)
    calibration = winit.calibrate(model, x, seed=0)
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    told = [(norm.moving_mean.path, norm.moving_variance.path)[0 if centres else 1 :] for norm in norms]
    assert calibration.statistics == tuple(path for paths in told for path in paths)
    assert f"; {count * (1 + centres)} moving statistics set; " in str(calibration)
    assert all(bool(array(norm.moving_mean.value).any()) == centres for norm in norms)
    assert all(array(norm.moving_variance.value)[0] != 1 for norm in norms)
    assert array(model(x, training=False)).std() == pytest.approx(calibration.calibrated[-1].after, rel=0.01)
    # As much power in use as in training, what stays of the mean included; and that is so a second time.
    for norm in norms[:3] + norms[-3:]:
        read, in_use = (array(keras.Model(model.inputs, tensor)(x)) for tensor in (norm.input, norm.output))
        power = np.mean(np.square(read - read.mean(0) if centres else read), dtype="float64")
        assert np.mean(in_use**2) == pytest.approx(power / (power + norm.epsilon), rel=1e-4)
    again = winit.calibrate(model, x, scheme="keep")
    assert again.statistics == ()
    assert [row.factor for row in again.calibrated] == [pytest.approx(1, rel=0.01)]


def test_that_counts_separable_convolutions_and_yields_to_what_is_asked_for():
    model = keras.Sequential([keras.Input((6, 6, 4))])
    for _ in range(20):
        model.add(layers.SeparableConv2D(8, 3, padding="same"))
        model.add(layers.BatchNormalization())
        model.add(layers.Activation("silu"))
    x = np.random.default_rng(0).standard_normal((16, 6, 6, 4)).astype("float32")
    assert len(winit.calibrate(model, x, seed=0).statistics) == 20
    assert len(winit.calibrate(model, x, seed=0, center="bias").statistics) == 40


def test_what_comes_before_a_normalization_scatters_nothing_behind_it():
    """GELU → batch normalization, thirty times: what is centred is read by a linear layer."""
    model = keras.Sequential([keras.Input((24,))])
    for _ in range(30):
        model.add(layers.Dense(24, "gelu"))
        model.add(layers.BatchNormalization())
    model.add(layers.Dense(3))
    x = np.random.default_rng(0).standard_normal((64, 24)).astype("float32")
    assert len(winit.calibrate(model, x, seed=0).statistics) == 60


@pytest.mark.parametrize("center", ["auto", "none"])
def test_activations_that_take_other_shapes(center):
    def squeezed(x):
        return x * ops.sigmoid(ops.mean(x, axis=(1, 2), keepdims=True))

    for activation in (layers.Softmax(axis=(1, 2)), layers.Activation(squeezed)):
        model = keras.Sequential([keras.Input((8, 8, 5)), layers.Conv2D(4, 3), layers.BatchNormalization()])
        model.add(activation)
        model.add(layers.Conv2D(3, 3))
        assert len(winit.calibrate(model, images(), seed=0, center=center).statistics) == 2
    assert not drifts_apart(squeezed)
    with pytest.raises(ValueError, match="'squeezed' does not act on each element by itself: .*shape"):
        winit.gain(squeezed)


def test_that_keeps_fresh_samples_in_scale(monkeypatch):
    def missed(seed):
        """The logarithm of a fresh batch's deviation, after 30 convolutions."""
        model = keras.Sequential([keras.Input((12, 12, 3))])
        for _ in range(30):
            model.add(layers.Conv2D(24, 3, padding="same"))
            model.add(layers.BatchNormalization())
            model.add(layers.Activation("silu"))
        model.add(layers.GlobalAveragePooling2D())
        model.add(layers.Dense(5))
        seen, fresh = np.random.default_rng(seed).standard_normal((2, 32, 12, 12, 3)).astype("float32")
        winit.calibrate(model, seen, seed=seed)
        deviations = [array(model(batch, training=False)).std() for batch in (fresh, seen)]
        return math.log(deviations[0] / deviations[1])

    kept = [missed(seed) for seed in (0, 1)]
    monkeypatch.setattr(centring, "_MANY_DRIFTING", math.inf)
    centred = [missed(seed) for seed in (0, 1)]
    assert np.linalg.norm(kept) < 0.6 * np.linalg.norm(centred)


def test_which_activations_scatter_samples():
    for name in ("silu", "gelu", "mish", "hard_silu", lambda x: x * ops.abs(x)):
        assert drifts_apart(name)
    for name in ("relu", "relu6", "leaky_relu", "elu", "tanh", "sigmoid", "linear", "softmax", "glu"):
        assert not drifts_apart(name)
    assert not drifts_apart(ops.zeros_like)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
@pytest.mark.parametrize("offset", [0.0, 0.3, 1e3])
def test_moments_of_channels(axis, scale, offset):
    values = np.random.default_rng(0).standard_normal((40, 6, 70, 99)) * np.arange(1, 100) ** 0.5 + offset
    values = (values * scale).astype("float32")
    tensor = ops.convert_to_tensor(values)
    others = tuple({0, 1, 2, 3} - {axis % 4})
    mean, variance = values.mean(others, dtype="float64"), values.var(others, dtype="float64")
    found = channel_moments(tensor, axis)
    atol = 1e-5 * scale
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6, atol=atol)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-3)
    pooled = channel_moments(tensor, axis, pooled=True)
    np.testing.assert_allclose(pooled.mean, mean, rtol=1e-6, atol=atol)
    np.testing.assert_allclose(pooled.variance, variance.mean(), rtol=1e-4)
    for each in (found, pooled):
        assert each.whole.mean == pytest.approx(values.mean(dtype="float64"), rel=1e-5, abs=atol)
        assert each.whole.std == pytest.approx(values.std(dtype="float64"), rel=1e-4)


@pytest.mark.parametrize("pooled", [False, True])
def test_moments_of_all_from_those_of_channels_apart(pooled):
    values = np.random.default_rng(0).standard_normal((500, 9)) * np.arange(1, 10) + np.arange(0, 90, 10)
    values = values.astype("float32")
    whole = channel_moments(ops.convert_to_tensor(values), -1, pooled=pooled).whole
    assert whole.mean == pytest.approx(values.mean(dtype="float64"), rel=1e-6)
    assert whole.std == pytest.approx(values.std(dtype="float64"), rel=1e-5)


@pytest.mark.parametrize("pooled", [False, True])
def test_moments_of_channels_with_an_odd_row_or_almost_nothing(pooled, recwarn):
    values = np.random.default_rng(0).standard_normal((9000, 64)).astype("float32") + 1e3
    values[0] = 0
    found = channel_moments(ops.convert_to_tensor(values), -1, pooled=pooled)
    np.testing.assert_allclose(
        found.variance,
        values.var(0, dtype="float64").mean() if pooled else values.var(0, dtype="float64"),
        rtol=2e-3,
    )
    tiny = channel_moments(ops.convert_to_tensor(np.array([[1e-25], [-1e-25]], "float32")), -1, pooled=pooled)
    assert tiny.whole.std == pytest.approx(1e-25)
    huge = channel_moments(ops.convert_to_tensor(values * np.float32(1e33)), -1, pooled=pooled)
    assert huge.whole.std == pytest.approx(found.whole.std * 1e33, rel=1e-3)
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


@pytest.mark.parametrize("pooled", [False, True])
def test_moments_of_channels_of_what_has_none(pooled):
    values = np.ones((4, 5, 3), "float32")
    assert np.all(channel_moments(ops.convert_to_tensor(values), -1, pooled=pooled).variance == 0)
    assert not channel_moments(ops.convert_to_tensor(values), -1, pooled=pooled).whole.varies
    for value in (np.nan, np.inf):
        values[2, 3, 1] = value
        assert not channel_moments(ops.convert_to_tensor(values), -1, pooled=pooled).whole.varies
    empty = channel_moments(ops.zeros((0, 3)), -1, pooled=pooled)
    assert not empty.whole.varies


def test_what_a_normalization_reads_is_measured_once(monkeypatch):
    calls = []

    def counted(tensor, *arguments, **options):
        calls.append(tuple(tensor.shape))
        return channel_moments(tensor, *arguments, **options)

    monkeypatch.setattr(centring, "channel_moments", counted)
    winit.calibrate(after(layers.BatchNormalization()), images(), seed=0)
    assert calls == [(48, 8, 8, 7)]
    calls.clear()
    pooled = after(layers.MaxPooling2D(), layers.BatchNormalization())
    winit.calibrate(pooled, images(), seed=0)
    assert calls == [(48, 8, 8, 7), (48, 4, 4, 7)]
    norm = pooled.layers[3]
    read = array(keras.Model(pooled.input, norm.input)(images()))
    np.testing.assert_allclose(array(norm.moving_mean.value), read.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)
    # Where the channels become another axis, or none, what was measured ahead is not taken for theirs.
    reshaped = after(layers.Reshape((64, 7)), layers.Permute((2, 1)), layers.BatchNormalization(axis=1))
    winit.calibrate(reshaped, images(), seed=0)
    norm = reshaped.layers[4]
    read = array(keras.Model(reshaped.input, norm.input)(images()))
    np.testing.assert_allclose(array(norm.moving_mean.value), read.mean((0, 2)), rtol=1e-3, atol=1e-5)
    flat = keras.Sequential([keras.Input((48,)), layers.Dense(12, name="kernel"), layers.Reshape((2, 3, 2))])
    flat.add(layers.BatchNormalization(axis=3))
    flat.add(layers.Activation("relu"))
    assert len(winit.calibrate(flat, images().reshape(-1, 48), seed=0).normalized) == 1


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_a_kernel_of_any_size_is_left(size):
    norm = layers.BatchNormalization(epsilon=1e-3)
    model = after(norm, use_bias=False)
    winit.initialize(model, {"kernel": "orthogonal"}, seed=3)
    kernel = model.get_layer("kernel").kernel
    kernel.assign(size * kernel)
    before = array(kernel.value)
    row = winit.calibrate(model, images(), scheme="keep").rows[0]
    assert (row.normalized, row.factor) == (True, None)
    np.testing.assert_array_equal(array(kernel.value), before)
    in_use, in_training = (array(model(images(), training=training)) for training in (False, True))
    assert np.corrcoef(in_use.ravel(), in_training.ravel())[0, 1] > 0.95
    if size < 1:  # what is left beside epsilon is so small that the answers end as large as Glorot's
        answers = model.layers[-1].kernel
        glorot = np.sqrt(2 / sum(answers.shape))
        assert np.sqrt(np.mean(np.square(array(answers)))) == pytest.approx(glorot, rel=1e-4)
        assert in_use.std() < NUMBER_STD
    else:
        assert in_use.std() == pytest.approx(NUMBER_STD, rel=0.01)
    assert in_training.std() == pytest.approx(in_use.std(), rel=0.05)


def test_statistics_that_fit_stay():
    norm = layers.BatchNormalization(momentum=0.5)
    model = after(norm)
    for _ in range(20):
        model(images(400), training=True)
    mean, variance = array(norm.moving_mean.value), array(norm.moving_variance.value)
    calibration = winit.calibrate(model, images(200, seed=5), scheme="keep")
    assert calibration.statistics == ()
    assert "statistics" not in str(calibration)
    np.testing.assert_array_equal(array(norm.moving_mean.value), mean)
    np.testing.assert_array_equal(array(norm.moving_variance.value), variance)


def test_channels_that_learned_of_others_sizes():
    """One factor for all variances, by which the signal is as large as in training, channel by channel."""
    norm = layers.BatchNormalization()
    model = after(norm, use_bias=False)
    winit.initialize(model, {"kernel": "orthogonal"}, seed=0)
    kernel, sizes = model.get_layer("kernel").kernel, np.arange(1, 8, dtype="float32")
    kernel.assign(kernel * sizes)
    norm.moving_variance.assign(50 / sizes)
    winit.calibrate(model, images(), scheme="keep")
    np.testing.assert_allclose(
        array(norm.moving_variance.value) * sizes, np.full(7, np.mean(sizes**3) * 9), rtol=0.2
    )
    in_use = array(keras.Model(model.input, norm.output)(images(), training=False))
    assert in_use.std() == pytest.approx(1, rel=1e-3)


def test_one_sample_tells_nothing():
    model = blocks("relu", 1)
    norm = model.layers[1]
    winit.calibrate(model, np.ones((1, 48), "float32"), seed=0)
    assert not array(norm.moving_mean.value).any()
    np.testing.assert_array_equal(array(norm.moving_variance.value), 1)


def test_half_precision_holds_what_it_is_told():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float16")
    try:
        model = blocks("relu", 1)
        x = (400 * np.random.default_rng(0).standard_normal((64, 48))).astype("float16")
        winit.calibrate(model, x, seed=0)
        assert np.isfinite(array(model.layers[1].moving_variance.value)).all()
        assert array(model(x, training=False)).std() == pytest.approx(NUMBER_STD, rel=0.05)
    finally:
        keras.config.set_dtype_policy(before)


def test_a_failure_takes_the_statistics_back(monkeypatch):
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


@pytest.mark.skipif(BACKEND == "jax", reason="compiles each of its 155 layers")
def test_a_whole_architecture_answers_alike_in_training_and_in_use():
    model = application("MobileNetV2")
    x, fresh = noise(model, 1), noise(model, 2)
    calibration = winit.calibrate(model, x, seed=0)
    assert (len(calibration.normalized), len(calibration.calibrated)) == (52, 1)
    stds = {}

    def watch(layer):
        def hook(call, *arguments, **options):
            stds[layer.name] = float(ops.std(output := call(*arguments, **options)))
            return output

        return hook

    batch_norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    with no_gradients(), intercepted({layer: watch(layer) for layer in batch_norms}):
        model(fresh, training=False)
    assert len(stds) == 52
    gammas = {layer.name: float(ops.mean(layer.gamma)) for layer in batch_norms}
    assert sorted(gammas.values())[:11] == pytest.approx([GAMMA] * 10 + [1])  # of ten branches
    for layer, std in stds.items():
        assert std == pytest.approx(gammas[layer], rel=0.1), layer
    features = keras.Model(model.input, model.layers[-2].output)
    in_use, in_training = (array(features(x, training=training)) for training in (False, True))
    assert in_use.std() == pytest.approx(in_training.std(), rel=0.25)
