"""Residual branches: where a signal is used twice, and both uses are added."""

import math
from typing import Any, NamedTuple

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.kinds import NORMALIZATIONS
from keras_winit.models.tracing.trace import Step, Value

# How large a branch starts beside its stream; where there are many, so that all together are as large as it.
# Measured: tests/benchmarks/published.py.
SHARE = 0.3


class Branch(NamedTuple):
    """One residual branch.

    Attributes:
        add: the step where it is added to its stream, the use with fewer kernels in it.
        last: its last kernels, behind which nothing of it has another.
        normalization: what normalizes it at its end, or None.
    """

    add: Step
    last: tuple[Slot, ...]
    normalization: Any


def branches(anatomy: Anatomy) -> list[Branch]:
    """The residual branches of a model. Sums of what shares no signal, such as embeddings, are none."""
    ancestry = _Ancestry(anatomy)
    found = []
    for step in anatomy.trace.steps:
        signals = [value for value in step.inputs if anatomy.uses.is_signal(value)]
        if step.kind != "Add" or len(signals) != 2:
            continue
        counts = ancestry.kernels_apart(*signals)
        if counts is None or counts[0] == counts[1]:
            continue
        found.append(_branch(anatomy, ancestry, step, signals[counts[0] < counts[1]]))
    return found


def shares(anatomy: Anatomy) -> dict[Slot, float]:
    """For the last kernels of branches that no normalization ends, what they are to be multiplied by."""
    found = branches(anatomy)
    share = min(SHARE, 1 / math.sqrt(len(found))) if found else 1.0
    return {slot: share for branch in found if branch.normalization is None for slot in branch.last}


class _Ancestry:
    """All that each value is computed from, as the bits of a number: the steps, then the inputs."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.kernels: dict[int, list[Slot]] = {}
        for slot in anatomy.slots:
            if slot.role == "kernel":
                for step in anatomy.steps(slot):
                    self.kernels.setdefault(id(step), []).append(slot)
        steps = anatomy.trace.steps
        self._inputs: dict[int, int] = {}
        self._before: dict[int, int] = {}
        self._mask = sum(1 << step.index for step in steps if id(step) in self.kernels)
        for step in steps:
            bits = 1 << step.index
            for value in filter(anatomy.uses.is_signal, step.inputs):
                bits |= self._of(value, len(steps))
            self._before[id(step)] = bits

    def _of(self, value: Value, first: int) -> int:
        if value.step is not None:
            return self._before.get(id(value.step), 0)
        return 1 << (first + self._inputs.setdefault(id(value), len(self._inputs)))

    def kernels_apart(self, one: Value, other: Value) -> tuple[int, int] | None:
        """How many kernels only the one and only the other comes from; None if they share nothing."""
        left, right = (self._of(value, len(self._before)) for value in (one, other))
        if not left & right:
            return None
        return (left & ~right & self._mask).bit_count(), (right & ~left & self._mask).bit_count()


def _branch(anatomy: Anatomy, ancestry: _Ancestry, add: Step, end: Value) -> Branch:
    waiting, seen = [end], set()
    last: dict[Slot, None] = {}
    normalization = None
    while waiting:
        step = waiting.pop().step
        if step is None or id(step) in seen:
            continue
        seen.add(id(step))
        if id(step) in ancestry.kernels:
            slots = ancestry.kernels[id(step)]
            last.update((slot, None) for slot in slots if not (slot.depthwise and len(slots) > 1))
            continue
        if normalization is None and isinstance(step.operation, NORMALIZATIONS):
            normalization = step.operation
        waiting += [value for value in step.inputs if anatomy.uses.is_signal(value)]
    return Branch(add, tuple(last), normalization)
