"""calibrate: every layer at the target, in one pass, and nothing else touched."""

from typing import NamedTuple

import keras
import numpy as np
import pytest
import zoo
from helpers import BACKEND, array
from keras import layers, ops

import keras_winit as winit
from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.branches import shares
from keras_winit.models.anatomy.following import NUMBER_STD
from keras_winit.models.anatomy.following import answers as answers_of
from keras_winit.models.calibrating.targets import LONG, SHORT
from keras_winit.models.running.watching import having, intercepted, no_gradients

# Each builds within a test; the slow sweep has the rest. JAX compiles each shape of these for minutes.
FIVE = ("VGG16", "ResNet50", "MobileNetV2", "EfficientNetB0", "ConvNeXtTiny")


QUICK = ("MobileNetV2", "EfficientNetB0")


SMALLEST = {"EfficientNetB0": 128, "InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}


def architectures():
    """Every architecture that keras.applications builds, by name."""
    found = [name for name, item in vars(keras.applications).items() if callable(item) and name[0].isupper()]
    assert len(found) > 30
    return sorted(found)


def application(name, side=64):
    side = max(SMALLEST.get(name, 0), side)
    try:
        return getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3), classes=10)
    except ValueError as error:
        if "backend" in str(error):
            pytest.skip(str(error))
        if "input" not in str(error).lower():
            raise  # NASNetLarge takes its own size, or none at the top
        return getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3), include_top=False)


def noise(model, seed, count=32):
    return np.random.default_rng(seed).standard_normal((count, *model.input_shape[1:]), "float32")


# What Keras' own recurrent cells set when they are called.
CACHES = {"_dropout_mask", "_recurrent_dropout_mask"}


LINEAR = (
    *(layers.Dense, layers.EinsumDense, layers.Conv1D, layers.Conv2D, layers.DepthwiseConv2D),
    *(layers.Conv2DTranspose, layers.SeparableConv1D, layers.SeparableConv2D),
)


class Seen(NamedTuple):
    """The mean, and the mean square, of each sample's part of an output."""

    means: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, output):
        flat = output.reshape(len(output), -1)
        return cls(flat.mean(axis=1, dtype="float64"), np.square(flat).mean(axis=1, dtype="float64"))

    @property
    def std(self):
        return float(np.sqrt(self.squares.mean() - self.means.mean() ** 2))


def pre_activations(model, data):
    """The deviation before the activation of each linear layer, at its first call, seen from outside."""
    seen = {}

    def hook(layer):
        def watch(call, *arguments, **options):
            activation = layer.activation
            with having(layer, activation=keras.activations.linear):
                output = call(*arguments, **options)
            # A TimeDistributed layer calls it for each step.
            if layer.path not in seen or "time_distributed" in layer.path:
                seen.setdefault(layer.path, []).append(Seen.of(array(output)))
            return output if activation is None else activation(output)

        return watch

    watched = [layer for layer in model._flatten_layers() if isinstance(layer, LINEAR)]
    with no_gradients(), intercepted({layer: hook(layer) for layer in watched}):
        model(data, training=False)
    return {path: Seen(*np.concatenate(parts, axis=1)) for path, parts in seen.items()}


@pytest.mark.parametrize("name", zoo.MODELS)
def test_every_layer_reaches_the_target(name):
    model = zoo.MODELS[name]()
    data = zoo.data(model, name, count=40)
    calibration = winit.calibrate(model, data, target_std=0.8, seed=3)
    assert calibration.calibrated
    after = {row.path.rpartition("/")[0]: row.after for row in calibration.calibrated}
    seen = pre_activations(model, data)
    answers = {kernel.slot.path: kernel.std for kernel in answers_of(Anatomy(model))}
    anatomy = Anatomy(model)
    small = {slot.path: share for slot, share in shares(anatomy).items()}
    for path in after.keys() & seen.keys():
        assert seen[path].std == pytest.approx(after[path], rel=0.01), path
    for row in calibration.calibrated:
        assert row.before > 0
        if row.path in answers:  # no larger than their fans say
            assert row.after <= answers[row.path] * 1.000001
        else:
            assert row.after == pytest.approx(0.8 * small.get(row.path, 1.0))
        if row.centre is None:
            assert row.factor == pytest.approx(row.after / row.before, rel=1e-6)
    kernels = {slot.path for slot in Anatomy(model).slots if slot.role in ("kernel", "embedding")}
    assert {row.path for row in calibration.rows} == kernels


