"""diagnose: it finds what was planted, names the place, and leaves healthy models alone."""

import json
import math

import keras
import numpy as np
import pytest
import zoo
from helpers import BACKEND, array
from keras import layers, ops

import keras_winit as winit
from keras_winit.models.diagnosing.findings import THRESHOLDS
from keras_winit.models.diagnosing.loss import gradient, guess_of, tap
from keras_winit.models.diagnosing.report import Finding, LayerRow, Report, WeightRow

CODES = {
    *("zero", "constant", "too_small", "too_large", "repeated_units", "equal_tensors", "non_finite"),
    *("vanishing_signal", "exploding_signal", "input_collapse", "vanishing_gradient", "exploding_gradient"),
    *("dead_units", "saturated", "initial_loss"),
}


# Those that test_diagnose_verdicts.py is about.
MORE = {
    *("unscaled_data", "one_direction", "labels_lost", "penalties", "softmax_twice", "no_probabilities"),
    *("stuck_gate", "one_hot_attention", "epsilon", "inputs_lost", "rank_collapse"),
}


def stack(depth=6, activation="relu", initializer="winit>he_normal", width=48):
    """A plain stack whose layers are called layer_0, layer_1, …"""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((width,)),
            *(
                layers.Dense(width, activation, kernel_initializer=initializer, name=f"layer_{i}")
                for i in range(depth)
            ),
            layers.Dense(10, kernel_initializer="winit>lecun_normal", name="last"),
        ]
    )


def drawn(model, scheme):
    winit.initialize(model, scheme, seed=0)
    return model


def change(model, name, function):
    kernel = model.get_layer(name).kernel
    kernel.assign(function(array(kernel.value)))
    return model


def with_bias(model, name, value):
    bias = model.get_layer(name).bias
    bias.assign(np.full(bias.shape, value))
    return model


def same_seed():
    model = stack()
    twin = winit.HeNormal(seed=7)((48, 48))
    for name in ("layer_1", "layer_4"):
        model.get_layer(name).kernel.assign(twin)
    return model


def one_nan(kernel):
    kernel = kernel.copy()
    kernel[3, 4] = np.nan
    return kernel


def repeat_first(kernel):
    return np.repeat(kernel[:, :1], kernel.shape[1], axis=1)


# A fault: what makes it, its code, and where it is to be found.
FAULTS = {
    "zeroed kernel": (lambda: change(stack(), "layer_2", np.zeros_like), "zero", "layer_2"),
    "one value": (lambda: change(stack(), "layer_2", lambda k: 0 * k + 0.1), "constant", "layer_2"),
    "all units equal": (lambda: change(stack(), "layer_3", repeat_first), "repeated_units", "layer_3"),
    "two layers of one seed": (same_seed, "equal_tensors", "layer_4"),
    "one layer ×30": (lambda: change(stack(), "layer_2", lambda k: 30 * k), "too_large", "layer_2"),
    "one layer ÷30": (lambda: change(stack(), "layer_2", lambda k: k / 30), "too_small", "layer_2"),
    "×30 in a Keras default": (
        lambda: change(stack(initializer="glorot_uniform"), "layer_2", lambda k: 30 * k),
        "too_large",
        "layer_2",
    ),
    "a stack that vanishes": (
        lambda: drawn(stack(40), winit.RandomNormal(stddev=0.05)),
        "vanishing_signal",
        None,
    ),
    "a stack that explodes": (
        lambda: drawn(stack(40), winit.RandomNormal(stddev=0.6)),
        "exploding_signal",
        None,
    ),
    "gradients that vanish": (
        lambda: stack(40, "sigmoid", initializer="glorot_uniform"),
        "vanishing_gradient",
        None,
    ),
    "gradients that explode": (
        lambda: drawn(stack(40, "tanh"), winit.RandomNormal(stddev=0.6)),
        "exploding_gradient",
        None,
    ),
    "inputs that look the same": (
        lambda: stack(40, "sigmoid", initializer="glorot_uniform"),
        "input_collapse",
        None,
    ),
    "a dead layer": (lambda: with_bias(stack(), "layer_2", -100), "dead_units", "layer_2"),
    "saturated sigmoids": (
        lambda: change(stack(activation="sigmoid"), "layer_1", lambda k: 30 * k),
        "saturated",
        "layer_1",
    ),
    "NaN": (lambda: change(stack(), "layer_3", one_nan), "non_finite", "layer_3"),
}


