"""What is wrong with weights, each by itself and against one another.

A zero kernel may be meant to put out nothing, at the end of a residual branch or of the model. It learns if
its gradient ∂L/∂W = Σ a·δᵀ is not zero and differs between its units; once it has taken a step, so does what
it kept the gradient from.
"""

import math
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.diagnosing.findings import INITIALIZE, Threshold, draw_anew
from keras_winit.models.diagnosing.report import Finding, WeightRow
from keras_winit.models.initializing.fitting import expected_std
from keras_winit.models.running.undo import exact_value
from keras_winit.schemes import Scheme
from keras_winit.schemes.compose import Scaled
from keras_winit.schemes.icnr import ICNR
from keras_winit.schemes.structured import Bilinear
from keras_winit.support.exact import moments
from keras_winit.support.host import host_array
from keras_winit.theory.fans import MatrixView

_DIFFERS = 1e-3  # of a gradient's size
_STEP = 0.1  # of the size of an ordinary kernel
_DRAWN = ("kernel", "recurrent", "embedding")
_STANDARD_ERRORS = 5
_EMBEDDINGS = (0.01, 1.0)  # from what language models draw to what PyTorch does


def _counts(slot: Slot) -> bool:
    gain = slot.role == "norm" and slot.variable.name in ("gamma", "scale")
    return (gain or slot.role in _DRAWN) and not slot.kept


def _values(slot: Slot) -> Any:
    return host_array(exact_value(slot.variable))


def _columns(slot: Slot, array: Any) -> Any:
    """The weights of a slot as a matrix with a column for each unit."""
    rank = array.ndim
    inputs, outputs = slot.axes or (list(range(rank - 1)), [rank - 1])
    if slot.depthwise:  # each channel is a unit of its own
        outputs = [axis for axis in range(rank) if axis not in inputs]
    view = MatrixView(slot.shape, inputs, outputs)
    return np.transpose(array, [*inputs, *view.others, *outputs]).reshape(-1, view.columns)


def _teaches(slot: Slot, gradient: Any) -> bool:
    power = float(np.sum(np.square(gradient)))
    if not 0 < power < math.inf:
        return False
    if slot.role == "norm" or gradient.ndim < 2:
        return True
    units = _columns(slot, gradient)
    differing = float(np.sum(np.square(units - units.mean(axis=1, keepdims=True))))
    return units.shape[1] < 2 or differing > _DIFFERS**2 * power


def _stepped(slot: Slot, gradient: Any) -> Any:
    """The weight after a step against its gradient."""
    step = np.full(slot.shape, _STEP)
    if slot.role != "norm":
        size = _STEP / math.sqrt(slot.fans.fan_in if slot.fans else 1.0)
        step = -size / math.sqrt(float(np.mean(np.square(gradient)))) * gradient
    return keras.ops.convert_to_tensor(step, slot.variable.dtype)


