"""Train a model for a few steps from each of several starts."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import keras

from keras_winit.models.calibrating.calibrate import calibrate_within
from keras_winit.models.comparing.comparison import Comparison, Trial
from keras_winit.models.comparing.putting_back import (
    as_found,
    optimizers_of,
    randomness_kept,
    start_randomness,
    variables_of,
)
from keras_winit.models.comparing.training import Batches, batches_of, train, warm_up
from keras_winit.models.initializing.initialize import Drawing, root_seed
from keras_winit.models.initializing.plan import rules_of
from keras_winit.models.running.batch import MOST_SAMPLES
from keras_winit.models.running.undo import Undo, reset_optimizer, taken_back, undo_on_failure
from keras_winit.models.tracing.structure import check_built
from keras_winit.support.checks import as_bool, as_float, as_int, check_fits, did_you_mean, shown
from keras_winit.support.printing import progress as progress_bar

CALIBRATE = "calibrate"
_LONGEST = 40  # of a name in the table


class Start(NamedTuple):
    """A scheme that `initialize` takes, or "calibrate", and its name."""

    name: str
    scheme: Any

    def draw(self, model: keras.Model, batches: Batches, undo: Undo) -> None:
        """Draw the model, not its optimizer, or raise a TypeError or ValueError."""
        if self.scheme != CALIBRATE:
            drawing = Drawing(model, self.scheme, batches.seed)
            if drawing.carry_out(undo, show=False):
                drawing.reset_states(undo)
            return
        inputs, labels, samples = batches.sample(MOST_SAMPLES)
        known = labels if model.loss else None  # else its loss is in a `train_step` of its own
        calibrate_within(
            undo, model, inputs, known, samples=samples, seed=batches.seed, show=False, resets=False
        )


def starts_of(schemes: Any) -> list[Start]:
    """The starts that the argument `schemes` of `compare` names."""
    if isinstance(schemes, str) or not isinstance(schemes, Iterable):
        raise TypeError(
            "`schemes` must be a tuple of what `initialize` takes as `scheme`, or a mapping of names to it. "
            f"Received: schemes={shown(schemes)}."
        )
    if isinstance(schemes, Mapping):
        found = [Start(str(name), scheme) for name, scheme in schemes.items()]
    else:
        found = [Start(_name(scheme), scheme) for scheme in schemes]
    if not found:
        raise ValueError("`schemes` must name at least one start. Received none.")
    for index, start in enumerate(found):
        if start.name in [other.name for other in found[:index]]:
            raise ValueError(
                f"`schemes` names {start.name!r} twice. Pass a mapping of names to schemes that differ."
            )
        named = isinstance(start.scheme, str)
        if named and start.scheme == CALIBRATE:
            continue
        try:
            with randomness_kept():  # an initializer without a seed draws one as it is made
                rules_of(start.scheme)
        except ValueError as error:
            near = did_you_mean(start.scheme, [CALIBRATE]) if named else ""
            raise ValueError(f"{error}{near}") from error
    return found


def _name(scheme: Any) -> str:
    text = scheme if isinstance(scheme, str) else shown(scheme)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


# The best on most published models first, by tests/benchmarks/comparing.py.
SCHEMES = ("calibrate", "auto", "orthogonal", "configured", "torch")


def compare(
    model: keras.Model,
    data: Any,
    labels: Any = None,
    schemes: Any = SCHEMES,
    steps: int = 100,
    *,
    learning_rates: Any = None,
    batch_size: int | None = None,
    monitor: str = "loss",
    seed: int | None = None,
    apply: bool = False,
    progress: bool = True,
) -> Comparison:
    """Train a model for a few steps from each of several starts, and say which it learns from best.

    No scheme is right for every model. So each is tried: the model is drawn, its optimizer starts afresh,
    and it takes the same batches in the same order, by the model's own `train_step`, loss and optimizer.
    Its last loss is the mean of the last tenth of the steps, of five at least. The smallest wins; but
    starts within 10 % of it after so few steps may well be ahead in the end, so among these the one named
    first in `schemes` wins. A start whose loss is not finite at some step ends there, and cannot win.

    Afterwards the model is as it was, to the last bit: its weights, moving statistics and stateful
    layers, its optimizer, built or not, its metrics, its random generators, and the global ones of Python,
    numpy, Keras and PyTorch. So it is after an interrupt or an error too. Meanwhile the old values are in a
    temporary file, and the optimizer has a stand-in with a state of its own: in memory there is
    one more copy of that state, and none of the weights. The step is compiled once, not for each start.

    Args:
        model: a built and compiled model of any kind, also with a `train_step`, optimizers and losses of its
            own.
        data: what to train on: an array or a nest of arrays; or a tf.data.Dataset, a keras.utils.PyDataset, a
            torch DataLoader or an iterable of batches, whose first `steps` batches are held in memory and,
            where there are fewer, taken again.
        labels: an array or a nest of arrays, as many as there are samples; a data set brings its own.
            None for a model that needs none.
        schemes: the starts to try, a tuple of what `initialize` takes as `scheme`, "keep" for the weights
            as they are, or "calibrate" for `winit.calibrate` on a batch, with the labels where the model is
            compiled with a loss; or a mapping of names, for the table, to these. What cannot be drawn
            for this model has a row that says why. The default tries what `calibrate` and `initialize`
            choose, orthogonal kernels, what the model asks for, and PyTorch's defaults.
        steps: how many batches to train on from each start, 1 or more. By a tenth of the steps of the whole
            training the winner ends within 10 % of the best on about four of five models, by
            tests/benchmarks/comparing.py: more steps tell more.
        learning_rates: rates to try with each start, numbers above 0; None is for the optimizer's own. For a
            model with one optimizer, whose rate follows no schedule.
        batch_size: of arrays; None is for 32, or what the model takes.
        monitor: the loss to compare by, one of what the model's step returns; less is better.
        seed: the root seed of all draws and of the order of the samples, an integer; None draws one, and the
            result has it. The same seed gives the same table.
        apply: whether to draw the model with the winner in the end, as `initialize` or `calibrate` does with
            this seed: fresh, untrained, the optimizer reset, and its learning rate set to the
            winner's where `learning_rates` are given. Where no start came to the end the model is as it was.
        progress: whether to show a bar in a terminal.

    Returns:
        A `Comparison`: printing it shows a table; it has the curves, and `plot()` draws them.

    Raises:
        TypeError, ValueError: for a model that is not built or not compiled, data that it cannot be
            trained on, arrays of lengths that differ, an unknown scheme, and numbers out of range. The model
            is as it was.

    Example:

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(200, 8)).astype("float32")
    >>> hidden = [keras.layers.Dense(16, "relu") for _ in range(2)]
    >>> model = keras.Sequential([keras.Input((8,)), *hidden, keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.Adam(0.01), "mse")
    >>> comparison = compare(model, x, np.sin(x[:, :1]), ("zeros", "auto"), steps=30, seed=0)
    >>> comparison.winner.start
    'auto'
    """
    as_bool("apply", apply)
    as_bool("progress", progress)
    check_built(model)
    if not (isinstance(model, keras.Model) and model.compiled):
        raise ValueError(
            "`model` must be compiled: it is trained by its own optimizer and loss. Received: "
            f'{model.name!r}, which is not. Call `model.compile("adam", loss)` first.'
        )
    starts = starts_of(schemes)
    rates = _rates(model, learning_rates)
    steps = as_int("steps", steps, minimum=1)
    if not isinstance(monitor, str):
        raise TypeError(f"`monitor` must be the name of a loss. Received: monitor={shown(monitor)}.")
    root = root_seed(seed)
    batches = batches_of(model, data, labels, steps=steps, batch_size=batch_size, seed=root)
    tried = list(itertools.product(starts, rates))
    with progress_bar("comparing", len(tried) * steps, show=progress) as advance:
        trials = _trials(model, batches, tried, monitor, advance)
    if all(trial.reason for trial in trials):
        reasons = "; ".join(f"{trial.start}: {trial.reason}" for trial in trials)
        raise ValueError(f"The model {model.name!r} cannot be drawn from any of the starts. {reasons}")
    found = Comparison(trials, steps, str(batches), monitor, root, "the model is as it was")
    if not apply or found.winner is None:
        return found
    start, rate = tried[trials.index(found.winner)]
    return replace(found, applied=_apply(model, batches, start, rate))


def _rates(model: keras.Model, rates: Any) -> list[float | None]:
    """The learning rates to try; None is for the optimizer's own."""
    if rates is None:
        return [None]
    if isinstance(rates, str) or not isinstance(rates, Iterable):
        raise TypeError(
            f"`learning_rates` must be a tuple of numbers, or None. Received: learning_rates={shown(rates)}."
        )
    numbers = (as_float("learning_rates", rate, positive=True) for rate in rates)
    found: list[float | None] = list(dict.fromkeys(numbers))
    if not found:
        raise ValueError("`learning_rates` must have at least one rate. Received none.")
    check_fits("learning_rates", found, "float32")
    names = list(optimizers_of(model))
    if len(names) != 1 or model.optimizer is None:
        raise ValueError(
            f"`learning_rates` are for a model with one optimizer. {model.name!r} has {len(names)}: "
            f"{', '.join(names) or 'none'}. Compile it with each rate instead."
        )
    if not isinstance(_rate_variable(model), keras.Variable):
        raise ValueError(
            "`learning_rates` are for an optimizer whose rate is a number. Received one whose rate follows a "
            f"schedule: {shown(_rate_variable(model))}. Compile the model with a number."
        )
    return found


def _rate_variable(model: keras.Model) -> Any:
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)._learning_rate