_found: dict[str, bool] = {}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found_and_named(fault):
    make, code, place = FAULTS[fault]
    model = make()
    before = zoo.snapshot(model)
    report = winit.diagnose(model)
    _found[fault] = any(finding.code == code for finding in report.findings)
    hits = [finding for finding in report.findings if finding.code == code]
    assert hits, [str(finding) for finding in report.findings]
    if place is not None:
        assert place in hits[0].path
        strangers = [f for f in report.findings if f.code == code and place not in f.path]
        assert not strangers, strangers
    if code != "equal_tensors":  # two layers that start equal can still learn
        assert hits[0].severity == "error"
        assert not report.ok
    assert "`" in hits[0].remedy  # it names a call
    zoo.assert_unchanged(model, before)


@pytest.mark.parametrize(("std", "code"), [(0.05, "vanishing_signal"), (0.6, "exploding_signal")])
def test_a_stack_is_named_where_it_passes_the_threshold(std, code):
    """Each ReLU layer multiplies the deviation by σ·√(n/2): the layer is known, give or take two."""
    report = winit.diagnose(drawn(stack(40), winit.RandomNormal(stddev=std)))
    finding = next(finding for finding in report.findings if finding.code == code)
    first = math.log(THRESHOLDS[code].error / (std * math.sqrt(48))) / math.log(std * math.sqrt(48 / 2))
    assert int(finding.path.rsplit("_", 1)[1]) == pytest.approx(first + 0.5, abs=2)


SHALLOW = ("relu", "leaky_relu", "elu", "selu", "gelu", "silu", "tanh", "softsign", "sigmoid", "softplus")


def healthy_models():
    for activation in SHALLOW:
        for depth in (1, 3):
            chosen = winit.for_activation(activation)
            yield (
                f"{activation} × {depth}",
                lambda a=activation, d=depth, c=chosen: stack(d, a, initializer=c),
            )
    for name, make in zoo.MODELS.items():

        def initialized(make=make):
            model = make()
            winit.initialize(model, seed=0)
            return model

        def calibrated(make=make):
            model = make()
            winit.calibrate(model, seed=0)
            return model

        yield f"{name}, initialized", initialized
        yield f"{name}, calibrated", calibrated


HEALTHY = dict(healthy_models())


_alarms: dict[str, bool] = {}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_models_have_no_errors(name):
    report = winit.diagnose(HEALTHY[name]())
    _alarms[name] = not report.ok
    assert report.ok, report.errors
    assert report.layers
    assert report.weights


def test_the_rates(capsys):
    """Said in the output of the run, as the tests above found them."""
    if not _found or not _alarms:
        pytest.skip("after the tests above, in one process")
    with capsys.disabled():
        print(
            f"\ndiagnose on {BACKEND}: {sum(_found.values())} of {len(_found)} planted faults found, "
            f"{sum(_alarms.values())} false errors in {len(_alarms)} healthy models"
        )
    assert all(_found.values())
    assert not any(_alarms.values())


def test_every_code_can_be_found():
    assert {code for _, code, _ in FAULTS.values()} | {"initial_loss"} == CODES
    kinds = {name.removesuffix("_elsewhere") for name in THRESHOLDS} - {"wrong_fans"}
    assert kinds <= CODES | MORE
    for threshold in THRESHOLDS.values():
        assert threshold.reason


def test_signal_and_gradient_are_what_a_hand_computes():
    model = stack(2, "tanh")
    data = np.random.default_rng(0).standard_normal((32, 48)).astype("float32")
    labels = np.random.default_rng(1).standard_normal((32, 10)).astype("float32")
    report = winit.diagnose(model, data, labels, "mse")
    one, two, last = (array(layer.kernel.value).astype("float64") for layer in model.layers)
    first = data @ one
    second = np.tanh(first) @ two
    outputs = np.tanh(second) @ last
    assert report.loss == pytest.approx(np.mean((outputs - labels) ** 2), rel=1e-4)
    assert report.loss_of_guessing == pytest.approx(np.mean(labels.var(axis=0)), rel=1e-4)
    # The loss is a mean over samples and outputs; a sample's own share of it has no mean over samples.
    back_last = 2 * (outputs - labels) / 10
    back_second = (back_last @ last.T) * (1 - np.tanh(second) ** 2)
    back_first = (back_second @ two.T) * (1 - np.tanh(first) ** 2)
    sent = {row.path.split("/")[-1]: row for row in report.layers}
    for name, signal, back in (
        ("layer_0", first, back_first),
        ("layer_1", second, back_second),
        ("last", outputs, back_last),
    ):
        assert sent[name].std == pytest.approx(signal.std(), rel=1e-4)
        assert sent[name].mean == pytest.approx(signal.mean(), rel=1e-3, abs=1e-5)
        assert sent[name].gradient == pytest.approx(math.sqrt(np.mean(np.sum(back**2, axis=1))), rel=1e-3)
    activated = np.tanh(first)
    differing = np.mean(np.square(activated - activated.mean(axis=0))) / np.mean(np.square(activated))
    assert sent["layer_0"].distinct == pytest.approx(differing, rel=1e-4)
    ends = np.mean(np.abs(activated) > 1 - 2 / 80)
    assert sent["layer_0"].saturated == pytest.approx(ends, abs=1e-3)
    assert sent["layer_0"].activation == "tanh"
    assert sent["last"].dead is None


