"""Weights that start at zero: which of them learn all the same.

A zero kernel puts out nothing, and may be meant to: at the end of a residual branch, or of the model. It
learns from its gradient ∂L/∂W = Σ a·δᵀ, if that is not zero and differs between its units; once it has taken
a step, so does what it kept the gradient from.
"""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.diagnosing.units import columns
from keras_winit.models.running.undo import exact_value
from keras_winit.support.host import host_array

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
