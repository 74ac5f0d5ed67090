"""Labels that a loss cannot compare with the outputs are one clear error, by whatever function."""

import keras
import numpy as np
import pytest
from helpers import BACKEND, array
from keras import layers

import keras_winit as winit
from keras_winit.support.losses import check_labels

X = np.random.default_rng(0).normal(size=(24, 6)).astype("float32")
CLASS = np.random.default_rng(1).integers(0, 3, 24)
NUMBERS = np.random.default_rng(2).normal(size=(24, 3)).astype("float32")
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
FUNCTIONS = {
    "calibrate": lambda model, labels: winit.calibrate(model, X, labels, seed=0, progress=False),
    "diagnose": lambda model, labels: winit.diagnose(model, X, labels),
    "compare": lambda model, labels: winit.compare(
        model, X, labels, ["keep", "torch"], steps=2, batch_size=24, seed=0, progress=False
    ),
}
BAD = [
    (CLASS + 2, SPARSE, r"classes from 0 to 2.*Received: \d+ others, from 3 to 4"),
    (CLASS - 3 * (CLASS < 2) * (CLASS + 1), SPARSE, "from -5 to -3.*`ignore_class`"),
    (np.eye(3, dtype="float32")[CLASS], SPARSE, 'Received: \\(3,\\).*use "categorical_crossentropy"'),
    (np.stack([CLASS, CLASS], 1), SPARSE, r"one class for each sample.*Received: \(2,\)\.$"),
    (np.where(CLASS == 0, np.nan, CLASS), SPARSE, "`labels` must be finite"),
    (NUMBERS[:, [0, 1, 2, 0]], "mse", r"loss mean_squared_error, \(3,\) for each.*Received: \(4,\)"),
    (NUMBERS[:, 0], "mse", r"Received: \(\) \(one number\)"),
    (NUMBERS, "mean_squared_erorr", 'Did you mean "mean_squared_error"'),
]


def model(loss):
    made = keras.Sequential([keras.Input((6,)), layers.Dense(5, "relu"), layers.Dense(3)])
    if loss != "mean_squared_erorr":
        made.compile(keras.optimizers.SGD(0.01), loss)
    return made


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("labels", "loss", "message"), BAD[:-1])
def test_bad_labels_are_refused_and_change_nothing(function, labels, loss, message):
    net = model(loss)
    before = [array(weight) for weight in net.weights]
    with pytest.raises(ValueError, match=message):
        FUNCTIONS[function](net, labels)
    for weight, value in zip(net.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value)


@pytest.mark.parametrize("function", [winit.calibrate, winit.diagnose])
def test_a_loss_with_a_typing_error_is_named(function):
    labels, loss, message = BAD[-1]
    with pytest.raises(ValueError, match=message):
        function(model(loss), X, labels, loss)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("labels", "loss"),
    [
        (CLASS, SPARSE),
        (CLASS[:, None], SPARSE),
        (CLASS.astype("float32"), SPARSE),
        (np.where(CLASS == 0, -7, CLASS), keras.losses.SparseCategoricalCrossentropy(True, ignore_class=-7)),
        *([(np.where(CLASS == 0, -1, CLASS), SPARSE)] if BACKEND == "jax" else []),  # left out there
        (NUMBERS, "mse"),
        (NUMBERS[:, :1], "mse"),  # one number for all outputs, as Keras has it
        (NUMBERS[:, 0] > 0, lambda y_true, y_pred: keras.ops.sum(y_pred**2, axis=-1)),  # not known to us
    ],
)
def test_good_labels_are_taken(function, labels, loss):
    FUNCTIONS[function](model(loss), labels)


def test_all_labels_are_looked_at_not_the_first_batch_alone():
    labels = CLASS.copy()
    labels[5] = 7
    for seed in range(4):
        with pytest.raises(ValueError, match="Received: 1 others, from 7 to 7"):
            winit.compare(model(SPARSE), X, labels, ["keep", "torch"], steps=1, batch_size=6, seed=seed)


def test_a_step_of_ones_own_may_do_what_it_likes_with_labels():
    class Own(keras.Model):
        def train_step(self, *arguments):
            return super().train_step(*arguments)

    inputs = keras.Input((6,))
    own = Own(inputs, layers.Dense(3)(inputs))
    own.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    winit.calibrate(own, X, CLASS, seed=0, progress=False)
    check_labels(own, None, CLASS, [NUMBERS])
    check_labels(own, None, CLASS, [None])  # an output that is no tensor


def test_what_is_not_known_is_left_to_the_call():
    class Own(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(y_pred)

    inputs = keras.Input((6,))
    own = Own(inputs, layers.Dense(3)(inputs))
    own.compile("sgd", SPARSE)
    check_labels(own, None, CLASS + 9, [NUMBERS])
    with pytest.raises(ValueError, match="classes from 0 to 2"):
        check_labels(own, SPARSE, CLASS + 9, [NUMBERS])
    check_labels(own, SPARSE, {"a": CLASS + 9}, [NUMBERS])
    check_labels(own, SPARSE, [CLASS + 9, CLASS], [NUMBERS])


def test_data_that_is_not_finite_has_no_winner():
    net = model(SPARSE)
    with pytest.raises(ValueError, match="`data` must be finite. Received: 144 values"):
        winit.compare(net, np.full_like(X, np.nan), CLASS, ["keep", "torch"], steps=2, seed=0)
    batches = [(X, CLASS), (X * np.inf, CLASS)]
    with pytest.raises(ValueError, match="`data` must be finite"):
        winit.compare(net, iter(batches), None, ["keep", "torch"], steps=2, seed=0)


def test_a_loss_without_labels_is_said():
    with pytest.raises(ValueError, match="Pass `labels`"):
        winit.compare(model(SPARSE), X, None, ["keep", "torch"], steps=2, seed=0)
