"""Where a model's answers start: the first loss is near that of the best constant."""

import math

import keras
import numpy as np
import pytest
from helpers import array
from keras import layers, ops

import keras_winit as winit
from keras_winit.models.anatomy.following import YES_STD
from keras_winit.models.diagnosing.loss import loss_of_guessing

RNG = np.random.default_rng(0)
COUNT = 200


def stack(*hidden, shape=(64,), head, loss):
    model = keras.Sequential([keras.Input(shape), *hidden, *head])
    model.compile("adam", loss)
    return model


def dense(depth, activation="relu", width=64):
    return [layers.Dense(width, activation) for _ in range(depth)]


def convolutions():
    return [layers.Conv2D(12, 3, padding="same", activation="relu") for _ in range(3)]


X = RNG.normal(size=(COUNT, 64)).astype("float32")
POSITIVE = RNG.random((COUNT, 64)).astype("float32")
CLASS = RNG.choice(7, COUNT, p=[0.3, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02])
YES = (RNG.random((COUNT, 1)) < 0.1).astype("float32")
NUMBER = RNG.normal(size=(COUNT, 3)).astype("float32")
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
EVEN = (RNG.random((COUNT, 1)) < 0.5).astype("float32")


def shuffled(x):
    """Twice as many pixels a side, by convolutions whose channels are put between one another."""
    x = ops.reshape(x, (-1, 8, 8, 2, 2, 3))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 16, 16, 3))


def super_resolution():
    inputs = x = keras.Input((8, 8, 3))
    for layer in convolutions():
        x = layer(x)
    model = keras.Model(inputs, shuffled(layers.Conv2D(12, 3, padding="same")(x)))
    model.compile("adam", "mse")
    return model


SPARSE, PIXEL = "sparse_categorical_crossentropy", RNG.random((COUNT, 8, 8, 3)).astype("float32")


def learns(hidden, head, loss, x, y=None):
    """A model with its data, its own inputs where there are no labels."""
    head = head if isinstance(head, list) else [head]
    return stack(*hidden, shape=x.shape[1:], head=head, loss=loss), x, x if y is None else y


def convolution(**options):
    return layers.Conv2D(3, 3, padding="same", **options)


def sigmoid():
    return layers.Dense(1, activation="sigmoid")


CASES = {
    "classes": lambda: learns(dense(2), layers.Dense(7, activation="softmax"), SPARSE, X, CLASS),
    "classes as logits": lambda: learns(dense(2), layers.Dense(7), LOGITS, X, CLASS),
    "classes apart": lambda: learns(
        dense(2), [layers.Dense(7), layers.Softmax()], "categorical_crossentropy", X, np.eye(7)[CLASS]
    ),
    "one sigmoid": lambda: learns(dense(1), sigmoid(), "binary_crossentropy", X, YES),
    "one sigmoid behind ten": lambda: learns(dense(10), sigmoid(), "binary_crossentropy", POSITIVE, EVEN),
    "numbers": lambda: learns(dense(2), layers.Dense(3), "mse", X, NUMBER),
    "numbers, not standardized": lambda: learns(
        dense(2), layers.Dense(3), "mse", X, 5 * NUMBER + [100, -20, 3]
    ),
    "small numbers": lambda: learns(dense(2), layers.Dense(1), "mae", X, 0.01 * NUMBER[:, :1] + 2),
    "images": lambda: learns(convolutions(), convolution(activation="sigmoid"), "mse", PIXEL),
    "images of 0 to 255": lambda: learns(convolutions(), convolution(), "mse", 255 * PIXEL),
    "an autoencoder": lambda: learns(dense(3, "tanh", 20), layers.Dense(64), "mse", X),
    "flat images": lambda: learns(
        [layers.Flatten(), *dense(2)], [layers.Dense(192), layers.Reshape((8, 8, 3))], "mse", PIXEL
    ),
    "super-resolution": lambda: (super_resolution(), PIXEL, RNG.random((COUNT, 16, 16, 3))),
}


def case(name):
    model, x, y = CASES[name]()
    y = y.astype("float32" if y.dtype.kind == "f" else "int32")
    guess = loss_of_guessing(model, model.loss, y)
    return model, x, y, guess


def first_loss(model, x, y):
    return float(model.evaluate(x, y, batch_size=len(x), verbose=0))