class WeightCheck:
    """Looks at each weight in turn, and keeps its figures.

    Attributes:
        values: by the ids of variables that are zero and learn, what these are after a first step.
    """

    def __init__(self, thresholds: Mapping[str, Threshold], slots: Iterable[Slot]) -> None:
        self.rows: list[WeightRow] = []
        self.values: dict[int, Any] = {}
        self._thresholds = thresholds
        self._slots = [slot for slot in slots if keras.backend.is_float_dtype(slot.variable.dtype)]
        self._zero = [slot for slot in self._slots if _counts(slot) and not np.any(_values(slot))]
        self._seen: dict[tuple[Any, ...], list[tuple[Slot, Any]]] = {}

    def _learns(self, slot: Slot) -> bool:
        return id(slot.variable) in self.values

    @property
    def waiting(self) -> set[int]:
        """The ids of those that are zero and not known to learn."""
        return {id(slot.variable) for slot in self._zero if not self._learns(slot)}

    def step(self, gradients: dict[int, Any]) -> bool:
        """Take a first step with those that learn by these gradients; whether there are any."""
        known = len(self.values)
        for slot in self._zero:
            gradient = gradients.get(id(slot.variable))
            if gradient is not None and not self._learns(slot) and _teaches(slot, gradient):
                self.values[id(slot.variable)] = _stepped(slot, gradient)
        return len(self.values) > known

    def findings(self, small: Container[Slot]) -> Iterator[Finding]:
        """What is wrong with the weights, which may be small in these slots."""
        for slot in self._slots:
            yield from self._of(slot, small=slot in small)

    def _of(self, slot: Slot, *, small: bool) -> Iterator[Finding]:
        array = _values(slot)
        if not np.isfinite(np.sum(array, dtype="float64")):
            count = int(np.count_nonzero(~np.isfinite(array.astype("float32"))))
            if count:
                message = f"{count} of {array.size} values are NaN or infinite."
                yield Finding("non_finite", "error", slot.path, message, {"count": count}, INITIALIZE)
                return
        if slot.role == "norm" and slot in self._zero and not self._learns(slot):
            yield self._one_value(slot, 0.0)
        if slot.role not in _DRAWN or array.size < 2:
            return
        array = array.astype("float32", copy=False)
        low, high = float(array.min()), float(array.max())
        std, expected = moments(array).std, expected_std(slot)
        self.rows.append(WeightRow(slot.path, slot.shape, slot.role, std, expected))
        if slot.kept:  # frozen, as it is meant to be
            return
        if low == high:
            yield self._one_value(slot, low)
            return
        yield from self._against_theory(slot, std, expected, small=small)
        yield from self._repeated_units(slot, array)
        yield from self._equal_tensors(slot, array)

    def _one_value(self, slot: Slot, value: float) -> Finding:
        size = math.prod(slot.shape)
        if self._learns(slot):
            message = f"All {size} values are 0, and its gradient differs between its units: it learns."
            severity, remedy = "note", "None is needed, if that is meant."
        else:
            message = f"All {size} values are {value:g}: its units stay equal, or get no gradient."
            severity, remedy = "error", draw_anew(slot)
        code = "constant" if value else "zero"
        return Finding(code, severity, slot.path, message, {"value": value}, remedy)

    def _against_theory(
        self, slot: Slot, std: float, expected: float | None, *, small: bool
    ) -> Iterator[Finding]:
        exact = _exact_range(slot)
        bounds = [value for value in (expected, *(exact or ())) if value]
        if not bounds or std == 0:
            return
        noise = 1 + _STANDARD_ERRORS * math.sqrt(1 / (2 * math.prod(slot.shape)))
        theory = f"{expected:.3g} by its initializer" if expected else "its fans give " + _range(bounds)
        for code, ratio in (("too_small", min(bounds) / std), ("too_large", std / max(bounds))):
            severity = self._thresholds[code].severity(ratio / noise)
            if severity and code == "too_small" and small:
                severity = "note"
            if severity:
                yield Finding(
                    code,
                    severity,
                    slot.path,
                    f"Its deviation is {std:.3g}, {ratio:.3g} times too {code[4:]} ({theory}).",
                    {"std": std, "expected": expected or bounds[0], "ratio": ratio},
                    "Draw it anew, `initialize(model)`, or give it the right scale, "
                    '`calibrate(model, data, scheme="keep")`.',
                )
                return
        given, fans = slot.configured, slot.fans
        by_keras = isinstance(given, keras.initializers.VarianceScaling) and not isinstance(given, Scheme)
        if not by_keras or slot.role != "kernel" or not fans or not exact or not expected:
            return
        ratio = exact[0] / expected
        if self._thresholds["wrong_fans"].severity(ratio):
            yield Finding(
                "too_small",
                "warning",
                slot.path,
                f"Its deviation is {std:.3g}, as Keras' fans have it; the exact fan_in is "
                f"{fans.fan_in:g}, which gives {_range(exact)}.",
                {"std": std, "expected": exact[0], "ratio": ratio},
                "Draw it with its exact fans: `initialize(model)`.",
            )

    def _repeated_units(self, slot: Slot, array: Any) -> Iterator[Finding]:
        if _repeats_by_design(slot.configured):
            return
        units = _columns(slot, array)
        if min(units.shape) < 2:
            return
        rng = np.random.default_rng(0)
        keys = units.T @ rng.standard_normal(units.shape[0]).astype("float32")
        order = np.argsort(keys, kind="stable")
        close = np.diff(keys[order]) <= 1e-5 * np.abs(keys).max()
        equal = np.zeros(len(keys), bool)
        for index in np.flatnonzero(close):
            one, other = order[index : index + 2]
            if np.allclose(units[:, one], units[:, other], rtol=1e-6, atol=0):
                equal[[one, other]] = True
        count, share = int(equal.sum()), float(equal.mean())
        severity = self._thresholds["repeated_units"].severity(share)
        if severity:
            message = f"{count} of {len(keys)} units equal another: they learn the same."
            figures = {"count": count, "share": share}
            yield Finding("repeated_units", severity, slot.path, message, figures, INITIALIZE)

    def _equal_tensors(self, slot: Slot, array: Any) -> Iterator[Finding]:
        if getattr(slot.configured, "random", True) is False or array.size < 4:
            return
        flat = array.reshape(-1)
        key = (slot.shape, float(flat[0]), float(flat[-1]), float(flat[flat.size // 2]))
        for other, values in self._seen.get(key, ()):
            if np.array_equal(values, array):
                message = f"It equals {other.path}: both were drawn with the same seed."
                remedy = "Give every layer its own seed: `initialize(model, seed=…)` does."
                yield Finding("equal_tensors", "warning", slot.path, message, {}, remedy)
                return
        self._seen.setdefault(key, []).append((slot, array))


def _exact_range(slot: Slot) -> tuple[float, float] | None:
    """The least and the largest deviation of published schemes for these fans."""
    if slot.role == "embedding":
        return _EMBEDDINGS
    fans = slot.fans
    if fans is None or fans.note:
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
