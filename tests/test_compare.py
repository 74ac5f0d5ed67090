"""`compare`: what it finds is what training gives, and the model is as it was."""

import contextlib
import json
import math
import random

import keras
import numpy as np
import pytest
from helpers import BACKEND, array
from hostile import state
from keras import layers

import keras_winit as winit
from keras_winit.models.comparing.comparison import Comparison, Trial, last_of
from keras_winit.models.comparing.putting_back import variables_of
from keras_winit.models.comparing.training import batches_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 4, 6)).astype("float32")
Y = np.concatenate([np.sin(X.sum((1, 2)))[:, None], X[:, 0, :1] ** 2], 1)
SHORT = {"steps": 3, "batch_size": 8, "seed": 0, "progress": False}


def body(x):
    x = layers.Dropout(0.3, seed=1, name="drop")(layers.Flatten(name="flat")(x))
    x = layers.Dense(
        7, "relu", kernel_initializer="winit>he_normal", activity_regularizer="l2", name="hidden"
    )(x)
    return layers.Dense(2, name="out")(layers.BatchNormalization(name="norm")(x))


def functional(optimizer=None, batch=None):
    inputs = keras.Input(batch_shape=(batch, 4, 6), name="in")
    model = keras.Model(inputs, body(inputs), name="model")
    model.compile(
        optimizer or keras.optimizers.Adam(0.01, name="adam"),
        keras.losses.MeanSquaredError(),
        metrics=["mae"],
    )
    return model


def trained():
    """One that has learned something, with a compiled step, slots and metrics that are not at their start."""
    model = functional()
    model.fit(X[:16], Y[:16], batch_size=8, verbose=0, shuffle=False)
    return model


def scaled():
    """Small numbers are kept from vanishing by a scale that is a state of the optimizer."""
    inner = keras.optimizers.SGD(0.01, momentum=0.9, name="sgd")
    return functional(keras.optimizers.LossScaleOptimizer(inner, name="scale"))


def stateful():
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(8, 4, 6)),
            layers.LSTM(3, stateful=True, name="lstm"),
            layers.Dense(2, name="out"),
        ],
        name="stateful",
    )
    model.compile(keras.optimizers.SGD(0.1, name="sgd"), keras.losses.MeanSquaredError())
    model(X[:8])
    return model


class Subclassed(keras.Model):
    """A model whose training step is its own, and whose loss has another name."""

    def __init__(self):
        super().__init__(name="subclassed")
        self.flat, self.hidden, self.out = layers.Flatten(), layers.Dense(5, "tanh"), layers.Dense(2)
        self.traced = 0

    def call(self, inputs):
        return self.out(self.hidden(self.flat(inputs)))

    def get_config(self):
        return {}

    def train_step(self, *arguments):
        self.traced += 1
        found = super().train_step(*arguments)
        logs, rest = (found[0], found[1:]) if BACKEND == "jax" else (found, None)
        logs = {"mine": logs["loss"]}
        return logs if rest is None else (logs, *rest)


def subclassed():
    model = Subclassed()
    model(X[:2])
    model.compile(keras.optimizers.Adam(0.01, name="adam"), "mse")
    return model


MODELS = {
    "functional": (functional, {}),
    "trained": (trained, {}),
    "scaled": (scaled, {}),
    "stateful": (stateful, {}),
    "subclassed": (subclassed, {"monitor": "mine"}),
}
if BACKEND == "torch":  # Keras cannot train it there: it assigns to states that the gradient needs
    del MODELS["stateful"]
every_model = pytest.mark.parametrize("kind", MODELS)


def made(kind):
    keras.utils.set_random_seed(7)
    return MODELS[kind][0]()


def everything(model):
    """All of a model that is to be as before."""
    values = {v.path: array(v).tobytes() for v in (*variables_of(model), *model.optimizer.variables)}
    late = model._compile_loss, model._compile_metrics
    built = [model.optimizer.built, *(each is not None and each.built for each in late)]
    return state(model), values, built, model.train_function, len(model.metrics)


def world():
    """The global random states; the one of Keras is made where there is none."""
    generator = keras.src.random.seed_generator.global_seed_generator().state
    return array(generator).tolist(), random.getstate(), np.random.get_state()[1].tolist()