@pytest.mark.parametrize("name", zoo.MODELS)
def test_nothing_stays_patched_and_no_state_changes(name):
    model = zoo.MODELS[name]()
    data = zoo.data(model, name)
    keys = {id(layer): set(vars(layer)) for layer in model._flatten_layers()}
    changed = ("kernel", "embeddings", "moving_mean", "moving_variance")
    others = [v for v in model.variables if not any(name in v.path for name in changed)]
    before = [array(v.value).copy() for v in others]
    losses = [len(layer._losses) for layer in model._flatten_layers()]
    winit.calibrate(model, data, scheme="keep", seed=0)
    for layer in model._flatten_layers():
        assert set(vars(layer)) - CACHES == keys[id(layer)] - CACHES, layer.name
    for variable, value in zip(others, before, strict=True):
        np.testing.assert_array_equal(array(variable.value), value, err_msg=variable.path)
    assert [len(layer._losses) for layer in model._flatten_layers()] == losses
    first = array(model(data, training=False))
    np.testing.assert_array_equal(first, array(model(data, training=False)))
    again = winit.calibrate(model, data, scheme="keep", seed=0)
    for row in again.calibrated:  # it was right already
        assert row.factor == pytest.approx(1, rel=1e-4), row.path


@pytest.mark.parametrize("scheme", ["orthogonal", "keep"])
@pytest.mark.parametrize("name", zoo.MODELS)
def test_a_failure_takes_everything_back(name, scheme, monkeypatch):
    model = zoo.MODELS[name]()
    before = zoo.snapshot(model)
    keys = {id(layer): set(vars(layer)) for layer in model._flatten_layers()}
    leaves = [layer for layer in model._flatten_layers() if len(list(layer._flatten_layers())) == 1]

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setitem(vars(leaves[-1]), "call", fail)
    with pytest.raises(KeyboardInterrupt):
        winit.calibrate(model, zoo.data(model, name), scheme=scheme, seed=0)
    monkeypatch.undo()
    zoo.assert_unchanged(model, before)
    assert all(set(vars(layer)) - CACHES == keys[id(layer)] - CACHES for layer in model._flatten_layers())


