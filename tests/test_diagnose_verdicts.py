"""diagnose: what trains is not condemned, and what does not is found, in models as people build them."""

import keras
import numpy as np
import pytest
from helpers import BACKEND, array, since
from keras import layers, ops

import keras_winit as winit
from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.diagnosing.findings import THRESHOLDS, Remedies
from keras_winit.models.diagnosing.judging import Judge
from keras_winit.models.diagnosing.reading import Left, what_is_left
from keras_winit.models.diagnosing.seen import Seen
from keras_winit.models.diagnosing.signals import Signals

RNG = np.random.default_rng(0)
X = RNG.standard_normal((128, 16)).astype("float32")
Y = np.argmax(X[:, :3], axis=1)
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
NEAR_ZERO = keras.initializers.RandomNormal(stddev=0.001, seed=1)


def plain(activation="relu", depth=4, *, zero=(), head="glorot_uniform"):
    """A plain stack; the hidden layers in `zero` start at zero."""
    keras.utils.set_random_seed(0)
    kernels = ["zeros" if place in zero else "he_normal" for place in range(depth)]
    hidden = [layers.Dense(24, activation, kernel_initializer=kernel) for kernel in kernels]
    return keras.Sequential([keras.Input((16,)), *hidden, layers.Dense(3, kernel_initializer=head)])


def residual(*, kernel="he_normal", gamma="ones", depth=4):
    """Blocks x + BN(W·relu(W·x)), whose last kernels or γ may be zero."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16,))
    x = layers.Dense(24)(inputs)
    for _ in range(depth):
        y = layers.Dense(24, "relu")(layers.LayerNormalization()(x))
        y = layers.Dense(24, kernel_initializer=kernel)(y)
        x = x + layers.BatchNormalization(gamma_initializer=gamma)(y)
    return keras.Model(inputs, layers.Dense(3)(x))


def discriminator():
    """DCGAN's: all kernels N(0, 0.02²), no normalization, and narrow."""
    keras.utils.set_random_seed(0)
    small = keras.initializers.RandomNormal(stddev=0.02)
    convolutions = [
        layer
        for width in (16, 32, 64)
        for layer in (
            layers.Conv2D(width, 4, 2, padding="same", kernel_initializer=small),
            layers.LeakyReLU(0.2),
        )
    ]
    head = layers.Dense(1, kernel_initializer=small)
    return keras.Sequential([keras.Input((16, 16, 3)), *convolutions, layers.Flatten(), head])


def prior():
    """A sigmoid output that starts at the prior of 0.2 % positives."""
    model = plain()
    bias = keras.initializers.Constant(np.log(0.002 / 0.998))
    output = layers.Dense(1, "sigmoid", bias_initializer=bias)(model.layers[-2].output)
    return keras.Model(model.inputs, output)


TRAINS = {
    "zero head": lambda: plain(head="zeros"),
    "head near zero": lambda: plain(head=NEAR_ZERO),
    "PPO's head": lambda: plain("tanh", 2, head=keras.initializers.Orthogonal(0.01)),
    "zero last kernels of branches": lambda: residual(kernel="zeros"),
    "zero last kernels and a zero head": lambda: zeroed_head(residual(kernel="zeros")),
    "zero γ": lambda: residual(gamma="zeros"),
    "zero first layer before tanh": lambda: plain("tanh", zero=(0,)),
    "a discriminator at 0.02": discriminator,
    "an output at the prior": prior,
}
FAILS = {
    "a zero kernel in the midst of a ReLU stack": lambda: plain(zero=(2,)),
    "two zero layers in a row": lambda: plain("tanh", zero=(1, 2)),
    "a zero first layer before ReLU": lambda: plain(zero=(0,)),
    "a zero head behind a zero layer": lambda: plain("tanh", zero=(3,), head="zeros"),
}


def zeroed_head(model):
    model.layers[-1].kernel.assign(0 * array(model.layers[-1].kernel.value))
    return model