@every_model
def test_the_model_is_as_it_was_and_trains_as_if_nothing_had_been(kind):
    model, twin = made(kind), made(kind)
    before, around = everything(model), world()
    some = {} if kind == "functional" else {"schemes": ("torch", "calibrate")}
    found = winit.compare(model, X, Y, **SHORT, **MODELS[kind][1], **some)
    assert world() == around
    assert everything(model) == before
    assert {len(trial.losses) for trial in found.trials} == {3}
    assert len({trial.losses for trial in found.trials}) > 1
    for each in (model, twin):
        each.fit(X[:16], Y[:16], batch_size=8, verbose=0, shuffle=False)
    assert len(model.optimizer.variables) == len(twin.optimizer.variables)
    for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def by_hand(model, batches, monitor="loss"):
    losses = []
    for x, y, _ in batches:
        model.reset_metrics()  # else an older Keras goes on with the mean
        losses.append(float(model.train_on_batch(x, y, return_dict=True)[monitor]))
    return losses


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "trained"])
def test_the_curves_are_those_of_training(kind):
    monitor = MODELS[kind][1].get("monitor", "loss")
    start = "calibrate" if kind in ("functional", "stateful") else "torch"
    found = winit.compare(
        made(kind), X, Y, ("keep", start), **SHORT, monitor=monitor, learning_rates=(0.01, 0.2)
    )
    assert [trial.learning_rate for trial in found.trials] == [0.01, 0.2] * 2
    assert found.trials[0].losses[0] == pytest.approx(found.trials[1].losses[0], rel=1e-5)
    model = made(kind)
    if start == "calibrate":
        winit.calibrate(model, X, Y, seed=0)
    else:
        winit.initialize(model, "torch", seed=0)
    fresh = type(model.optimizer).from_config(model.optimizer.get_config())
    fresh.learning_rate = 0.2
    model.compile(fresh, model.loss)
    batches = batches_of(model, X, Y, steps=3, batch_size=8, seed=0)
    np.testing.assert_allclose(found.trials[3].losses, by_hand(model, batches, monitor), rtol=2e-4)


def plain():
    model = keras.Sequential([keras.Input((4, 6)), layers.Flatten(), layers.Dense(3), layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


def test_the_same_seed_gives_the_same_table_and_each_start_the_same_batches():
    first, again = (winit.compare(made("functional"), X, Y, ("auto", "torch"), **SHORT) for _ in range(2))
    assert str(first) == str(again)
    assert first.trials == again.trials
    model, any_seed = plain(), {**SHORT, "seed": None}
    twice = winit.compare(model, X, Y, {"one": "auto", "two": "auto"}, **any_seed)
    assert twice.trials[0].losses == twice.trials[1].losses
    assert twice.winner.start == "one"
    assert winit.compare(model, X, Y, {"one": "auto"}, **{**SHORT, "seed": twice.seed}).winner == twice.winner
    assert winit.compare(model, X, Y, {"one": "auto"}, **any_seed).winner != twice.winner


def test_what_the_model_draws_from_global_generators_is_the_same_for_each_start():
    seen = []

    class Noisy(layers.Layer):
        def call(self, inputs):
            seen.append(np.random.normal() + random.random())  # when it is traced, or called
            return inputs * (1.0 + seen[-1])

    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((4, 6)), layers.Flatten(), Noisy(), layers.Dense(2)])
    model.compile("sgd", "mse", run_eagerly=BACKEND != "jax")
    before = world()
    found = winit.compare(model, X, Y, {"one": "auto", "two": "auto"}, **SHORT)
    assert found.trials[0].losses == found.trials[1].losses
    assert world() == before
    if BACKEND != "jax":
        before_training = len(seen)
        winit.compare(model, X, Y, ("auto", "calibrate"), **SHORT)  # which calls it once more
        auto, calibrated = (
            "".join(f"{each} " for each in part) for part in (seen[before_training:-3], seen[-3:])
        )
        assert calibrated in auto


def test_a_metric_of_the_users_own_is_as_new():
    metric = keras.metrics.MeanAbsoluteError()
    model = plain()
    model.compile("sgd", "mse", metrics=[metric])
    winit.compare(model, X, Y, ("auto",), **SHORT)
    assert not any(array(variable).any() for variable in metric.variables)