class Noisy(layers.Layer):
    """Draws, counts and adds a loss whenever it is called, in inference too."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(3)
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, x):
        self.count.assign(self.count + 1)
        self.add_loss(ops.mean(x))
        return x + 0.01 * keras.random.normal(ops.shape(x), seed=self.seeds)


@pytest.mark.parametrize("function", [winit.calibrate, winit.diagnose])
def test_what_a_call_changes_is_put_back(function):
    inputs = keras.Input((6,))
    x = layers.Dense(5, activity_regularizer="l2")(inputs)
    x = layers.BatchNormalization()(Noisy()(layers.Dropout(0.5)(x)))
    model = keras.Model(inputs, layers.Dense(2)(x))
    data = np.random.default_rng(0).standard_normal((8, 6), "float32") + 3
    model(data)
    states = [v for v in model.variables if "dense" not in v.path]
    before, losses = [np.array(array(v.value)) for v in states], [float(loss) for loss in model.losses]
    assert len(losses) == 2
    assert any("seed" in v.path for v in states)
    result = function(model, data)
    told = getattr(result, "statistics", ())  # what calibrate tells a batch normalization on purpose
    assert bool(told) == (function is winit.calibrate)
    for variable, value in zip(states, before, strict=True):
        if variable.path in told:
            continue
        np.testing.assert_array_equal(array(variable.value), value, err_msg=variable.path)
    assert [float(loss) for loss in model.losses] == losses


def test_the_same_seed_and_data_give_the_same_weights():
    results = []
    for _ in range(2):
        model = zoo.functional()
        winit.calibrate(model, seed=5)
        results.append(model.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_gates_are_scaled_one_by_one_and_recurrent_kernels_stay_orthogonal():
    inputs = keras.Input((7, 6))
    lstm, gru = layers.LSTM(5, return_sequences=True), layers.GRU(4)
    model = keras.Model(inputs, gru(lstm(inputs)))
    data = 3 * np.random.default_rng(0).standard_normal((30, 7, 6), "float32") + 1
    calibration = winit.calibrate(model, data, target_std=1.0, seed=0)
    assert [row.gate for row in calibration.rows] == [0, 1, 2, 3, 0, 1, 2]
    shares = (data @ array(lstm.cell.kernel.value)).reshape(30, 7, 4, 5)
    np.testing.assert_allclose(shares.std(axis=(0, 1, 3)), 1, rtol=1e-3)
    shares = (array(lstm(data)) @ array(gru.cell.kernel.value)).reshape(30, 7, 3, 4)
    np.testing.assert_allclose(shares.std(axis=(0, 1, 3)), 1, rtol=1e-3)
    for gate in np.split(array(lstm.cell.recurrent_kernel.value), 4, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(5), atol=1e-5)
    bias = array(lstm.cell.bias.value)
    np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], 5))


def test_a_convolutional_lstm():
    inputs = keras.Input((3, 8, 8, 2))
    layer = layers.ConvLSTM2D(4, 3, strides=2)
    model = keras.Model(inputs, layer(inputs))
    data = np.random.default_rng(0).standard_normal((6, 3, 8, 8, 2), "float32")
    assert len(winit.calibrate(model, data, target_std=1.0, seed=0).calibrated) == 4
    frames = ops.reshape(ops.convert_to_tensor(data), (18, 8, 8, 2))
    for kernel in np.split(array(layer.cell.kernel.value), 4, axis=-1):
        share = array(ops.conv(frames, ops.convert_to_tensor(kernel), strides=2, padding="valid"))
        assert share.std() == pytest.approx(1, rel=1e-3)


def test_a_cell_that_a_model_calls_by_itself():
    class Steps(keras.Model):
        def __init__(self):
            super().__init__()
            self.cell = layers.GRUCell(5)

        def call(self, x):
            state = ops.zeros((x.shape[0], 5))
            for step in range(x.shape[1]):
                _, state = self.cell(x[:, step], [state])
                state = state[0] if isinstance(state, list) else state
            return state

    model, data = Steps(), np.random.default_rng(0).standard_normal((40, 3, 6), "float32")
    model(data)
    winit.calibrate(model, data, target_std=1.0, seed=0)
    share = (data[:, 0] @ array(model.cell.kernel.value)).reshape(40, 3, 5)
    np.testing.assert_allclose(share.std(axis=(0, 2)), 1, rtol=1e-3)


class Power(layers.Layer):
    """A layer of a user's own: x · W, or what is not in proportion to W."""

    def __init__(self, power, activation=None):
        super().__init__()
        self.power = power
        self.activation = keras.activations.get(activation)

    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1], 9), initializer="glorot_uniform")

    def call(self, x):
        return self.activation(ops.matmul(x, self.kernel**self.power))


@pytest.mark.parametrize("power", [1, 3])
def test_layers_of_ones_own_are_tried(power):
    inputs = keras.Input((8,))
    layer = Power(power, "tanh")
    model = keras.Model(inputs, layers.Dense(3)(layer(inputs)))
    data = 2 * np.random.default_rng(0).standard_normal((64, 8), "float32")
    before = array(layer.kernel.value).copy()
    calibration = winit.calibrate(model, data, scheme="keep", target_std=1.0, seed=0)
    row = next(row for row in calibration.rows if "power" in row.path)
    if power == 1:
        assert row.factor > 0
        assert (data @ array(layer.kernel.value)).std() == pytest.approx(1, rel=1e-3)
    else:
        assert row.factor is None
        assert "proportion" in row.reason
        np.testing.assert_array_equal(array(layer.kernel.value), before)
    assert any(row.factor for row in calibration.rows if "dense" in row.path)


def test_biases_that_are_there_are_kept():
    inputs = keras.Input((20,))
    first, second = layers.Dense(30, "relu"), layers.Dense(10)
    model = keras.Model(inputs, second(first(inputs)))
    rng = np.random.default_rng(0)
    first.bias.assign(0.3 * rng.standard_normal(30))
    second.bias.assign(3 * rng.standard_normal(10))
    biases = [array(layer.bias.value).copy() for layer in (first, second)]
    data = rng.standard_normal((50, 20)).astype("float32")
    calibration = winit.calibrate(model, data, scheme="keep", target_std=1.0, seed=0)
    assert pre_activations(model, data)[first.path].std == pytest.approx(1, rel=0.01)
    skipped = {row.path: row.reason for row in calibration.skipped}
    assert skipped == {second.kernel.path: "its bias alone varies more than the target"}
    for layer, bias in zip((first, second), biases, strict=True):
        np.testing.assert_array_equal(array(layer.bias.value), bias)


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [("zeros", "no variance"), (lambda shape, dtype: ops.full(shape, np.inf), "not finite")],
)
def test_a_layer_without_a_usable_output_is_left_alone(kernel, reason):
    inputs = keras.Input((6,))
    hidden = layers.Dense(5, kernel_initializer=kernel, name="hidden")
    model = keras.Model(inputs, layers.Dense(3)(hidden(inputs)))
    before = array(hidden.kernel.value).copy()
    calibration = winit.calibrate(model, scheme="keep", seed=0)
    assert [row.factor for row in calibration.rows] == [None, None]
    assert reason in calibration.skipped[0].reason
    np.testing.assert_array_equal(array(hidden.kernel.value), before)


