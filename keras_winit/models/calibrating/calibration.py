"""What `calibrate` did to a model."""

from dataclasses import dataclass
from typing import Any

from keras_winit.models.initializing.plan import said_of_unmatched
from keras_winit.models.showing.printing import Printed, Table, counted, number


@dataclass(frozen=True)
class CalibrationRow:
    """What became of one kernel, or of one gate of it; `factor` is None where it is left alone.

    `normalized` says that it is left alone because a normalization divides by its size.
    """

    path: str
    gate: int | None
    before: float | None
    after: float | None
    factor: float | None
    reason: str
    centre: float | None = None
    normalized: bool = False


@dataclass(frozen=True, repr=False)  # one line, by `Printed`
class Calibration(Printed):
    """What `calibrate` found and did, a row for each kernel and embedding.

    Attributes:
        rows: in the order in which the layers were called, then those that are left alone. Each has
            `path`, `gate` (of a recurrent kernel, else None), the standard deviation of the
            pre-activation `before` and `after`, the `factor` on the kernel (None: left alone),
            `reason`, the `centre` that its units were moved to (None: they were not), and whether
            it is left alone for being `normalized`.
        target_std: the deviation that was asked for, or None.
        seed: the root seed: with it, `calibrate` does the same again on the same data.
        batch: what was sent through the model.
        optimizer: what became of the optimizer's state.
        statistics: the paths of the moving statistics of batch normalizations that were set.
        unknown: the paths of weights that are not rescaled because it is not seen what they are for.
        unmatched: the expressions of a mapping that are found in no variable.

    Example:

    >>> import keras
    >>> from keras_winit import calibrate
    >>> model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(30, "tanh"), keras.layers.Dense(9)])
    >>> calibration = calibrate(model, seed=0)
    >>> [round(row.after, 2) for row in calibration.rows]  # the last puts out the answers
    [0.35, 0.3]
    """

    rows: tuple[CalibrationRow, ...]
    target_std: float | None
    seed: int
    batch: str
    optimizer: str
    statistics: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()

    @property
    def calibrated(self) -> tuple[CalibrationRow, ...]:
        """The rows of what was rescaled to the target."""
        return tuple(row for row in self.rows if row.factor is not None)

    @property
    def skipped(self) -> tuple[CalibrationRow, ...]:
        """The rows of what was left alone; their `reason` says why."""
        return tuple(row for row in self.rows if row.factor is None and not row.normalized)

    @property
    def normalized(self) -> tuple[CalibrationRow, ...]:
        """The rows of kernels by whose size a normalization divides."""
        return tuple(row for row in self.rows if row.normalized)

    @property
    def _reached(self) -> str:
        """The deviation, or the least and the greatest."""
        found = sorted(row.after for row in self.calibrated if row.after is not None) or [
            self.target_std or 1.0
        ]
        ends = dict.fromkeys((f"{found[0]:.3g}", f"{found[-1]:.3g}"))
        return " to ".join(ends)

    def plot(self) -> Any:
        """A matplotlib figure: the deviation of each pre-activation before and after, along depth.

        Returns:
            The `matplotlib.figure.Figure`, to be shown or saved.

        Raises:
            ImportError: without matplotlib; `pip install "keras-winit[plots]"`.
        """
        from keras_winit.models.showing.plots import plot_calibration  # noqa: PLC0415 - needs an extra

        return plot_calibration(self)

    def _line(self) -> str:
        kernels = counted(len({row.path for row in self.calibrated}), "kernel")
        normalized = f"{len(self.normalized)} normalized, " if self.normalized else ""
        told = f"; {len(self.statistics)} moving statistics set" if self.statistics else ""
        count = len(self.unknown)
        which = f"{counted(count, 'weight')} of whose use nothing is known"
        told += f"; {which}: {self.unknown[0]}{', …' if count > 1 else ''}" if count else ""
        return (
            f"{kernels} rescaled to a deviation of {self._reached} on {self.batch}, {normalized}"
            f"{len(self.skipped)} left alone{told}; seed {self.seed}; {self.optimizer}"
            f"{said_of_unmatched(self.unmatched)}"
        )

    def _tables(self) -> list[Table]:
        rows = []
        for row in self.rows:
            path = row.path if row.gate is None else f"{row.path} (gate {row.gate})"
            figures = (number(row.before), number(row.after), number(row.factor))
            done = "rescaled" if row.centre is None else f"rescaled, and centred at {row.centre:.3g}"
            rows.append((path, *figures, row.reason or done))
        return [Table("Before the activation", ("variable", "before", "after", "factor", "reason"), rows)]