@pytest.mark.skipif(BACKEND == "torch", reason="nothing is compiled there")
def test_the_step_is_compiled_once_for_all_starts():
    one, four = made("subclassed"), made("subclassed")  # JAX may know the step of a model it has met
    winit.compare(one, X, Y, ("auto",), **SHORT, monitor="mine")
    winit.compare(four, X, Y, ("configured", "auto", "torch", "zeros"), **SHORT, monitor="mine")
    assert four.traced == one.traced >= 1


@pytest.mark.parametrize("rates", [None, (0.03, 0.1)])
def test_apply_draws_the_model_with_the_winner(rates):
    model, twin = made("trained"), made("trained")
    around = world()
    found = winit.compare(model, X, Y, ("zeros", "torch"), **SHORT, learning_rates=rates, apply=True)
    assert world() == around
    start, rate = found.winner.start, found.winner.learning_rate
    assert f"drawn with {start}" in str(found)
    winit.initialize(twin, start, seed=0)
    assert array(model.optimizer.iterations) == 0
    assert float(array(model.optimizer.learning_rate)) == pytest.approx(0.01 if rates is None else rate)
    if rates is not None:
        assert f"learning rate set to {rate:g}" in str(found)
        twin.optimizer.learning_rate = rate
    assert state(model) == state(twin)


def test_apply_calibrates_as_calibrate_does():
    model, twin = plain(), plain()
    winit.compare(model, X, Y, ("calibrate",), **SHORT, apply=True)
    winit.calibrate(twin, X, Y, seed=0)
    for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_a_start_that_diverges_loses_and_is_reported():
    model = made("trained")
    before = everything(model)
    found = winit.compare(model, X, Y, ("auto",), learning_rates=(1e30, 0.01), **SHORT)
    lost, won = found.trials
    assert (lost.diverged, len(lost.losses), lost.last) == (2, 1, None)
    assert found.winner is won
    assert "diverged: not finite at step 2" in str(found)
    alone = winit.compare(model, X, Y, ("auto",), learning_rates=(1e30,), **SHORT, apply=True)
    assert alone.winner is None
    assert "no start came to the end" in str(alone)
    assert "the model is as it was" in str(alone)
    assert everything(model) == before
    assert json.loads(json.dumps(alone.to_dict()))["winner"] is None


def test_what_cannot_be_drawn_has_a_row_that_says_why():
    model = made("functional")
    found = winit.compare(model, X, Y, ("dirac", "auto"), **SHORT)
    assert "dirac cannot draw" in found.trials[0].reason
    assert found.winner.start == "auto"
    assert "dirac cannot draw" in " ".join(str(found).split())
    with pytest.raises(ValueError, match="cannot be drawn from any of the starts. dirac: dirac cannot"):
        winit.compare(model, X, Y, ("dirac",), **SHORT)


def test_a_bar_comes_to_its_end_whatever_becomes_of_starts(monkeypatch):
    counted = []

    @contextlib.contextmanager
    def bar(_, total, *, show):
        counted.append(total)
        yield lambda: counted.append(-1)

    monkeypatch.setattr(winit.models.comparing.compare, "progress_bar", bar)
    winit.compare(made("trained"), X, Y, ("dirac", "auto"), learning_rates=(1e30, 0.01), **SHORT)
    assert counted[0] == 4 * SHORT["steps"]
    assert sum(counted) == 0


def compared(*rows, monitor="loss"):
    trials = [Trial(start, rate, (9.0, *[last] * 5), None, "", 6) for start, rate, last in rows]
    return Comparison(tuple(trials), 6, "32 samples", monitor, 0, "the model is as it was")


@pytest.mark.parametrize(
    ("rows", "winner"),
    [
        ([("a", 1, 2.0), ("b", 1, 1.0), ("c", 1, 1.5)], 1),
        ([("a", 1, 1.09), ("b", 1, 1.0), ("c", 1, 1.05)], 0),
        ([("a", 1, 1.11), ("b", 1, 1.0), ("c", 1, 1.05)], 1),
        ([("a", 1, 5.0), ("a", 2, 1.05), ("b", 1, 1.0), ("b", 2, 1.02)], 1),
        ([("a", 1, 1.05), ("a", 2, 1.02), ("b", 1, 1.0)], 1),
        ([("a", 1, -9.5), ("b", 1, -10.0)], 0),
        ([("a", 1, -8.5), ("b", 1, -10.0)], 1),
        ([("a", 1, 0.0), ("b", 1, 0.0)], 0),
    ],
)
def test_of_starts_within_a_tenth_of_the_best_the_first_wins(rows, winner):
    found = compared(*rows)
    assert found.winner is found.trials[winner]
    assert found.ranking[0].last == min(row[2] for row in rows)
    marked = [line for line in str(found).splitlines() if "the winner" in line]
    assert len(marked) == 1
    assert marked[0].split()[0] == rows[winner][0]
    assert ("named first" in marked[0]) == (found.winner is not found.ranking[0])