def test_a_constant_with_rounding_has_no_variance_in_a_layer_of_ones_own():
    class Own(layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 1), initializer="ones", name="w")

        def call(self, x):
            return ops.matmul(x, self.w)

    model = keras.Sequential([keras.Input((6,)), Own(), layers.Dense(3)])
    data = np.ones((64, 6), "float32")
    data[::2] += 3e-7
    first = winit.calibrate(model, data, scheme="keep", seed=0).rows[0]
    assert first.before > 0
    assert first.reason == "its output has no variance"


def test_what_is_not_called_frozen_or_normalized_is_reported():
    inputs = keras.Input((6,))
    frozen = layers.Dense(6, name="frozen", trainable=False)
    spectral = layers.SpectralNormalization(layers.Dense(6), name="spectral")
    model = keras.Model(inputs, spectral(frozen(inputs)))
    model.beside = layers.Dense(4, name="beside")
    model.beside.build((None, 6))
    reasons = {row.path.split("/")[0]: row.reason for row in winit.calibrate(model, seed=0).skipped}
    assert "frozen" in reasons["frozen"]
    assert "SpectralNormalization" in reasons["spectral"]
    if "beside" in {layer.name for layer in model._flatten_layers()}:  # before Keras 3.15 it is not
        assert "not called" in reasons["beside"]


@pytest.mark.parametrize("fused", [True, False])
def test_gates_are_left_as_drawn(fused):
    inputs = keras.Input((6, 6, 8))
    squeezed = layers.GlobalAveragePooling2D(keepdims=True)(inputs)
    gate = layers.Conv2D(8, 1, activation="sigmoid" if fused else None, name="gate")(squeezed)
    gate = gate if fused else layers.Activation("hard_sigmoid")(gate)
    x = layers.Conv2D(4, 1, activation="sigmoid", name="no_gate")(inputs * gate)
    model = keras.Model(inputs, layers.Dense(2)(x))
    calibration = winit.calibrate(model, seed=0)
    assert {row.path: "gate" in row.reason for row in calibration.skipped} == {"gate/kernel": True}
    assert len(calibration.calibrated) == 2


def test_the_record_says_how_a_weight_was_made():
    model = zoo.sequential()
    winit.calibrate(model, seed=4)
    dense = model.layers[0]
    np.testing.assert_allclose(
        array(dense.kernel_initializer(dense.kernel.shape)), array(dense.kernel.value), rtol=1e-5, atol=1e-7
    )
    winit.calibrate(model, scheme="keep", target_std=2, seed=0)
    assert isinstance(dense.kernel_initializer, winit.Scaled)
    assert isinstance(dense.kernel_initializer.initializer, winit.Orthogonal)  # factors are joined
    np.testing.assert_allclose(
        array(dense.kernel_initializer(dense.kernel.shape)), array(dense.kernel.value), rtol=1e-5, atol=1e-7
    )


def test_a_calibrated_model_saves_loads_and_is_portable(tmp_path):
    model = zoo.functional()
    data = zoo.data(model, "functional")
    winit.calibrate(model, data, seed=0)
    expected = array(model(data))
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(
        array(keras.models.load_model(tmp_path / "model.keras")(data)), expected, atol=1e-6
    )
    np.testing.assert_allclose(array(winit.portable(model)(data)), expected, atol=1e-6)


def test_mixed_precision_keeps_the_weights_exact():
    inputs = keras.Input((50,), dtype="float32")
    x = layers.Dense(40, "relu", dtype="mixed_bfloat16")(inputs)
    model = keras.Model(inputs, layers.Dense(30, dtype="mixed_bfloat16")(x))
    winit.initialize(model, "he_normal", seed=0)
    before = [weight.copy() for weight in model.get_weights()]
    calibration = winit.calibrate(model, scheme="keep", seed=0)
    for row, old, new in zip(calibration.rows, before[::2], model.get_weights()[::2], strict=True):
        np.testing.assert_allclose(new, old * np.float32(row.factor), rtol=1e-6)


