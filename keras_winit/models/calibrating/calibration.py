"""What `calibrate` did to a model, and which kernels it leaves."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import layers

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.following import averaged, is_gate, sources
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.initializing.initialize import Drawing
from keras_winit.models.initializing.plan import said_of_unmatched
from keras_winit.models.running.undo import exact_value
from keras_winit.models.tracing.kinds import NORMALIZATIONS
from keras_winit.models.tracing.trace import Step
from keras_winit.support.exact import moments
from keras_winit.support.host import host_array
from keras_winit.support.printing import Printed, Table, counted, number


@dataclass(frozen=True)
class CalibrationRow:
    """What became of one kernel, or one gate of it: a row of `Calibration`."""

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
        """The rows of what was left alone, each with a `reason`."""
        return tuple(row for row in self.rows if row.factor is None and not row.normalized)

    @property
    def normalized(self) -> tuple[CalibrationRow, ...]:
        """The rows of kernels by whose size a normalization divides."""
        return tuple(row for row in self.rows if row.normalized)

    def plot(self) -> Any:
        """A matplotlib figure: the deviation of each pre-activation before and after, along depth.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: without matplotlib; `pip install "keras-winit[plots]"`.
        """
        from keras_winit.plots import plot_calibration  # noqa: PLC0415 - needs an extra

        return plot_calibration(self)

    def _line(self) -> str:
        kernels = counted(len({row.path for row in self.calibrated}), "kernel")
        found = sorted(row.after for row in self.calibrated if row.after is not None)
        found = found or [self.target_std or 1.0]
        reached = " to ".join(dict.fromkeys(f"{found[end]:.3g}" for end in (0, -1)))
        normalized = f"{len(self.normalized)} normalized, " if self.normalized else ""
        told = f"; {len(self.statistics)} moving statistics set" if self.statistics else ""
        if self.unknown:
            which = f"{counted(len(self.unknown), 'weight')} of whose use nothing is known"
            told += f"; {which}: {self.unknown[0]}{', …' if len(self.unknown) > 1 else ''}"
        return (
            f"{kernels} rescaled to a deviation of {reached} on {self.batch}, {normalized}"
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


MOST = 10.0  # times what a kernel's fans say for signals of a deviation of one
_SMALL = 0.1  # of what multiplies a signal


class Bounds:
    """Which factors are too large. A kernel that reads the model's input may get any: data has any scale."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy

    def reason(self, slot: Slot, factor: float, target: float) -> str | None:
        """Why a kernel is not multiplied by a factor; None where it may be."""
        if factor <= 1 or slot.fans is None or slot.role != "kernel":
            return None
        size, most = factor * _size(slot), MOST * max(target, 1.0)
        step = None if size <= most else self._inner_step(slot)
        if step is None or size <= most * math.sqrt(averaged(self._anatomy, step)):
            return None
        cause = self._cause(step)
        return (
            f"{factor:.3g} times as large it would be too large for its fans: {cause} makes its signal small"
        )

    def most(self, slot: Slot, *, answers: bool) -> float:
        """The factor up to which a kernel is no larger than its fans say; any, if it reads the data.

        Answers may have Glorot's size, other kernels that of an orthogonal one.
        """
        if slot.fans is None or self._inner_step(slot) is None:
            return math.inf
        fan_in, fan_out = slot.fans
        size = math.sqrt(fan_in / ((fan_in + fan_out) / 2 if answers else max(slot.fans)))
        return max(1.0, size / max(_size(slot), 1e-30))

    def _inner_step(self, slot: Slot) -> Step | None:
        """Where a kernel meets a signal; None for one of the input's scale, and one not seen."""
        step = next(iter(self._anatomy.steps(slot)), None)
        if step is None or any(value.source == "input" for value in sources(self._anatomy, step)):
            return None
        return step

    def _cause(self, step: Step) -> str:
        """What makes a step's signal small: the nearest small gain, else a layer."""
        before = [value.step for value in sources(self._anatomy, step) if value.step is not None]
        for each in before:
            for variable in each.variables:
                if _is_gain(each, variable, self._anatomy):
                    largest = np.max(np.abs(host_array(exact_value(variable))))
                    if largest < _SMALL:
                        return f"{variable.path}, at most {largest:.3g},"
        return f"{before[-1].operation.name}, or what comes before it," if before else "what it reads"


def _size(slot: Slot) -> float:
    """The deviation that a kernel gives to signals of a deviation of one."""
    found = moments(exact_value(slot.variable))
    fan_in = slot.fans.fan_in if slot.fans else 1.0
    return math.hypot(found.mean, found.std) * abs(slot.scale) * math.sqrt(fan_in)


def _is_gain(step: Step, variable: Any, anatomy: Anatomy) -> bool:
    """Whether a variable multiplies a signal in a step: a gain, a normalization's, or a kernel."""
    if isinstance(step.operation, NORMALIZATIONS):
        return variable is getattr(step.operation, "gamma", getattr(step.operation, "scale", None))
    if step.in_layer:
        return any(variable is getattr(step.operation, name, None) for name in ("kernel", "embeddings"))
    return any(use.step is step and use.role in ("gain", "kernel") for use in anatomy.uses.of(variable))


def reason_to_leave(slot: Slot, drawing: Drawing) -> str | None:
    """Why a kernel is not to be rescaled; None where it is."""
    if slot.kept:
        return slot.kept
    if slot in drawing.untouched:
        return "kept: the mapping does not give it a scheme"
    if slot in drawing.asked:
        return f"{drawing.asked[slot]}: its size is what is asked for"
    if any(isinstance(layer, layers.SpectralNormalization) for layer in slot.parents):
        return "SpectralNormalization divides it by its norm at each step"
    if slot.role == "embedding":
        return "an embedding: it has the size that its scheme gives it"
    # At a deviation of one, gate after gate makes one sample ten times as large as the next.
    if is_gate(drawing.anatomy, slot):
        return "a gate: it multiplies the signal, and would scatter it"
    return None