def test_the_last_loss_is_the_mean_of_the_last_tenth_and_of_five_at_least():
    assert [last_of(steps) for steps in (1, 4, 5, 49, 50, 51, 100, 101)] == [1, 4, 5, 5, 5, 6, 10, 11]
    found = winit.compare(made("functional"), X, Y, ("auto",), **{**SHORT, "steps": 7})
    assert found.winner.last == pytest.approx(np.mean(found.winner.losses[-5:]))
    assert found.winner.first == found.winner.losses[0]


class Batched(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return X[8 * index : 8 * index + 8], Y[8 * index : 8 * index + 8]


def endless():
    while True:
        for index in range(2):
            yield Batched()[index]


def test_data_sets_bring_their_batches():
    pairs = [Batched()[index] for index in range(2)]
    given = {"PyDataset": Batched(), "an endless one": endless(), "an iterator": iter(pairs)}
    if BACKEND == "tensorflow":
        import tensorflow as tf

        given["tf.data"] = tf.data.Dataset.from_tensor_slices((X[:16], Y[:16])).batch(8)
    if BACKEND == "torch":
        import torch

        tensors = torch.utils.data.TensorDataset(torch.tensor(X[:16]), torch.tensor(Y[:16]))
        given["DataLoader"] = torch.utils.data.DataLoader(tensors, batch_size=8)
    model = plain()
    options = {**SHORT, "batch_size": None}
    curves = {
        name: [
            trial.losses
            for trial in winit.compare(model, data, None, ("auto", "calibrate"), **options).trials
        ]
        for name, data in given.items()
    }
    winit.initialize(model, seed=0)
    expected = by_hand(model, [(*pairs[0], None), (*pairs[1], None), (*pairs[0], None)])
    for name, (auto, calibrated) in curves.items():
        np.testing.assert_allclose(auto, expected, rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(calibrated, curves["PyDataset"][1], rtol=1e-4, err_msg=name)
    weighted = iter([(x, y, np.zeros(8, "float32")) for x, y in pairs])
    assert winit.compare(model, weighted, None, ("auto",), **options).winner.losses == (0.0, 0.0, 0.0)


def test_every_sample_comes_once_before_any_comes_again():
    model = made("functional")
    batches = batches_of(model, {"a": np.arange(10), "b": None}, np.arange(10), steps=6, batch_size=3, seed=0)
    seen = [array(x["a"]).tolist() for x, _, _ in batches]
    assert [array(y).tolist() for _, y, _ in batches] == seen
    assert len(set(np.ravel(seen[:3]))) == len(set(np.ravel(seen[3:]))) == 9
    assert seen[:3] != seen[3:]


def test_a_model_with_a_fixed_batch_and_one_without_labels():
    found = winit.compare(functional(batch=6), X, Y, ("auto",), steps=2, seed=0)
    assert "of 6 samples" in str(found)
    model = keras.Sequential([keras.Input((4, 6)), layers.Dense(2, activity_regularizer="l2")])
    model.compile("sgd")
    assert winit.compare(model, X, None, ("auto", "calibrate"), **SHORT).winner.last > 0


@pytest.mark.skipif(BACKEND == "jax", reason="two optimizers need a state of their own there")
def test_a_model_with_optimizers_of_its_own():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.flat = layers.Flatten()
            self.one, self.two = layers.Dense(3, "tanh", name="one"), layers.Dense(2, name="two")

        def call(self, inputs):
            return self.two(self.one(self.flat(inputs)))

        def compile(self, first, second):
            super().compile()
            self.first, self.second = first, second

        def train_step(self, data):
            x, y = data[:2]
            weights = [*self.one.trainable_variables, *self.two.trainable_variables]
            if BACKEND == "torch":
                self.zero_grad()
                loss = keras.ops.mean((self(x) - y) ** 2)
                loss.backward()
                gradients = [weight.value.grad for weight in weights]
                loss = loss.detach()
            else:
                import tensorflow as tf

                with tf.GradientTape() as tape:
                    loss = keras.ops.mean((self(x) - y) ** 2)
                gradients = tape.gradient(loss, [weight.value for weight in weights])
            import contextlib

            with __import__("torch").no_grad() if BACKEND == "torch" else contextlib.nullcontext():
                self.first.apply(gradients[:2], weights[:2])
                self.second.apply(gradients[2:], weights[2:])
            return {"first_loss": loss, "second_loss": loss * 2}

    model = Two()
    model(X[:2])
    model.compile(keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.1, momentum=0.9))
    given = {**SHORT, "monitor": "first_loss"}
    found = winit.compare(model, X, Y, {"one": "auto", "two": "auto", "three": "torch"}, **given)
    np.testing.assert_allclose(found.trials[0].losses, found.trials[1].losses, rtol=1e-5)
    assert found.trials[2].losses != found.trials[0].losses
    assert not model.first.built
    assert not model.second.built
    with pytest.raises(ValueError, match=r"returns, \['first_loss', 'second_loss'\].*monitor='loss'"):
        winit.compare(model, X, Y, ("auto",), **SHORT)
    with pytest.raises(ValueError, match="one optimizer.* has 3: optimizer, first, second"):
        winit.compare(model, X, Y, ("auto",), **given, learning_rates=(0.1,))
    again = winit.compare(model, X, Y, {"one": "auto"}, **given)
    np.testing.assert_allclose(again.trials[0].losses, found.trials[0].losses, rtol=1e-5)


def interrupting(monkeypatch, owner, name, at):
    """Let a method raise KeyboardInterrupt when it is called for the so-many-th time."""
    original, calls = getattr(owner, name), iter(range(10**9))

    def once(*arguments, **options):
        if next(calls) == at:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, once)


