"""What is wrong with the weights of a model, each by itself and against one another."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.diagnosing.report import Finding, WeightRow
from keras_winit.models.diagnosing.thresholds import Threshold
from keras_winit.models.initializing.asked import asked_for
from keras_winit.models.initializing.fitting import expected_std
from keras_winit.models.running.moments import moments
from keras_winit.models.running.undo import exact_value
from keras_winit.schemes import Scheme
from keras_winit.schemes.compose import Scaled
from keras_winit.schemes.icnr import ICNR
from keras_winit.schemes.structured import Bilinear
from keras_winit.support.host import host_array
from keras_winit.theory.fans import Fans
from keras_winit.theory.matrix_view import MatrixView

_DRAWN = ("kernel", "recurrent", "embedding")
_STANDARD_ERRORS = 5
_EMBEDDINGS = (0.01, 1.0)  # from what language models draw to what PyTorch does

_INITIALIZE = "Draw it anew: `initialize(model)`."
_OVERWRITE = "Draw it anew, for {}: `initialize(model, overwrite=True)`."


class WeightCheck:
    """Looks at each weight in turn and keeps what it finds."""

    def __init__(self, thresholds: Mapping[str, Threshold]) -> None:
        self.findings: list[Finding] = []
        self.rows: list[WeightRow] = []
        self._thresholds = thresholds
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
            code = "zero" if low == 0 else "constant"
            self.findings.append(
                Finding(
                    code,
                    "error",
                    slot.path,
                    f"All {array.size} values are {low:g}: its units stay equal, or get no gradient.",
                    {"value": low},
                    _OVERWRITE.format(asked_for(slot)) if asked_for(slot) else _INITIALIZE,
                )
            )
            return
        self._against_theory(slot, std, expected)
        self._repeated_units(slot, array)
        self._equal_tensors(slot, array)

    def _against_theory(self, slot: Slot, std: float, expected: float | None) -> None:
        exact = _exact_range(slot)
        bounds = [value for value in (expected, *(exact or ())) if value]
        if not bounds or std == 0:
            return
        noise = 1 + _STANDARD_ERRORS * math.sqrt(1 / (2 * math.prod(slot.shape)))
        theory = f"{expected:.3g} by its initializer" if expected else "its fans give " + _range(bounds)
        for code, ratio in (("too_small", min(bounds) / std), ("too_large", std / max(bounds))):
            severity = self._severity(code, ratio / noise)
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
        if exact and slot.role == "kernel" and not isinstance(slot.configured, Scheme) and expected:
            ratio = exact[0] / expected
            if self._severity("wrong_fans", ratio):
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
        columns = _columns(slot, array)
        if columns.shape[0] < 2 or columns.shape[1] < 2:
            return
        rng = np.random.default_rng(0)
        keys = columns.T @ rng.standard_normal(columns.shape[0]).astype("float32")
        order = np.argsort(keys, kind="stable")
        close = np.diff(keys[order]) <= 1e-5 * np.abs(keys).max()
        equal = np.zeros(len(keys), bool)
        for index in np.flatnonzero(close):
            one, other = order[index], order[index + 1]
            if np.allclose(columns[:, one], columns[:, other], rtol=1e-6, atol=0):
                equal[[one, other]] = True
        share = float(equal.mean())
        severity = self._severity("repeated_units", share)
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

    def _severity(self, code: str, figure: float) -> str | None:
        threshold = self._thresholds[code]
        if figure > threshold.error:
            return "error"
        return "warning" if figure > threshold.warning else None


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


def _columns(slot: Slot, array: Any) -> Any:
    """The weights as a matrix with a column for each unit."""
    rank = array.ndim
    inputs, outputs = slot.axes or (list(range(rank - 1)), [rank - 1])
    if slot.depthwise:  # each channel is a unit of its own
        outputs = [axis for axis in range(rank) if axis not in inputs]
    view = MatrixView(slot.shape, list(inputs), list(outputs))
    order = [*view.inputs, *view.others, *view.outputs]
    return np.transpose(array, order).reshape(-1, view.columns)


def _repeats_by_design(initializer: Any) -> bool:
    if isinstance(initializer, Scaled):
        return _repeats_by_design(initializer.initializer)
    return isinstance(initializer, (ICNR, Bilinear)) or getattr(initializer, "random", True) is False
