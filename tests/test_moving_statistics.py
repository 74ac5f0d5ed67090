"""Moving statistics: a calibrated model answers in use as it does in training."""

import math

import keras
import numpy as np
import pytest
import zoo
from helpers import BACKEND, array
from keras import layers, ops
from normalized import after, images
from test_calibrate import application, noise

import keras_winit as winit
from keras_winit.models.anatomy.branches import GAMMA
from keras_winit.models.anatomy.following import NUMBER_STD
from keras_winit.models.calibrating import centring
from keras_winit.models.calibrating.centring import drifts_apart
from keras_winit.models.running.watching import intercepted, no_gradients
from keras_winit.support.exact import channel_moments


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