def test_dead_units_are_counted():
    model = stack(1)
    bias = model.get_layer("layer_0").bias
    bias.assign(np.where(np.arange(48) < 12, -100.0, 0.0))
    row = winit.diagnose(model).layers[0]
    assert row.dead == pytest.approx(12 / 48)
    assert row.saturated is None  # relu has one end only


def test_dead_channels_of_a_convolution_and_activation_layers():
    inputs = keras.Input((6, 6, 3))
    conv = layers.Conv2D(8, 3, use_bias=True, name="conv")
    model = keras.Model(
        inputs, layers.ReLU(name="act")(layers.BatchNormalization(center=False)(conv(inputs)))
    )
    report = winit.diagnose(model)
    rows = {row.path.split("/")[-1]: row for row in report.layers}
    assert rows["act"].activation == "relu"
    assert rows["act"].dead == 0
    assert rows["conv"].activation is None
    assert rows["act"].std == pytest.approx(1, abs=0.1)  # as in training: by the batch's own statistics


def test_the_tap_shows_values_and_gradients():
    seen = []

    def note(key):
        return lambda values: seen.append((key, array(values)))

    def objective(source):
        x = ops.convert_to_tensor(np.array([1.0, 2.0, 3.0], "float32"))
        x = tap(x, source, lambda v: seen.append(("x", array(v))), lambda v: seen.append(("dx", array(v))))
        y = tap(
            x * x, source, lambda v: seen.append(("y", array(v))), lambda v: seen.append(("dy", array(v)))
        )
        return ops.sum(y * 2)

    gradient(objective)
    found = dict(seen)
    assert [key for key, _ in seen] == ["x", "y", "dy", "dx"]
    np.testing.assert_allclose(found["y"], [1, 4, 9])
    np.testing.assert_allclose(found["dy"], [2, 2, 2])
    np.testing.assert_allclose(found["dx"], [4, 8, 12])


@pytest.mark.parametrize("name", zoo.MODELS)
def test_nothing_changes(name):
    model = zoo.MODELS[name]()
    model.compile("adam", "mse")
    before = zoo.snapshot(model)
    keys = {id(layer): set(vars(layer)) for layer in model._flatten_layers()}
    states = [array(variable.value).copy() for variable in model.variables]
    for data in (None, zoo.data(model, name)):
        report = winit.diagnose(model, data)
        assert all(math.isfinite(row.std) for row in report.layers)
        assert any(row.gradient for row in report.layers)
    zoo.assert_unchanged(model, before)
    for variable, value in zip(model.variables, states, strict=True):
        np.testing.assert_array_equal(array(variable.value), value, err_msg=variable.path)
    caches = {"_dropout_mask", "_recurrent_dropout_mask"}
    for layer in model._flatten_layers():
        assert set(vars(layer)) - caches == keys[id(layer)] - caches


