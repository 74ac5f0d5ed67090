"""What is wrong with the weights of a model, each by itself and against one another.

A zero kernel puts out nothing, and may be meant to: at the end of a residual branch, or of the model. It
learns from its gradient ∂L/∂W = Σ a·δᵀ, if that is not zero and differs between its units; once it has taken
a step, so does what it kept the gradient from.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.diagnosing.findings import Threshold, draw_anew, severity_of
from keras_winit.models.diagnosing.report import Finding, WeightRow
from keras_winit.models.initializing.fitting import expected_std
from keras_winit.models.running.undo import exact_value
from keras_winit.schemes import Scheme
from keras_winit.schemes.compose import Scaled
from keras_winit.schemes.icnr import ICNR
from keras_winit.schemes.structured import Bilinear
from keras_winit.support.exact import moments
from keras_winit.support.host import host_array
from keras_winit.theory.fans import Fans, MatrixView


def columns(slot: Slot, array: Any) -> Any:
    """The weights of a slot as a matrix with a column for each unit."""
    rank = array.ndim
    inputs, outputs = slot.axes or (list(range(rank - 1)), [rank - 1])
    if slot.depthwise:  # each channel is a unit of its own
        outputs = [axis for axis in range(rank) if axis not in inputs]
    view = MatrixView(slot.shape, list(inputs), list(outputs))
    order = [*view.inputs, *view.others, *view.outputs]
    return np.transpose(array, order).reshape(-1, view.columns)


_DIFFERS = 1e-3  # of a gradient's size
_STEP = 0.1  # of the size of an ordinary kernel: so much a first step is taken to be


class Starts:
    """The weights of a model that are all zero, and which of them learn.

    Args:
        slots: the variables.

    Attributes:
        zero: those that are all zero.
        learning: the ids of those that learn.
        values: what the latter are after a first step, by the variables' ids.
    """

    def __init__(self, slots: Iterable[Slot]) -> None:
        self.zero = [slot for slot in slots if _counts(slot) and not np.any(_values(slot))]
        self.learning: set[int] = set()
        self.values: dict[int, Any] = {}

    @property
    def waiting(self) -> list[Any]:
        """The variables of which it is not known yet that they learn."""
        return [slot.variable for slot in self.zero if id(slot.variable) not in self.learning]

    def step(self, gradients: dict[int, Any]) -> bool:
        """Take a first step with those whose gradient lets them; whether there are any such."""
        found = False
        for slot in self.zero:
            gradient = gradients.get(id(slot.variable))
            if id(slot.variable) in self.learning or gradient is None or not _teaches(slot, gradient):
                continue
            found = True
            self.learning.add(id(slot.variable))
            self.values[id(slot.variable)] = _stepped(slot, gradient)
        return found


def _counts(slot: Slot) -> bool:
    gain = slot.role == "norm" and slot.variable.name in ("gamma", "scale")
    drawn = slot.role in ("kernel", "recurrent", "embedding") or gain
    return drawn and not slot.kept and keras.backend.is_float_dtype(slot.variable.dtype)


def _values(slot: Slot) -> Any:
    return host_array(exact_value(slot.variable))


def _teaches(slot: Slot, gradient: Any) -> bool:
    power = float(np.sum(np.square(gradient)))
    if not 0 < power < math.inf:
        return False
    if slot.role == "norm" or gradient.ndim < 2:
        return True
    units = columns(slot, gradient)
    if units.shape[1] < 2:
        return True
    differing = float(np.sum(np.square(units - units.mean(axis=1, keepdims=True))))
    return differing > _DIFFERS**2 * power


def _stepped(slot: Slot, gradient: Any) -> Any:
    """The weight after a step against its gradient, as large as a tenth of an ordinary kernel."""
    if slot.role == "norm":
        return keras.ops.convert_to_tensor(np.full(slot.shape, _STEP), slot.variable.dtype)
    size = _STEP / math.sqrt(slot.fans.fan_in if slot.fans else 1.0)
    deviation = math.sqrt(float(np.mean(np.square(gradient))))
    return keras.ops.convert_to_tensor(-size / deviation * gradient, slot.variable.dtype)


_DRAWN = ("kernel", "recurrent", "embedding")
_STANDARD_ERRORS = 5
_EMBEDDINGS = (0.01, 1.0)  # from what language models draw to what PyTorch does

_INITIALIZE = "Draw it anew: `initialize(model)`."


class WeightCheck:
    """Looks at each weight in turn and keeps what it finds."""

    def __init__(
        self, thresholds: Mapping[str, Threshold], starts: Starts, *, small: Iterable[Slot] = ()
    ) -> None:
        """Take the thresholds, the weights that start at zero, and those that may be small: the last ones."""
        self.findings: list[Finding] = []
        self.rows: list[WeightRow] = []
        self._thresholds = thresholds
        self._starts = starts
        self._small = set(small)
        self._seen: dict[tuple[Any, ...], list[tuple[Slot, Any]]] = {}

    def look(self, slots: Iterable[Slot]) -> None:
        """Look at the variables of a model."""
        for slot in slots:
            if keras.backend.is_float_dtype(slot.variable.dtype):
                self._look_at(slot)

    def _look_at(self, slot: Slot) -> None:
        array = host_array(exact_value(slot.variable))
        if not np.isfinite(np.sum(array, dtype="float64")):
            count = int(np.count_nonzero(~np.isfinite(array.astype("float32"))))
            if count:
                self.findings.append(
                    Finding(
                        "non_finite",
                        "error",
                        slot.path,
                        f"{count} of {array.size} values are NaN or infinite.",
                        {"count": count},
                        _INITIALIZE,
                    )
                )
                return
        if (
            slot in self._starts.zero
            and slot.role == "norm"
            and id(slot.variable) not in self._starts.learning
        ):
            self._one_value(slot, 0.0)
        if slot.role not in _DRAWN or array.size < 2:
            return
        array = array.astype("float32", copy=False)
        low, high = float(array.min()), float(array.max())
        std = moments(array).std
        expected = expected_std(slot)
        self.rows.append(WeightRow(slot.path, slot.shape, slot.role, std, expected))
        if slot.kept:  # frozen: it is what it is meant to be
            return
        if low == high:
            self._one_value(slot, low)
            return
        self._against_theory(slot, std, expected)
        self._repeated_units(slot, array)
        self._equal_tensors(slot, array)

    def _one_value(self, slot: Slot, value: float) -> None:
        learns = id(slot.variable) in self._starts.learning
        size = math.prod(slot.shape)
        message = f"All {size} values are {value:g}: its units stay equal, or get no gradient."
        if learns:
            message = f"All {size} values are 0, and its gradient differs between its units: it learns."
        remedy = "None is needed, if that is meant." if learns else draw_anew(slot)
        code, severity = "constant" if value else "zero", "note" if learns else "error"
        self.findings.append(Finding(code, severity, slot.path, message, {"value": value}, remedy))

    def _against_theory(self, slot: Slot, std: float, expected: float | None) -> None:
        exact = _exact_range(slot)
        bounds = [value for value in (expected, *(exact or ())) if value]
        if not bounds or std == 0:
            return
        noise = 1 + _STANDARD_ERRORS * math.sqrt(1 / (2 * math.prod(slot.shape)))
        theory = f"{expected:.3g} by its initializer" if expected else "its fans give " + _range(bounds)
        for code, ratio in (("too_small", min(bounds) / std), ("too_large", std / max(bounds))):
            severity = severity_of(self._thresholds[code], ratio / noise)
            if severity and code == "too_small" and slot in self._small:
                severity = "note"  # an end of the model, or of a branch, may start near zero
            if severity:
                self.findings.append(
                    Finding(
                        code,
                        severity,
                        slot.path,
                        f"Its deviation is {std:.3g}, {ratio:.3g} times too {code[4:]} ({theory}).",
                        {"std": std, "expected": expected or bounds[0], "ratio": ratio},
                        "Draw it anew, `initialize(model)`, or give it the right scale, "
                        '`calibrate(model, data, scheme="keep")`.',
                    )
                )
                return
        by_fans = isinstance(slot.configured, keras.initializers.VarianceScaling)
        if (
            exact
            and slot.role == "kernel"
            and by_fans
            and not isinstance(slot.configured, Scheme)
            and expected
        ):
            ratio = exact[0] / expected
            if severity_of(self._thresholds["wrong_fans"], ratio):
                self.findings.append(
                    Finding(
                        "too_small",
                        "warning",
                        slot.path,
                        f"Its deviation is {std:.3g}, as Keras' fans have it; the exact fan_in is "
                        f"{slot.fans.fan_in if slot.fans else 0:g}, which gives {_range(exact)}.",
                        {"std": std, "expected": exact[0], "ratio": ratio},
                        "Draw it with its exact fans: `initialize(model)`.",
                    )
                )

    def _repeated_units(self, slot: Slot, array: Any) -> None:
        if _repeats_by_design(slot.configured):
            return
        units = columns(slot, array)
        if units.shape[0] < 2 or units.shape[1] < 2:
            return
        rng = np.random.default_rng(0)
        keys = units.T @ rng.standard_normal(units.shape[0]).astype("float32")
        order = np.argsort(keys, kind="stable")
        close = np.diff(keys[order]) <= 1e-5 * np.abs(keys).max()
        equal = np.zeros(len(keys), bool)
        for index in np.flatnonzero(close):
            one, other = order[index], order[index + 1]
            if np.allclose(units[:, one], units[:, other], rtol=1e-6, atol=0):
                equal[[one, other]] = True
        share = float(equal.mean())
        severity = severity_of(self._thresholds["repeated_units"], share)
        if severity:
            self.findings.append(
                Finding(
                    "repeated_units",
                    severity,
                    slot.path,
                    f"{int(equal.sum())} of {len(keys)} units equal another: they learn the same.",
                    {"count": int(equal.sum()), "share": share},
                    _INITIALIZE,
                )
            )

    def _equal_tensors(self, slot: Slot, array: Any) -> None:
        if getattr(slot.configured, "random", True) is False or array.size < 4:
            return
        flat = array.reshape(-1)
        key = (slot.shape, float(flat[0]), float(flat[-1]), float(flat[flat.size // 2]))
        for other, values in self._seen.get(key, ()):
            if np.array_equal(values, array):
                self.findings.append(
                    Finding(
                        "equal_tensors",
                        "warning",
                        slot.path,
                        f"It equals {other.path}: both were drawn with the same seed.",
                        {},
                        "Give every layer its own seed: `initialize(model, seed=…)` does.",
                    )
                )
                return
        self._seen.setdefault(key, []).append((slot, array))


def _exact_range(slot: Slot) -> tuple[float, float] | None:
    """The deviations that the published schemes give a kernel of these fans."""
    if slot.role == "embedding":
        return _EMBEDDINGS
    fans: Fans | None = slot.fans
    if fans is None or getattr(fans, "note", None):
        return None
    lecun, glorot = math.sqrt(1 / fans.fan_in), math.sqrt(2 / (fans.fan_in + fans.fan_out))
    return min(lecun, glorot), math.sqrt(2) * lecun


def _range(bounds: Iterable[float]) -> str:
    values = sorted(bounds)
    return f"{values[0]:.3g} to {values[-1]:.3g}"


def _repeats_by_design(initializer: Any) -> bool:
    if isinstance(initializer, Scaled):
        return _repeats_by_design(initializer.initializer)
    return isinstance(initializer, (ICNR, Bilinear)) or getattr(initializer, "random", True) is False
