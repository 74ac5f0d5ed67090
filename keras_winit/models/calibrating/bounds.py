"""Kernels that `calibrate` would have to make far too large, and what makes their signal so small."""

import math
from typing import Any

import numpy as np

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.anatomy.sources import averaged, sources
from keras_winit.models.running.moments import moments
from keras_winit.models.running.undo import exact_value
from keras_winit.models.tracing.kinds import NORMALIZATIONS
from keras_winit.models.tracing.trace import Step
from keras_winit.support.host import host_array

MOST = 10.0  # times what a kernel's fans say for signals of a deviation of one
_SMALL = 0.1  # of what multiplies a signal


class Bounds:
    """Which factors are too large. A kernel that reads the model's input may get any: data has any scale.

    Args:
        anatomy: the model taken apart.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy

    def reason(self, slot: Slot, factor: float, target: float) -> str | None:
        """Why a kernel is not multiplied by a factor; None where it may be."""
        if factor <= 1 or slot.fans is None or slot.role != "kernel":
            return None
        size = _size(slot)
        if factor * size <= MOST * max(target, 1.0):
            return None
        steps = self._anatomy.steps(slot)
        if not steps or self._reads_input(steps[0]):
            return None
        if factor * size <= MOST * max(target, 1.0) * math.sqrt(averaged(self._anatomy, steps[0])):
            return None
        cause = self._cause(steps[0])
        return (
            f"{factor:.3g} times as large it would be too large for its fans: {cause} makes its signal small"
        )

    def most(self, slot: Slot, *, answers: bool) -> float:
        """The factor up to which a kernel is no larger than its fans say; any, if it reads the data.

        For answers that is Glorot's size, for other kernels that of an orthogonal one.
        """
        steps = self._anatomy.steps(slot)
        if slot.fans is None or not steps or self._reads_input(steps[0]):
            return math.inf
        fan_in, fan_out = slot.fans
        size = math.sqrt(2 * fan_in / (fan_in + fan_out)) if answers else math.sqrt(fan_in / max(slot.fans))
        return max(1.0, size / max(_size(slot), 1e-30))

    def _reads_input(self, step: Step) -> bool:
        """Whether a signal comes from the model's input with its scale."""
        return any(value.source == "input" for value in sources(self._anatomy, step))

    def _cause(self, step: Step) -> str:
        """What makes a step's signal small: the nearest small gain, else the nearest layer."""
        found = sources(self._anatomy, step)
        for value in found:
            if value.step is None:
                continue
            for variable in value.step.variables:
                weights = host_array(exact_value(variable))
                if _is_gain(value.step, variable, self._anatomy) and np.max(np.abs(weights)) < _SMALL:
                    return f"{variable.path}, at most {np.max(np.abs(weights)):.3g},"
        last = next((value.step for value in reversed(found) if value.step is not None), None)
        return "what it reads" if last is None else f"{last.operation.name}, or what comes before it,"


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
        kernels = [getattr(step.operation, name, None) for name in ("kernel", "embeddings")]
        return any(variable is each for each in kernels)
    return any(use.step is step and use.role in ("gain", "kernel") for use in anatomy.uses.of(variable))