@pytest.mark.parametrize(
    ("loss", "labels", "guess"),
    [
        ("sparse_categorical_crossentropy", np.arange(40) % 4, math.log(4)),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), np.arange(40) % 4, math.log(4)),
        ("categorical_crossentropy", np.eye(4)[np.arange(40) % 4], math.log(4)),
        ("binary_crossentropy", np.eye(4)[np.arange(40) % 4], -0.25 * math.log(0.25) - 0.75 * math.log(0.75)),
        ("categorical_focal_crossentropy", np.eye(4)[np.arange(40) % 4], 0.25 * 0.75**2 * math.log(4)),
        ("binary_focal_crossentropy", np.eye(4)[:2][np.arange(40) % 2], 0.5 * 0.5**2 * math.log(2)),
        ("mse", np.eye(4)[np.arange(40) % 4] * 2, 4 * 0.25 * 0.75),
        ("mae", np.tile(np.arange(40.0)[:, None], 4), 10.0),
        ("huber", np.zeros((40, 4)), None),
    ],
)
def test_the_loss_of_guessing(loss, labels, guess):
    logits = not isinstance(loss, str)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, None if logits else "softmax")])
    report = winit.diagnose(model, np.random.default_rng(0).standard_normal((40, 6)), labels, loss)
    assert report.loss > 0
    assert report.loss_of_guessing == (guess if guess is None else pytest.approx(guess, rel=1e-6))


@pytest.mark.parametrize(
    "loss",
    [
        keras.losses.CategoricalFocalCrossentropy(),
        keras.losses.CategoricalFocalCrossentropy(alpha=[0.3, 2.0], gamma=1.0),
        keras.losses.BinaryFocalCrossentropy(gamma=1.0),
        keras.losses.BinaryFocalCrossentropy(apply_class_balancing=True, alpha=0.1),
    ],
)
def test_no_constant_has_less_focal_loss_than_guessing(loss):
    share = 0.2
    labels = (np.arange(40) < share * 40).astype("float32")
    chances = np.linspace(0.01, 0.99, 99)
    if isinstance(loss, keras.losses.BinaryFocalCrossentropy):
        labels, outputs = labels[:, None], chances[:, None]
    else:
        labels, outputs = np.stack([labels, 1 - labels], 1), np.stack([chances, 1 - chances], 1)
    found = [float(loss(labels, np.tile(each, (40, 1)))) for each in outputs.astype("float32")]
    assert guess_of(None, loss, labels, 2).best == pytest.approx(min(found), rel=2e-3)


def test_a_bad_first_loss_is_found():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(3, name="out")(inputs))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data, labels = np.random.default_rng(0).standard_normal((30, 6)), np.arange(30) % 3
    assert "initial_loss" not in [f.code for f in winit.diagnose(model, data, labels).findings]
    change(model, "out", lambda kernel: 300 * kernel)
    finding = next(f for f in winit.diagnose(model, data, labels).findings if f.code == "initial_loss")
    assert finding.severity == "error"
    assert finding.figures["guess"] == pytest.approx(math.log(3))


def test_data_sets_bring_their_labels():
    model = stack(1)
    pairs = [(np.ones((8, 48), "float32") * np.arange(8)[:, None], np.zeros((8, 10)))]
    assert winit.diagnose(model, iter(pairs), loss="mse").loss > 0


BAD = {
    "labels alone": (lambda m: winit.diagnose(m, labels=np.zeros(3)), "without `data`"),
    "loss alone": (lambda m: winit.diagnose(m, DATA, loss="mse"), "labels"),
    "no loss": (lambda m: winit.diagnose(m, DATA, np.zeros((8, 10))), "compiled"),
    "unknown loss": (lambda m: winit.diagnose(m, DATA, np.zeros((8, 10)), "msee"), "msee"),
    "counts": (lambda m: winit.diagnose(m, DATA, np.zeros((7, 10)), "mse"), "same number"),
    "nan": (lambda m: winit.diagnose(m, DATA * np.nan), "finite"),
    "threshold": (lambda m: winit.diagnose(m, thresholds={"dead_unit": 1}), "dead_units"),
    "pair": (lambda m: winit.diagnose(m, thresholds={"dead_units": (1, 2, 3)}), "pair"),
    "unbuilt": (lambda _: winit.diagnose(keras.Sequential([layers.Dense(2)])), "not built"),
    "no model": (lambda _: winit.diagnose("model.keras"), "Keras model"),
}


DATA = np.random.default_rng(0).standard_normal((8, 48)).astype("float32")


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_has_a_clear_error(kind):
    call, message = BAD[kind]
    model = stack(1)
    before = zoo.snapshot(model)
    with pytest.raises((TypeError, ValueError), match=message):
        call(model)
    zoo.assert_unchanged(model, before)