@pytest.mark.parametrize("name", TRAINS)
def test_what_trains_is_at_most_a_note(name):
    model = TRAINS[name]()
    data = X if model.input_shape[1:] == (16,) else RNG.standard_normal((32, *model.input_shape[1:]))
    report = winit.diagnose(model, data)
    assert {finding.severity for finding in report.findings} <= {"note"}, report.findings


@pytest.mark.parametrize("name", FAILS)
def test_zeros_that_do_not_learn_are_errors(name):
    report = winit.diagnose(FAILS[name](), X, Y, LOGITS)
    assert "zero" in {finding.code for finding in report.errors}
    mended = FAILS[name]()
    winit.initialize(mended, overwrite=True, seed=0)
    assert "zero" not in {finding.code for finding in winit.diagnose(mended, X, Y, LOGITS).findings}


def text_cnn():
    tokens = layers.Embedding(200, 16)(keras.Input((20,), dtype="int32", name="t"))
    inputs = tokens._keras_history.operation.input
    pools = [layers.GlobalMaxPooling1D()(layers.Conv1D(16, k, activation="relu")(tokens)) for k in (3, 5)]
    return keras.Model(inputs, layers.Dense(1, "sigmoid")(layers.Concatenate()(pools)))


def bilstm():
    inputs = keras.Input((20,), dtype="int32")
    x = layers.Bidirectional(layers.LSTM(16, return_sequences=True))(layers.Embedding(200, 16)(inputs))
    return keras.Model(inputs, layers.Dense(1, "sigmoid")(layers.Bidirectional(layers.LSTM(16))(x)))


def vae():
    inputs = keras.Input((12, 12, 1))
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu")(inputs)
    x = layers.Dense(16, "relu")(layers.Flatten()(x))
    mean, spread = layers.Dense(2)(x), layers.Dense(2)(x)
    z = mean + ops.exp(0.5 * spread)
    y = layers.Reshape((6, 6, 4))(layers.Dense(144, "relu")(z))
    y = layers.Conv2DTranspose(8, 3, 2, padding="same", activation="relu")(y)
    return keras.Model(inputs, [layers.Conv2D(1, 3, padding="same", activation="sigmoid")(y), mean, spread])


def retina():
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu")(inputs)
    y = layers.Conv2D(16, 3, 2, padding="same", activation="relu")(x)
    lateral = layers.Conv2D(16, 1)(y) + layers.Conv2D(16, 1, 2)(x)
    small = keras.initializers.RandomNormal(stddev=0.01)
    for _ in range(2):
        lateral = layers.Conv2D(16, 3, padding="same", activation="relu", kernel_initializer=small)(lateral)
    bias = keras.initializers.Constant(-np.log(99.0))
    classes = layers.Conv2D(9, 3, padding="same", kernel_initializer=small, bias_initializer=bias)(lateral)
    boxes = layers.Conv2D(36, 3, padding="same", kernel_initializer=small)(lateral)
    return keras.Model(inputs, [classes, boxes])


def ocr():
    inputs = keras.Input((16, 40, 1))
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.MaxPooling2D()(x))
    x = layers.Reshape((20, 128))(ops.transpose(x, (0, 2, 1, 3)))
    x = layers.Bidirectional(layers.LSTM(16, return_sequences=True))(layers.Dense(16, "relu")(x))
    return keras.Model(inputs, layers.Dense(12, "softmax")(x))


def seq2seq():
    source, target = keras.Input((10, 12)), keras.Input((8, 12))
    _, h, c = layers.LSTM(16, return_state=True)(source)
    x = layers.LSTM(16, return_sequences=True)(target, initial_state=[h, c])
    return keras.Model([source, target], layers.Dense(12, "softmax")(x))


def numbers_for(model):
    rng = np.random.default_rng(0)

    def draw(tensor):
        shape = (64, *tensor.shape[1:])
        whole = "int" in tensor.dtype
        return rng.integers(0, 200, shape) if whole else rng.random(shape).astype("float32")

    return keras.tree.map_structure(draw, model.inputs if len(model.inputs) > 1 else model.inputs[0])