@pytest.mark.parametrize("kind", ["functional", "stateful" if "stateful" in MODELS else "trained"])
def test_an_interrupt_leaves_the_model_as_it_was(kind, monkeypatch):
    model = made(kind)
    before = everything(model)
    variable, norm = type(model.variables[0]), type(model.optimizer)
    places = [(type(model), "train_on_batch", at) for at in (0, 4)]
    places += [(variable, "assign", at) for at in (3, 40, 100)]
    places += [(norm, "build", 0), (winit.Orthogonal, "draw", 1), (layers.Dense, "call", 3)]
    interrupted = 0
    for owner, name, at in places:
        with monkeypatch.context() as patch:
            interrupting(patch, owner, name, at)
            try:
                winit.compare(model, X, Y, ("torch", "orthogonal"), **SHORT, apply=True)
            except KeyboardInterrupt:
                interrupted += 1
                assert everything(model) == before, (name, at)
                continue
        model = made(kind)
        before = everything(model)
    assert interrupted > 4


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"schemes": ()}, ValueError, "at least one start"),
        ({"schemes": "auto"}, TypeError, "`schemes` must be a tuple"),
        ({"schemes": ("auto", "calibrat")}, ValueError, 'Did you mean "calibrate"'),
        ({"schemes": ("auto", "he_norml")}, ValueError, 'Did you mean "he_normal"'),
        ({"schemes": ("auto", "auto")}, ValueError, "twice"),
        ({"schemes": (3,)}, TypeError, "scheme"),
        ({"steps": 0}, ValueError, "`steps` must be at least 1"),
        ({"steps": 1.5}, TypeError, "`steps` must be an integer"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        ({"batch_size": 49}, ValueError, "A batch of 49 samples .* Received: 48"),
        ({"learning_rates": ()}, ValueError, "at least one rate"),
        ({"learning_rates": (0.1, 0.0)}, ValueError, "`learning_rates` must be greater than 0"),
        ({"learning_rates": (-1,)}, ValueError, "`learning_rates` must be greater than 0"),
        ({"learning_rates": (math.nan,)}, ValueError, "`learning_rates` must be finite"),
        ({"learning_rates": (1e300,)}, ValueError, "too large for float32"),
        ({"learning_rates": 0.1}, TypeError, "`learning_rates` must be a tuple"),
        ({"labels": Y[:-1]}, ValueError, r"Received: \[48\] and \[47\]"),
        ({"labels": np.ones((48, 3, 5))}, ValueError, r"shape of the model's output .*Received: \(3, 5\)"),
        ({"data": X[..., :5]}, ValueError, "cannot be trained on this data"),
        ({"data": X[:0], "labels": Y[:0]}, ValueError, "empty"),
        ({"data": np.array(3.0)}, TypeError, "a single number"),
        ({"data": np.array([{}])}, TypeError, "must be arrays of samples"),
        ({"data": iter([])}, ValueError, "brings labels of its own"),
        ({"data": iter([]), "labels": None}, ValueError, "Pass `batch_size` with arrays only"),
        ({"data": iter([]), "labels": None, "batch_size": None}, ValueError, "it has no batches"),
        ({"monitor": "los"}, ValueError, r"one of the losses .*'mae'.* Did you mean \"loss\""),
        ({"monitor": 3}, TypeError, "`monitor`"),
        ({"seed": 1.5}, TypeError, "`seed`"),
        ({"apply": 1}, TypeError, "`apply` must be True or False"),
        ({"progress": None}, TypeError, "`progress` must be True or False"),
    ],
)
def test_bad_input_changes_nothing(change, kind, message, bad):
    given = {"model": bad, "data": X, "labels": Y, "schemes": ("auto", "torch"), **SHORT, **change}
    before = everything(bad)
    with pytest.raises(kind, match=message):
        winit.compare(**given)
    assert everything(bad) == before