@pytest.mark.parametrize("name", CASES)
def test_with_labels_the_first_loss_is_near_that_of_the_best_constant(name):
    model, x, y, guess = case(name)
    winit.calibrate(model, x, y, seed=0, progress=False)
    assert first_loss(model, x, y) <= 1.2 * guess


CENTRED = ("numbers", "an autoencoder", "one sigmoid behind ten", "classes as logits")


@pytest.mark.parametrize("method", ["initialize", "calibrate"])
@pytest.mark.parametrize("name", CENTRED)
def test_without_labels_it_is_near_that_of_knowing_nothing(name, method):
    model, x, y, guess = case(name)
    if method == "initialize" and name.endswith("ten"):
        pytest.skip("ten narrow layers make more or less of what they are given, which only data tells")
    found = []
    for seed in range(5):
        if method == "initialize":
            winit.initialize(model, seed=seed)
        else:
            winit.calibrate(model, x, seed=seed, progress=False)
        found.append(first_loss(model, x, y))
    nothing = np.log(7) if name.startswith("classes") else guess
    assert np.median(found) <= 1.2 * nothing
    if method == "calibrate":
        assert max(found) <= 1.2 * nothing


@pytest.mark.parametrize("depth", [0, 10])
def test_a_bias_that_was_given_stays_and_the_kernel_is_small(depth):
    """As large as the first loss lets it be, if it reads the data; elsewhere no larger than Glorot's."""
    prior = keras.initializers.Constant(-3.0)
    model = stack(
        *dense(depth), head=[layers.Dense(1, "sigmoid", bias_initializer=prior)], loss="binary_crossentropy"
    )
    x = POSITIVE * 255
    winit.calibrate(model, x, YES, seed=0, progress=False)
    logits = np.log(array(model(x)) / (1 - array(model(x))))
    size = np.sqrt(np.mean(np.square(logits + 3)))
    kernel = np.sqrt(np.mean(np.square(array(model.layers[-1].kernel))))
    if depth == 0:
        assert size == pytest.approx(YES_STD, rel=0.02)
    else:
        assert size < YES_STD
        assert kernel == pytest.approx(np.sqrt(2 / 65), rel=1e-4)
    assert array(model.layers[-1].bias)[0] == -3


def test_a_data_set_brings_its_labels():
    model, x, y, guess = case("numbers, not standardized")

    class Data(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, _index):
            return x, y

    winit.calibrate(model, Data(), seed=0, progress=False)
    assert first_loss(model, x, y) <= 1.2 * guess


def test_each_output_has_its_own_labels_and_loss():
    inputs = keras.Input((64,))
    x = layers.Dense(30, "relu")(inputs)
    heads = [layers.Dense(2, name="a")(x), layers.Dense(7, "softmax", name="b")(x)]
    model = keras.Model(inputs, heads)
    labels = [NUMBER[:, :2] + 40, CLASS]
    winit.calibrate(model, X, labels, ["mse", "sparse_categorical_crossentropy"], seed=0)
    numbers, shares = (array(each) for each in model(X))
    np.testing.assert_allclose(numbers.mean(axis=0), labels[0].mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(shares.mean(axis=0), np.bincount(CLASS) / COUNT, atol=0.03)


def test_features_are_no_answers():
    model = keras.Sequential([keras.Input((64,)), *dense(3)])
    rows = winit.calibrate(model, X, seed=0, target_std=0.5).rows
    assert [row.after for row in rows] == [0.5] * 3
    plan = winit.initialize(keras.Sequential([keras.Input((64,)), *dense(2)]), seed=0)
    assert "answer" not in plan.rows[2].reason


def test_labels_need_a_loss():
    model = keras.Sequential([keras.Input((64,)), layers.Dense(3)])
    before = array(model.weights[0])
    with pytest.raises(ValueError, match="not compiled with one"):
        winit.calibrate(model, X, NUMBER)
    np.testing.assert_array_equal(array(model.weights[0]), before)


@pytest.mark.parametrize(
    ("labels", "loss", "message"),
    [
        ([NUMBER, NUMBER], "mse", "1 outputs and there are 2 arrays of labels"),
        (np.full_like(NUMBER, np.nan), "mse", "must be finite. Received: 600 values"),
        (NUMBER, "mean_squard_error", "`loss` must be the name"),
        (NUMBER, 3, "`loss` must be the name"),
        (NUMBER[:7], "mse", "same number of samples"),
        (None, "mse", "A `loss` needs `labels`"),
    ],
    ids=["too many", "nan", "unknown loss", "no loss", "too few", "a loss alone"],
)
def test_bad_labels_change_nothing(labels, loss, message):
    model = keras.Sequential([keras.Input((64,)), layers.Dense(5, "relu"), layers.Dense(3)])
    before = [array(weight) for weight in model.weights]
    with pytest.raises((TypeError, ValueError), match=message):
        winit.calibrate(model, X, labels, loss, seed=0)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value)