def test_thresholds_can_be_overridden():
    model = stack(3)
    assert winit.diagnose(model).ok
    strict = winit.diagnose(model, thresholds={"dead_units": (-1, -1), "exploding_signal": 0.1})
    assert {"dead_units", "exploding_signal"} <= {finding.code for finding in strict.errors}
    dead = with_bias(stack(), "layer_2", -100)
    lax = winit.diagnose(dead, thresholds={"dead_units": 1.0, "vanishing_gradient": 0, "input_collapse": 0})
    assert "dead_units" not in {finding.code for finding in lax.findings}


def test_keras_wrong_fans_are_a_warning_and_exact_ones_are_not():
    inputs = keras.Input((8, 8, 64))
    model = keras.Model(inputs, layers.DepthwiseConv2D(3)(inputs))
    (finding,) = winit.diagnose(model).findings
    assert (finding.code, finding.severity) == ("too_small", "warning")
    assert "fan_in is 9" in finding.message
    winit.initialize(model, seed=0)
    assert winit.diagnose(model).findings == ()


def test_what_equals_by_design_is_no_finding():
    inputs = keras.Input((6, 6, 4))
    x = layers.Conv2D(16, 3, padding="same", kernel_initializer=winit.ICNR("he_normal", 2))(inputs)
    x = layers.Conv2DTranspose(4, 4, strides=2, padding="same", kernel_initializer="winit>bilinear")(x)
    x = layers.SimpleRNN(5, recurrent_initializer="identity")(layers.Reshape((-1, 4))(x))
    found = {finding.code for finding in winit.diagnose(keras.Model(inputs, x)).findings}
    assert not found & {"repeated_units", "equal_tensors"}


def test_q_k_v_of_one_seed_are_found():
    inputs = keras.Input((5, 8))
    attention = layers.MultiHeadAttention(2, 4, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    report = winit.diagnose(keras.Model(inputs, attention(inputs, inputs)))
    equal = [finding.path for finding in report.findings if finding.code == "equal_tensors"]
    assert [path.split("/")[-2] for path in equal] == ["key", "value"]


def test_a_quantized_or_frozen_model_is_looked_at():
    model = stack(2)
    model.trainable = False
    assert winit.diagnose(model).layers
    model = stack(2)
    model.quantize("int8")
    report = winit.diagnose(model)
    assert report.ok
    assert sum("quantized" in note for note in report.notes) == 3


def fake_report(count, *, bad=False):
    findings = ()
    if bad:
        finding = Finding("zero", "error", "layer_3", "All zero.", {"value": 0.0}, "`initialize(model)`")
        findings = (finding,)
    rows = tuple(
        LayerRow(f"block_{i // 3}/layer_{i}", "tanh", 0.0, 0.9**i, 0.5, i / count, 0.1, 0.95 ** (count - i))
        for i in range(count)
    )
    weights = tuple(WeightRow(f"{row.path}/kernel", (3, 4), "kernel", 0.5, 0.4) for row in rows)
    return Report(findings, rows, weights, 2.5, 2.3, "32 samples", ())


@pytest.mark.parametrize("count", [1, 5, 300])
def test_reports_print_plot_and_serialize(count, tmp_path):
    report = fake_report(count, bad=True)
    text = str(report)
    assert "not healthy: 1 error, 0 warnings" in text
    assert len(text.splitlines()) < 150
    assert "zero" in report._repr_html_()
    data = json.loads(json.dumps(report.to_dict()))
    assert data["ok"] is False
    assert len(data["layers"]) == count
    pytest.importorskip("matplotlib")
    import matplotlib

    matplotlib.use("Agg")
    figure = report.plot()
    figure.savefig(tmp_path / "report.png")
    signal, weights, shares = figure.axes
    np.testing.assert_allclose(signal.get_lines()[0].get_ydata(), [row.std for row in report.layers])
    np.testing.assert_allclose(weights.get_lines()[0].get_ydata(), 1.25)
    assert len(shares.patches) == (count if count < 40 else 0)
    assert len(shares.collections) == (0 if count < 40 else 1)
    styles = {(line.get_marker(), line.get_linestyle()) for line in signal.get_lines()[:3]}
    assert len(styles) == 3  # told apart without colour


def test_a_broken_model_prints_and_plots():
    pytest.importorskip("matplotlib")
    import matplotlib

    matplotlib.use("Agg")
    report = winit.diagnose(change(stack(), "layer_3", one_nan))
    assert "non_finite" in str(report)
    assert None in [row["std"] for row in report.to_dict()["layers"]]
    report.plot()