@pytest.mark.parametrize(
    "make", [text_cnn, bilstm, vae, retina, ocr, seq2seq], ids=lambda make: make.__name__
)
def test_defaults_of_published_models_are_healthy(make):
    keras.utils.set_random_seed(0)
    model = make()
    report = winit.diagnose(model, numbers_for(model))
    assert report.ok, report.errors
    assert not {"input_collapse", "unscaled_data"} & {finding.code for finding in report.findings}


# --- what was made by calibrate, and data of any scale ------------------------------------------------


def dense():
    hidden = [layers.Dense(32, "relu") for _ in range(2)]
    return keras.Sequential([keras.Input((16,)), *hidden, layers.Dense(1)])


def over_time(*kinds):
    return keras.Sequential([keras.Input((6, 16)), *kinds, layers.Dense(1)])


def pictures():
    convolution = layers.ConvLSTM2D(4, 3, padding="same")
    return keras.Sequential([keras.Input((3, 6, 6, 2)), convolution, layers.Flatten(), layers.Dense(1)])


CALIBRATED = {
    **{f"dense, {scale:g}": (dense, scale) for scale in (1e-6, 1e-3, 1.0, 255.0, 1e5)},
    **{
        f"{name}, {scale:g}": (make, scale)
        for name, make in {
            "lstm": lambda: over_time(layers.LSTM(24)),
            "gru": lambda: over_time(layers.GRU(24)),
            "bidirectional": lambda: over_time(layers.Bidirectional(layers.LSTM(12))),
            "conv lstm": pictures,
        }.items()
        for scale in (0.01, 100.0)
    },
}


@pytest.mark.parametrize("name", CALIBRATED)
def test_what_calibrate_made_is_fine(name):
    make, scale = CALIBRATED[name]
    keras.utils.set_random_seed(0)
    model = make()
    data = (scale * np.random.default_rng(0).standard_normal((64, *model.input_shape[1:]))).astype("float32")
    winit.calibrate(model, data, seed=0)
    report = winit.diagnose(model, data)
    assert not report.findings, report.findings


@pytest.mark.parametrize("data", [X * 1e4, X * 1e-4, RNG.integers(0, 256, (128, 16)).astype("float32")])
def test_unscaled_data_is_said_once_with_a_remedy_that_helps(data):
    keras.utils.set_random_seed(0)
    model = dense()
    codes = [finding.code for finding in winit.diagnose(model, data).findings]
    assert codes == ["unscaled_data"]
    winit.calibrate(model, data, seed=0)
    assert not winit.diagnose(model, data).findings


def test_data_that_overflows_a_network_is_named():
    """Units of a long GELU chain leave the flat place that they start around, and grow layer by layer."""
    stack = [layers.Dense(16, "gelu") for _ in range(190)]
    model = keras.Sequential([keras.Input((16,)), *stack, layers.Dense(3)])
    winit.initialize(model, "looks_linear", seed=0)
    found = {finding.code: finding for finding in winit.diagnose(model, 100 * X).findings}
    assert "Standardize the data" in found["non_finite"].remedy
    assert not winit.diagnose(model, X).errors
    winit.calibrate(model, 100 * X, scheme="looks_linear", seed=0, progress=False)
    assert not winit.diagnose(model, 100 * X).errors


# --- what was missed ----------------------------------------------------------------------------------


def compiled(model, loss):
    model.compile("sgd", loss)
    return model


def own_loss(y_true, y_pred):
    return ops.mean(ops.square(y_pred) - 2 * y_pred * ops.cast(y_true[..., None], "float32") + 1.0)


def loud():
    keras.utils.set_random_seed(0)
    model = compiled(plain(), own_loss)
    model.layers[-1].kernel.assign(30 * array(model.layers[-1].kernel.value))
    return model


