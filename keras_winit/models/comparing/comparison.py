"""What `compare` found: how a model learned from each start."""

import math
import statistics
from dataclasses import dataclass
from typing import Any

from keras_winit.support.printing import Printed, Table, counted, number

_SHARE, _LEAST = 10, 5  # the last loss is of a tenth of the steps, and of five at least
_NEAR = 0.1  # of the best: no difference to rely on


def last_of(steps: int) -> int:
    """How many of `steps` the last loss is of."""
    return min(steps, max(_LEAST, math.ceil(steps / _SHARE)))


@dataclass(frozen=True)
class Trial:
    """One start at one learning rate."""

    start: str
    learning_rate: float | None  # at the first step; None without a `model.optimizer`
    losses: tuple[float, ...]  # of each step before its update, until one is not finite
    diverged: int | None  # the step whose loss was not finite, from 1
    reason: str  # why the model cannot be drawn so, or ""
    steps: int  # that were asked for

    @property
    def first(self) -> float | None:
        """The loss before anything was learned."""
        return self.losses[0] if self.losses else None

    @property
    def last(self) -> float | None:
        """The mean loss of the last tenth of the steps, of five at least; None where it ended before."""
        if self.diverged is not None or not self.losses:
            return None
        return statistics.fmean(self.losses[-last_of(self.steps) :])


@dataclass(frozen=True, repr=False)  # one line, by `Printed`
class Comparison(Printed):
    """How a model learned from each start, on the same batches.

    Attributes:
        trials: in the order in which they were made; each has `start`, `learning_rate`, `losses` (the
            curve), `first`, `last`, `diverged` and `reason`.
        steps: how many batches each was trained on.
        batch: what a batch was.
        monitor: which loss it is.
        seed: the root seed: with it, `compare` finds the same again.
        applied: what became of the model.

    Example:

    >>> import keras, numpy as np
    >>> from keras_winit import compare
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 8))
    >>> comparison = compare(model, x, x[:, :1], ("auto", "zeros"), steps=3, seed=0)
    >>> [(trial.start, len(trial.losses)) for trial in comparison.trials]
    [('auto', 3), ('zeros', 3)]
    """

    trials: tuple[Trial, ...]
    steps: int
    batch: str
    monitor: str
    seed: int
    applied: str

    @property
    def window(self) -> int:
        """How many steps the last loss is of."""
        return last_of(self.steps)

    @property
    def ranking(self) -> tuple[Trial, ...]:
        """The trials that came to the end, the smallest last loss first."""
        done = [trial for trial in self.trials if trial.last is not None]
        return tuple(sorted(done, key=lambda trial: trial.last or 0.0))  # of equal ones the first stays first

    @property
    def near(self) -> tuple[Trial, ...]:
        """The trials within 10 % of the smallest last loss, that one first."""
        if not self.ranking:
            return ()
        best = self.ranking[0].last or 0.0
        most = best + _NEAR * abs(best)
        return tuple(trial for trial in self.ranking if (trial.last or 0.0) <= most)

    @property
    def winner(self) -> Trial | None:
        """Of those that are `near`, the start named first, at its best rate; None if none came to the end."""
        order = list(dict.fromkeys(trial.start for trial in self.trials))
        return min(self.near, key=lambda trial: order.index(trial.start), default=None)

    def plot(self) -> Any:
        """A matplotlib figure: the loss of each trial, step by step, smoothed over a tenth of them.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: without matplotlib; `pip install "keras-winit[plots]"`.
        """
        from keras_winit.plots import plot_comparison  # noqa: PLC0415 - needs an extra

        return plot_comparison(self)

    def name(self, trial: Trial) -> str:
        """A trial's start, and its rate where there are several."""
        several = len({each.learning_rate for each in self.trials}) > 1
        return f"{trial.start} at {number(trial.learning_rate)}" if several else trial.start

    def to_dict(self) -> dict[str, Any]:
        data = super().to_dict()
        for row, trial in zip(data["trials"], self.trials, strict=True):
            row |= {"first": trial.first, "last": trial.last}
        data["winner"] = None if self.winner is None else self.trials.index(self.winner)
        return data

    def _line(self) -> str:
        over = f"over {counted(self.steps, 'step')} of {self.batch}; seed {self.seed}"
        best = self.winner
        if best is None:
            return f"no start came to the end {over}; {self.applied}"
        close = [f"{self.name(trial)} {number(trial.last)}" for trial in self.near if trial is not best]
        beside = f" (as good, within 10 %: {', '.join(close)})" if close else ""
        return (
            f"{self.name(best)} wins, last {self.monitor} {number(best.last)}, the mean of {self.window} "
            f"steps{beside}; {over}; {self.applied}"
        )

    def _tables(self) -> list[Table]:
        headings = ("start", "learning rate", "first", "last", "to the best", "")
        rows = []
        for trial in (*self.ranking, *(trial for trial in self.trials if trial.last is None)):
            figures = map(number, (trial.learning_rate, trial.first, trial.last))
            rows.append((trial.start, *figures, *self._said(trial)))
        return [Table(f"The {self.monitor} from each start", headings, rows)]

    def _said(self, trial: Trial) -> tuple[str, str]:
        if trial.reason:
            return "–", trial.reason
        if trial.diverged is not None:
            return "–", f"diverged: not finite at step {trial.diverged}"
        best = self.ranking[0]
        least, last, place = best.last or 0.0, trial.last or 0.0, ""
        if trial is self.winner:
            place = "the winner" if trial is best else "the winner: within 10 %, and named first"
        return f"×{last / least:.2f}" if least > 0 else "–", place