def test_labels_to_ignore_do_not_count():
    model = keras.Sequential([keras.Input((64,)), layers.Dense(4, activation="softmax")])
    labels = np.where(CLASS > 3, -1, CLASS).astype("int32")
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    winit.calibrate(model, X, labels, loss, seed=0)
    counts = np.bincount(labels[labels >= 0], minlength=4)
    features = X @ array(model.layers[-1].kernel)
    shares = np.exp(array(model.layers[-1].bias) + features.mean(axis=0))
    np.testing.assert_allclose(shares / shares.sum(), (counts + 1) / (counts.sum() + 4), rtol=1e-4)


def test_a_transposed_convolution_puts_out_its_last_axis_but_one():
    stack_of = [keras.Input((6, 6, 5)), layers.Conv2DTranspose(3, 2, strides=2, activation="softmax")]
    model = keras.Sequential(stack_of)
    classes = RNG.choice(3, (40, 12, 12), p=[0.6, 0.3, 0.1]).astype("int32")
    x = RNG.normal(size=(40, 6, 6, 5)).astype("float32")
    winit.calibrate(model, x, classes, SPARSE, seed=0)
    logits = np.log(array(model(x)))
    found = np.exp((logits - logits.mean(axis=-1, keepdims=True)).mean(axis=(0, 1, 2)))
    shares = np.bincount(classes.ravel()) / classes.size
    np.testing.assert_allclose(found / found.sum(), shares, rtol=1e-2)


def test_losses_by_name_are_those_of_their_outputs():
    inputs = keras.Input((64,))
    heads = [layers.Dense(2, name="z")(inputs), layers.Dense(1, "sigmoid", name="a")(inputs)]
    model = keras.Model(inputs, heads)
    model.compile("adam", {"a": "binary_crossentropy", "z": "mse"})
    winit.calibrate(model, X, [NUMBER[:, :2] + 40, YES], seed=0)
    numbers, share = (array(each) for each in model(X))
    np.testing.assert_allclose(numbers.mean(axis=0), (NUMBER[:, :2] + 40).mean(axis=0), rtol=1e-4)
    assert share.mean() == pytest.approx(YES.mean(), abs=0.05)


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("places", [1, 4, 16])
def test_an_answer_that_reads_a_mean_makes_up_for_it(places, depth):
    """Of independent places: their mean is √n times smaller, and the kernel larger, up to Glorot's."""
    hidden = [layers.Conv1D(64, 1) for _ in range(depth)]
    head = [layers.GlobalAveragePooling1D(), layers.Dense(10)]
    model = stack(*hidden, shape=(places, 64), head=head, loss=LOGITS)
    winit.initialize(model, seed=0)
    kernel = array(model.layers[-1].kernel)
    alone = stack(*dense(depth, None), shape=(64,), head=head[1:], loss=LOGITS)
    winit.initialize(alone, seed=0)
    size = min(array(alone.layers[-1].kernel).std() * math.sqrt(places), math.sqrt(2 / (64 + 10)))
    assert kernel.std() == pytest.approx(size, rel=4 / math.sqrt(2 * kernel.size))


@pytest.mark.parametrize("normalized", [False, True])
def test_a_mean_that_is_normalized_is_as_large_as_any_signal(normalized):
    between = [layers.LayerNormalization()] if normalized else []
    head = [layers.GlobalAveragePooling2D(), *between, layers.Dense(2, "sigmoid")]
    model = stack(shape=(8, 8, 64), head=head, loss="binary_crossentropy")
    winit.initialize(model, seed=0)
    kernel = array(model.layers[-1].kernel)
    size = YES_STD / 8 if normalized else math.sqrt(2 / 66)
    assert kernel.std() == pytest.approx(size, rel=4 / math.sqrt(2 * kernel.size))