def _trials(
    model: keras.Model,
    batches: Batches,
    tried: list[tuple[Start, float | None]],
    monitor: str,
    advance: Callable[[], None],
) -> tuple[Trial, ...]:
    """What came of each start at each rate."""
    trials = []
    with randomness_kept(), as_found(model) as stand_ins, taken_back() as undo:
        for variable in (*variables_of(model), *stand_ins.variables):
            undo.keep(variable)
        warm_up(model, batches, monitor)
        for start, rate in tried:
            undo.take_back()
            for optimizer in stand_ins.late:
                reset_optimizer(optimizer, undo)
            start_randomness(batches.seed)
            now = rate
            if rate is not None:
                model.optimizer.learning_rate = rate
            elif model.optimizer is not None:
                now = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
            losses: list[float] = []
            diverged, reason = None, ""
            try:
                start.draw(model, batches, undo)
            except (TypeError, ValueError) as error:
                reason = str(error)
            else:
                start_randomness(batches.seed)  # a pass of `calibrate` may have drawn
                losses, diverged = train(model, batches, monitor, advance)
            for _ in range(batches.steps - len(losses)):
                advance()
            trials.append(Trial(start.name, now, tuple(losses), diverged, reason, batches.steps))
    return tuple(trials)


def _apply(model: keras.Model, batches: Batches, start: Start, rate: float | None) -> str:
    """Draw the model with a start."""
    with randomness_kept(), undo_on_failure() as undo:
        start_randomness(batches.seed)
        start.draw(model, batches, undo)
        for optimizer in optimizers_of(model).values():
            if optimizer.built:
                reset_optimizer(optimizer, undo)
        if rate is None:
            return f"the model is drawn with {start.name}, its optimizer's state reset"
        undo.assign(_rate_variable(model), rate)
        return (
            f"the model is drawn with {start.name}, its optimizer reset, its learning rate set to {rate:.3g}"
        )