def penalized():
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(64, "relu", kernel_regularizer=keras.regularizers.L2(0.3)) for _ in range(3)]
    return compiled(keras.Sequential([keras.Input((16,)), *hidden, layers.Dense(3)]), LOGITS)


def silent():
    model = plain()
    bias = keras.initializers.Constant(-1e6)
    output = layers.Dense(3, "relu", bias_initializer=bias, name="out")(model.layers[-2].output)
    return compiled(keras.Model(model.inputs, output), LOGITS)


def softmax_twice():
    model = plain()
    return compiled(keras.Model(model.inputs, layers.Softmax()(model.layers[-1].output)), LOGITS)


def no_softmax():
    return compiled(plain(), "sparse_categorical_crossentropy")


def gated(bias):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16,))
    gate = layers.Dense(24, bias_initializer=keras.initializers.Constant(bias))(inputs)
    x = ops.sigmoid(gate) * layers.Dense(24)(inputs)
    return compiled(keras.Model(inputs, layers.Dense(3)(x)), LOGITS)


def cell(layer, gate, value, shape=(4, 4)):
    """A recurrent layer of 8 units, a gate of which has this bias."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16,))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layer(layers.Reshape(shape)(inputs)))))
    bias = array(layer.cell.bias.value).copy()
    bias[..., 8 * gate : 8 * gate + 8] = value
    layer.cell.bias.assign(bias)
    return compiled(model, LOGITS)


def attention(size=1.0, *, equal=False):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16,))
    x = layers.Rescaling(size)(layers.Reshape((4, 4))(inputs))
    layer = layers.MultiHeadAttention(2, 4)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layer(x, x))))
    if equal:
        layer.key_dense.kernel.assign(layer.query_dense.kernel.value)
    return compiled(model, LOGITS)


def large_epsilon(layer):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16,))
    x = layer(layers.Dense(24, kernel_initializer=keras.initializers.RandomNormal(stddev=1e-4))(inputs))
    return compiled(keras.Model(inputs, layers.Dense(3)(layers.ReLU()(x))), LOGITS)


MISSED = {
    "a gate that is shut": (lambda: gated(-12), "stuck_gate", "error"),
    "a gate that is open": (lambda: gated(12), "stuck_gate", "error"),
    "an input gate that is shut": (lambda: cell(layers.LSTM(8), 0, -20), "stuck_gate", "error"),
    "an update gate that keeps everything": (lambda: cell(layers.GRU(8), 0, 20), "stuck_gate", "error"),
    "an output gate of a convolutional LSTM": (
        lambda: cell(layers.ConvLSTM1D(8, 2, padding="same"), 3, -20, (2, 4, 2)),
        "stuck_gate",
        "error",
    ),
    "attention that sees one key": (lambda: attention(20.0), "one_hot_attention", "error"),
    "equal queries and keys": (lambda: attention(equal=True), "equal_tensors", "warning"),
    "ε above a batch's variance": (
        lambda: large_epsilon(layers.BatchNormalization()),
        "epsilon",
        "error",
    ),
    "ε above a sample's variance": (lambda: large_epsilon(layers.LayerNormalization()), "epsilon", "error"),
    "a loss of one's own, far above that of constant outputs": (loud, "initial_loss", "error"),
    "penalties": (penalized, "penalties", "error"),
    "outputs that are all zero": (silent, "dead_units", "error"),
    "a softmax before a loss on logits": (softmax_twice, "softmax_twice", "warning"),
    "logits before a loss on probabilities": (no_softmax, "no_probabilities", "error"),
}


@pytest.mark.parametrize("name", MISSED)
def test_what_was_missed_is_found(name):
    make, code, severity = MISSED[name]
    found = {finding.code: finding for finding in winit.diagnose(make(), X, Y).findings}
    assert code in found, found
    assert found[code].severity == severity, found[code]
    assert found[code].remedy


def test_gates_and_normalizations_as_they_are_drawn_are_fine():
    chrono, candidate = cell(layers.LSTM(8), 1, 7.0), cell(layers.LSTM(8), 2, 20.0)
    for model in (gated(0), gated(-2), chrono, candidate, cell(layers.GRU(8), 0, 1.0), attention()):
        codes = {finding.code for finding in winit.diagnose(model, X, Y).findings}
        assert not codes & {"stuck_gate", "one_hot_attention", "epsilon", "equal_tensors"}, codes


def test_a_chain_that_scatters_its_inputs_is_found_without_labels():
    keras.utils.set_random_seed(0)
    wide = keras.initializers.RandomNormal(stddev=2 / np.sqrt(24))
    hidden = [layers.Dense(24, "tanh", kernel_initializer=wide) for _ in range(42)]
    model = keras.Sequential([keras.Input((16,)), *hidden, layers.Dense(3)])
    assert "inputs_lost" in {finding.code for finding in winit.diagnose(model, X).errors}


# What is left of the labels is judged against chance, and by the rank of the features and the length.
LOST = {
    "collapsed": (1, 40, 0.05, "error"),
    "collapsed, and perhaps by chance": (1, 40, 0.1, "warning"),
    "scattered": (20, 40, 0.05, "warning"),
    "scattered over many layers": (20, 80, 0.05, "error"),
    "half lost over many layers": (20, 80, 0.3, "error"),
    "as much lost in fewer": (1, 40, 0.3, "warning"),
}


@pytest.mark.parametrize("name", LOST)
def test_labels_are_lost_where_inputs_collapse_and_in_very_long_chains(name):
    directions, length, labels, severity = LOST[name]
    features = RNG.standard_normal((128, directions)) @ RNG.standard_normal((directions, 24))
    shares = tuple((f"layer_{index}", labels) for index in range(length))
    left = Left(labels, 0.9, shares, chance=0.03)
    seen = Signals([Seen("layer_0", "relu", weighted=True, std=1.0)], [], features=[(features, 0.5)])
    judge = Judge(THRESHOLDS, Remedies(Anatomy(plain())), left)
    found = {finding.code: finding.severity for finding in judge.findings(seen)}
    assert found == {"labels_lost": severity}


# How far the gradient falls, the directions that inputs fill, what is left of labels.
FALLS = {
    "a little": (5, 20, 0.9, {}),
    "by itself": (15, 20, 0.9, {"vanishing_gradient": "warning"}),
    "further": (30, 20, 0.9, {"vanishing_gradient": "error"}),
    "near a line": (15, 1, 0.9, {"vanishing_gradient": "error"}),
    "where labels are lost": (5, 3, 0.3, {"labels_lost": "warning"}),
    "where labels are scattered": (5, 20, 0.3, {"labels_lost": "warning"}),
}


@pytest.mark.parametrize("name", FALLS)
def test_a_gradient_that_falls_is_judged_by_what_it_tells(name):
    fall, directions, labels, expected = FALLS[name]
    features = RNG.standard_normal((128, directions)) @ RNG.standard_normal((directions, 24))
    sizes = np.geomspace(1, fall, 6)  # the last layer's is the largest
    chain = [Seen(str(size), "tanh", weighted=True, std=1.0, gradient=size) for size in sizes]
    left = Left(labels, 0.9, tuple((str(index), labels) for index in range(20)), chance=0.03)
    seen = Signals(chain, [], input_distinct=1.0, features=[(features, 1.0)])
    judge = Judge(THRESHOLDS, Remedies(Anatomy(plain())), left)
    assert {finding.code: finding.severity for finding in judge.findings(seen)} == expected


@pytest.mark.parametrize(("dip", "found"), [(3, set()), (5, {"vanishing_signal"})])
def test_a_signal_that_comes_back_has_not_vanished(dip, found):
    """Small in a gate or a scaled branch, and whole again behind it; the last layer has none behind it."""
    chain = [Seen(str(place), "relu", weighted=True, std=1.0, gradient=1.0) for place in range(6)]
    chain[dip].std = 1e-9
    judge = Judge(THRESHOLDS, Remedies(Anatomy(plain())), Left(labels=0.9))
    codes = {finding.code for finding in judge.findings(Signals(chain, [], input_distinct=1.0))}
    assert codes & {"vanishing_signal"} == found


@pytest.mark.parametrize(("growth", "severity"), [(200, "warning"), (2000, "error")])
def test_a_gradient_that_grows_and_scatters_can_be_learned(growth, severity):
    sizes = np.geomspace(growth, 1, 40)
    chain = [Seen(str(size), "tanh", weighted=True, std=1.0, gradient=size) for size in sizes]
    for directions, expected in ((20, severity), (3, "error")):
        features = RNG.standard_normal((128, directions)) @ RNG.standard_normal((directions, 24))
        seen = Signals(chain, [], input_distinct=1.0, features=[(features, 1.0)])
        judge = Judge(THRESHOLDS, Remedies(Anatomy(plain())), Left(inputs=0.0, labels=0.9))
        assert {finding.code: finding.severity for finding in judge.findings(seen)} == {
            "exploding_gradient": expected
        }


def test_what_is_left_of_labels_knows_what_guessing_reaches_by_chance():
    classes = np.repeat([0, 1], [96, 32])
    given = classes[:, None] + 0.1 * X[:, :4]
    errors = []
    for seed in range(40):
        noise = np.random.default_rng(seed).standard_normal((128, 4))
        seen = Signals([], [], input_sketch=given - given.mean(axis=0), features=[(noise, 1.0)])
        left = what_is_left(seen, classes)
        errors.append(left.labels)
    assert left.chance == pytest.approx(np.sqrt(3 / 128) / left.given)
    assert np.std(errors) < 2 * left.chance


def test_a_verdict_says_what_it_rests_on():
    model = plain(depth=1)
    with_labels, without = winit.diagnose(model, X, Y, LOGITS), winit.diagnose(model, X)
    assert "128 samples, with their labels" in str(with_labels)
    assert "without labels" in str(without)
    assert "learning rate" in str(without)
    assert with_labels.labels_left > 0.4
    assert without.labels_left is None
    assert 0 < without.inputs_left <= 1


def test_a_compiled_model_of_two_outputs_keeps_its_means():
    inputs = keras.Input((16,))
    hidden = layers.Dense(12, "relu")(inputs)
    model = keras.Model(
        inputs, {"a": layers.Dense(3, name="a")(hidden), "b": layers.Dense(1, name="b")(hidden)}
    )
    model.compile("sgd", {"a": LOGITS, "b": "mse"})
    labels = {"a": Y, "b": X[:, :1]}
    model.fit(X, labels, verbose=0)
    before = [array(variable).copy() for variable in model.metrics_variables]
    winit.diagnose(model, X, labels)
    for one, other in zip(before, model.metrics_variables, strict=True):
        np.testing.assert_array_equal(one, array(other))


def test_an_embedding_of_zeros_learns():
    tokens = keras.Input((10,), dtype="int32")
    x = layers.Embedding(50, 12, embeddings_initializer="zeros", name="words")(tokens)
    model = keras.Model(tokens, layers.Dense(3)(layers.Dense(16, "tanh")(layers.Flatten()(x))))
    report = winit.diagnose(model, RNG.integers(0, 50, (128, 10)), Y, LOGITS)
    assert [finding.severity for finding in report.findings if finding.code == "zero"] == ["note"]


def test_layers_are_shown_as_they_are():
    """A zero kernel is let take a step, to see what comes then; the figures are of the model before it."""
    report = winit.diagnose(plain(head="zeros"), X, Y, LOGITS)
    assert report.layers[-1].std == 0


def test_a_first_layer_without_any_signal_is_told_before_a_normalization():
    """Its deviation of zero is nothing that a gradient can be weighed by."""
    model = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(16, "relu", kernel_initializer="zeros", bias_initializer="ones", trainable=False),
            layers.Dense(16, "relu", bias_initializer="random_normal"),
            layers.BatchNormalization(beta_initializer="random_normal"),
            layers.Dense(3),
        ]
    )
    assert {each.code for each in winit.diagnose(model, X).errors} >= {"input_collapse"}


@pytest.mark.skipif(BACKEND == "torch", reason="Keras normalizes nothing but the last axes there")
def test_epsilon_is_held_against_what_a_normalization_divides_by():
    inputs = keras.Input((6, 8))
    norm = layers.LayerNormalization(axis=1, epsilon=1e-3, name="norm")
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(norm(inputs))))
    level = RNG.normal(size=(128, 1, 8))  # differs between units, along the axis that is not normalized
    data = (level + 1e-2 * RNG.normal(size=(128, 6, 8))).astype("float32")
    (found,) = (each for each in winit.diagnose(model, data, Y, LOGITS).findings if each.code == "epsilon")
    assert found.path.endswith("norm")
    ratio = found.figures["ratio"]
    assert (1 + ratio) ** -0.5 == pytest.approx(float(np.std(array(norm(data)))), rel=0.1)
    assert f"has a deviation of {(1 + ratio) ** -0.5:.2g}, not 1." in found.message


@pytest.mark.parametrize(("depth", "is_error"), [(4, False), (6, True)])
def test_a_gradient_that_falls_is_an_error_in_five_layers_or_more(depth, is_error):
    """Keras' default before sigmoid takes three quarters of the gradient in each layer."""
    keras.utils.set_random_seed(1)
    hidden = [layers.Dense(24, "sigmoid") for _ in range(depth)]
    report = winit.diagnose(keras.Sequential([keras.Input((16,)), *hidden, layers.Dense(3)]), X, Y, LOGITS)
    assert ("vanishing_gradient" in {finding.code for finding in report.errors}) is is_error


