"""Models with weights, sizes, shapes and names that nobody expects: it is done, or an error and no change."""

import keras
import numpy as np
import pytest
from helpers import array
from hostile import EFFORT, answer, hunting, state
from hypothesis import given
from hypothesis import strategies as st

import keras_winit as winit

layers = keras.layers


class Odd(layers.Layer):
    """Has a weight without any elements, and one that is a single number."""

    def build(self, shape):
        self.nothing = self.add_weight(name="nothing", shape=(0,))
        self.kernel = self.add_weight(name="kernel", shape=(0, 3))
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

    def call(self, x):
        return x * self.scale


def with_weights(value):
    def build():
        model = keras.Sequential([keras.Input((6,)), layers.Dense(4, "relu"), layers.BatchNormalization()])
        model.add(layers.Dense(2))
        model.compile("sgd", keras.losses.MeanSquaredError())
        model.optimizer.build(model.trainable_variables)
        model.set_weights([np.full_like(weight, value) for weight in model.get_weights()])
        return model

    return build


def one_bad_number():
    model = with_weights(0.1)()
    weights = model.get_weights()
    weights[0][0, 0] = np.nan
    model.set_weights(weights)
    return model


def stack(*inner, shape):
    def build():
        return keras.Sequential([keras.Input(shape), *(layer() for layer in inner)])

    return build


BUILDERS = {
    "weights of NaN": with_weights(np.nan),
    "weights of infinity": with_weights(np.inf),
    "weights of zero": with_weights(0.0),
    "huge weights": with_weights(1e38),
    "one weight of NaN": one_bad_number,
    "no features": stack(lambda: layers.Dense(3), shape=(0,)),
    "no steps": stack(lambda: layers.LSTM(3), shape=(0, 4)),
    "no channels": stack(lambda: layers.Conv2D(3, 2), shape=(6, 6, 0)),
    "an empty weight": stack(Odd, lambda: layers.Dense(3), shape=(4,)),
    "no weights": stack(lambda: layers.ReLU(), shape=(4,)),
    "any size of image": stack(
        lambda: layers.Conv2D(3, 2, activation="relu"), layers.GlobalMaxPooling2D, shape=(None, None, 3)
    ),
    "any number of steps": stack(lambda: layers.GRU(3), lambda: layers.Dense(2), shape=(None, 4)),
    "a size too small for it": stack(lambda: layers.Conv1D(3, 9), layers.Flatten, shape=(9, 2)),
    "any rank": lambda: keras.Sequential([layers.Dense(3, "relu"), layers.Dense(2)]),
}
WORK = {
    "initialize": lambda model: winit.initialize(model, seed=0),
    "configured": lambda model: winit.initialize(model, "configured", seed=0),
    "torch": lambda model: winit.initialize(model, "torch", seed=0),
    "calibrate": lambda model: winit.calibrate(model, seed=0),
    "calibrate keep": lambda model: winit.calibrate(model, scheme="keep", seed=0),
    "diagnose": winit.diagnose,
    "portable": winit.portable,
}
READS = ("diagnose", "portable")


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("kind", BUILDERS)
def test_models_that_nobody_expects(kind, work):
    keras.utils.set_random_seed(0)
    model = BUILDERS[kind]()
    before = state(model)
    result = answer(WORK[work], model)
    if result is None or work in READS:
        assert state(model) == before
    if result is not None:
        assert str(result)
    if result is not None and work in ("initialize", "torch"):
        assert all(np.isfinite(array(variable)).all() for variable in model.variables)


@pytest.mark.parametrize("kind", [kind for kind in BUILDERS if "NaN" in kind or "infinity" in kind])
def test_what_is_not_finite_is_found_left_alone_and_repaired(kind):
    model = BUILDERS[kind]()
    assert "non_finite" in [finding.code for finding in winit.diagnose(model).findings]
    calibration = winit.calibrate(model, scheme="keep", seed=0)
    assert any(row.reason for row in calibration.rows)
    winit.initialize(model, seed=0)
    assert "non_finite" not in [finding.code for finding in winit.diagnose(model).findings]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_data_that_is_not_finite_is_refused(bad):
    model = with_weights(0.1)()
    before = state(model)
    data = np.ones((4, 6), "float32")
    data[1, 2] = bad
    for work in (winit.calibrate, winit.diagnose):
        with pytest.raises(ValueError, match="`data` must be finite"):
            work(model, data)
    assert state(model) == before


def test_data_without_samples_is_refused():
    model = with_weights(0.1)()
    for data in (np.ones((0, 6)), [], {}, iter(()), np.ones((4, 0)), np.array("text"), np.array([["a"] * 6])):
        for work in (winit.calibrate, winit.diagnose):
            assert answer(work, model, data) is None


_WRITTEN = [
    "Ωμέγα",
    "权重",
    "ウェイト",
    "וזן",
    "وزن",
    "🙂",
    "[bold]x[red]",
    ":smile:",
    "a b",
    "(.*",
    "x" * 300,
    "ñ́",
]


@EFFORT
def test_names_in_any_script(effort):
    text = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=8)

    @hunting(25, effort)
    @given(
        names=st.lists(st.one_of(st.sampled_from(_WRITTEN), text), min_size=3, max_size=3, unique=True),
        work=st.sampled_from(sorted({*WORK} - {"portable"})),
    )
    def attempt(names, work):
        try:
            inner = [layers.Dense(3, "relu", name=names[0]), layers.Dense(2, name=names[1])]
            model = keras.Sequential([keras.Input((4,)), *inner], name=names[2])
        except (ValueError, TypeError, KeyError):  # Keras or its backend takes no such name
            return
        before = state(model)
        result = WORK[work](model)
        assert str(result)
        assert "\x1b" not in str(result)
        assert result._repr_html_()
        if work in READS:
            assert state(model) == before

    attempt()


@pytest.mark.parametrize("name", _WRITTEN)
def test_a_name_in_any_script_is_found_by_an_expression(name, tmp_path):
    import re

    if "." in name and keras.backend.backend() == "torch":
        pytest.skip("PyTorch takes no parameter whose name has a dot in it")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name=name), layers.Dense(2, name="other")])
    plan = winit.initialize(model, {re.escape(name): "orthogonal"}, seed=0)
    assert [row.scheme for row in plan.rows] == ["orthogonal", "zeros", None, None]
    if len(name) < 100:
        copy = winit.portable(model)
        assert [layer.name for layer in copy.layers] == [name, "other"]