def test_the_optimizer_forgets():
    model = zoo.sequential()
    model.compile("adam", "mse")
    data = np.zeros((8, 12), "float32") + 1
    model.fit(data, np.ones((8, 4)), verbose=0)
    assert any(np.any(array(v.value)) for v in model.optimizer.variables[2:])
    calibration = winit.calibrate(model, scheme="keep", seed=0)
    assert "reset" in calibration.optimizer
    assert not any(np.any(array(v.value)) for v in model.optimizer.variables[2:])
    model.fit(data, np.ones((8, 4)), verbose=0)


@pytest.mark.parametrize(
    ("activation", "std"), [("sigmoid", LONG), ("hard_sigmoid", LONG), ("tanh", SHORT), ("relu", SHORT)]
)
def test_short_chains_start_small_unless_most_of_their_signal_is_constant(activation, std):
    """Convolutions of sigmoid learn nothing from signals of 0.35: 0.11 of the digits, where 0.95 by one."""
    hidden = [layers.Conv2D(12, 3, padding="same", activation=activation) for _ in range(4)]
    model = keras.Sequential([keras.Input((8, 8, 2)), *hidden, layers.Flatten(), layers.Dense(5)])
    rows = winit.calibrate(model, seed=0).calibrated
    assert rows[0].after == pytest.approx(std, rel=0.01)
    if std == LONG:
        assert [row.after for row in rows[:4]] == pytest.approx([std] * 4, rel=0.01)


def assert_quality(name, side=64):
    model = application(name, side)
    data, fresh = noise(model, 1), noise(model, 2)
    calibration = winit.calibrate(model, data, seed=0)
    assert all("gate" in row.reason for row in calibration.skipped)
    rescaled = {row.path.rpartition("/")[0]: row.after for row in calibration.calibrated}
    first, second = (pre_activations(model, batch) for batch in (data, fresh))
    assert set(first) == {row.path.rpartition("/")[0] for row in calibration.rows}
    rescaled.popitem()  # the answers
    for path, std in rescaled.items():
        assert first[path].std == pytest.approx(std, rel=0.01), (name, path)
        assert second[path].std == pytest.approx(std, rel=0.25), (name, path)
    return model


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in FIVE]
    if BACKEND != "jax"
    else ["VGG16"],
)
def test_quality(name):
    """Deviations are as said, and `diagnose` finds no error in what was calibrated, and changes nothing."""
    model = assert_quality(name)
    before = [weight.copy() for weight in model.get_weights()]
    report = winit.diagnose(model)
    assert report.ok, report.errors
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures())
def test_quality_of_every_architecture(name):
    # At a third of their size, the last maps of these are 4×4: 32 samples then say too little. The
    # largest at theirs would take more than 24 GB.
    sizes = {f"EfficientNetB{i}": side for i, side in enumerate((224, 240, 260, 300, 300, 260, 256, 224))}
    assert_quality(name, sizes.get(name, 128))


def test_the_list_of_architectures_is_whole():
    assert set(FIVE) <= set(architectures())


@pytest.mark.parametrize("function", [winit.initialize, winit.calibrate, winit.diagnose])
def test_a_session_shows_a_line(function):
    result = function(zoo.sequential())
    assert repr(result).startswith(f"<{type(result).__name__}: ")
    assert len(repr(result)) < 200
    assert len(str(result).splitlines()) > 5


def test_an_error_of_keras_comes_without_its_colours():
    with pytest.raises(ValueError, match="cannot be called") as caught:
        winit.calibrate(zoo.sequential(), np.zeros((4, 5), "float32"))
    assert "\x1b" not in str(caught.value)


def test_the_table_and_the_plot():
    model = zoo.recurrent()
    calibration = winit.calibrate(model, seed=0)
    text = str(calibration)
    assert "(gate 3)" in text
    assert f"rescaled to a deviation of {NUMBER_STD} to {SHORT}" in text
    assert "<table>" in calibration._repr_html_()
    assert calibration.to_dict()["rows"][0]["factor"] == calibration.rows[0].factor
    pytest.importorskip("matplotlib")
    import matplotlib

    matplotlib.use("Agg")
    figure = calibration.plot()
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].get_lines()}
    np.testing.assert_allclose(lines["after"], [row.after for row in calibration.calibrated])
    np.testing.assert_allclose(lines["before"], [row.before for row in calibration.calibrated])