def language_model(blocks, *, pre=False):
    """Tokens and places, blocks of attention and a hidden layer, and which token comes next."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12,), dtype="int32")
    x = layers.Embedding(60, 16)(inputs) + layers.Embedding(12, 16)(ops.arange(12))
    for _ in range(blocks):
        for part in ("attention", "hidden"):
            y = layers.LayerNormalization()(x) if pre else x
            if part == "attention":
                y = layers.MultiHeadAttention(2, 8)(y, y)
            else:
                y = layers.Dense(16)(layers.Dense(32, "gelu")(y))
            x = x + y if pre else layers.LayerNormalization()(x + y)
    return keras.Model(inputs, layers.Dense(60)(x))


TOKENS = np.random.default_rng(0).integers(0, 60, (128, 12))


def rank_collapses(model):
    return [each for each in winit.diagnose(model, TOKENS).findings if each.code == "rank_collapse"]


SMALLER = since(3, 15, "attention is drawn smaller by default, and keeps places apart behind each add")


@pytest.mark.parametrize("pre", [pytest.param(False, marks=SMALLER), True])
def test_attention_that_makes_all_places_alike_is_told_and_its_remedy_helps(pre):
    model = language_model(12, pre=pre)
    (found,) = rank_collapses(model)
    assert found.severity == "error"
    assert found.figures["worst"] < 0.35
    assert found.remedy == (
        "Let residual branches start small beside what they are added to: `calibrate(model, data)`."
    )
    winit.calibrate(model, TOKENS, seed=0)
    assert not rank_collapses(model)
    # Where what it names was done, it is another.
    report = winit.diagnose(model, TOKENS, thresholds={"rank_collapse": (1.1, 1.1)})
    (found,) = [each for each in report.findings if each.code == "rank_collapse"]
    assert "calibrate" not in found.remedy


def test_in_few_blocks_places_that_look_alike_are_no_finding():
    assert not rank_collapses(language_model(7))
    model = language_model(7)
    assert not [
        each
        for each in winit.diagnose(model, TOKENS, thresholds={"rank_collapse": 2.0}).findings
        if each.code == "rank_collapse"
    ]