@pytest.fixture(scope="module")
def bad():
    return made("trained")


def test_models_that_cannot_be_trained():
    bare = keras.Sequential([keras.Input((4, 6)), layers.Dense(2)])
    with pytest.raises(ValueError, match="must be compiled.*model.compile"):
        winit.compare(bare, X, Y)
    with pytest.raises(TypeError, match="must be a Keras model"):
        winit.compare("model", X, Y)
    with pytest.raises(ValueError, match="not built"):
        winit.compare(keras.Sequential([layers.Dense(2)]), X, Y)
    scheduled = functional(keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)))
    with pytest.raises(ValueError, match="follows a schedule"):
        winit.compare(scheduled, X, Y, learning_rates=(0.1,))
    assert winit.compare(scheduled, X, Y, ("auto",), **SHORT).winner.learning_rate == pytest.approx(0.1)


def test_weights_without_decay_stay_without():
    """Which weights decay is no part of an optimizer's config."""

    def losses(*, exclude):
        keras.utils.set_random_seed(7)
        optimizer = keras.optimizers.AdamW(0.1, weight_decay=2.0)
        if exclude:
            optimizer.exclude_from_weight_decay(var_names=["kernel"])
        return winit.compare(functional(optimizer), X, Y, ("auto",), **SHORT).winner.losses

    kept, decayed = losses(exclude=True), losses(exclude=False)
    assert kept[0] == decayed[0]
    assert kept[-1] != pytest.approx(decayed[-1], rel=0.01)


def test_the_result_as_text_html_json_and_picture():
    pytest.importorskip("matplotlib").use("Agg")
    found = winit.compare(
        made("functional"), X, Y, ("auto", "torch", "dirac"), **SHORT, learning_rates=(0.01, 1e30)
    )
    text = str(found)
    assert "the winner" in text
    assert "×1.00" in text
    assert "<table>" in found._repr_html_()
    data = json.loads(json.dumps(found.to_dict()))
    assert data["winner"] == found.trials.index(found.winner)
    assert data["trials"][0]["last"] == pytest.approx(found.trials[0].last)
    assert "at 0.01 wins" in repr(found)
    figure = found.plot()
    lines = figure.axes[0].get_lines()
    assert [len(line.get_ydata()) for line in lines] == [3, 1, 3, 1]
    assert lines[0].get_ydata()[-1] == pytest.approx(found.trials[0].last)
    labels = [line.get_label() for line in lines]
    assert sum("winner" in label for label in labels) == 1
    assert "diverged at step 2" in labels[1]
    import matplotlib.pyplot as plt

    plt.close(figure)
