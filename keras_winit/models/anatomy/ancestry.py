"""What each value of a trace is computed from: which steps, which kernels, and by how many kernels."""

from collections import deque
from typing import NamedTuple

import keras

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.anatomy.writing import written
from keras_winit.models.tracing.trace import Step, Value


class Meeting(NamedTuple):
    """Where one value first comes from what another comes from too.

    Attributes:
        value: what both come from.
        kernels: the fewest kernels between it and the one.
    """

    value: Value
    kernels: int


class Ancestry:
    """All that each value is computed from, as the bits of a number: the steps, then the inputs.

    Only real numbers count: what is computed from the same tokens or the same mask shares no signal.

    Args:
        anatomy: the model taken apart.

    Attributes:
        kernels: for each step, by its id, the kernels that meet the signal in it; none for a part that is
            not looked into and has weights.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self.kernels: dict[int, list[Slot]] = {}
        for slot in anatomy.slots:
            if slot.role == "kernel":
                for step in anatomy.steps(slot):
                    self.kernels.setdefault(id(step), []).append(slot)
        for step in anatomy.trace.opaque:
            if any(len(variable.shape) > 1 for variable in step.variables):
                self.kernels.setdefault(id(step), [])
        self._count = len(anatomy.trace.steps)
        self._inputs: dict[int, int] = {}
        self._before: dict[int, int] = {}
        self._signals: dict[int, list[Value]] = {}  # that each step reads
        for step in anatomy.trace.steps:
            bits = 1 << step.index
            for value in self.signals(step):
                bits |= self.of(value)
            self._before[id(step)] = bits

    def signals(self, step: Step) -> list[Value]:
        """The signals of real numbers that a step reads, each once."""
        if id(step) not in self._signals:
            given = dict.fromkeys(step.inputs)
            self._signals[id(step)] = [value for value in given if self._is_real(value)]
        return self._signals[id(step)]

    def _is_real(self, value: Value) -> bool:
        return self._anatomy.uses.is_signal(value) and bool(keras.backend.is_float_dtype(value.dtype))

    def written(self, step: Step) -> list[Value]:
        """Of the signals that a step reads, those that it writes on."""
        return written(self._anatomy, step, self.signals(step))

    def of(self, value: Value) -> int:
        """All that a value comes from, and itself."""
        return self.bit(value) if value.step is None else self._before.get(id(value.step), 0)

    def bit(self, value: Value) -> int:
        """A value itself: the step that puts it out, or an input."""
        if value.step is not None:
            return 1 << value.step.index
        return 1 << (self._count + self._inputs.setdefault(id(value), len(self._inputs)))

    def meetings(self, value: Value, others: int) -> list[Meeting]:
        """Going back from a value by what is written on, the first on every way that are among others."""
        found: list[Meeting] = []
        waiting, seen = deque([(value, 0)]), set()
        while waiting:
            here, count = waiting.popleft()
            if id(here) in seen:
                continue
            seen.add(id(here))
            if self.bit(here) & others:
                found.append(Meeting(here, count))
            elif here.step is not None and id(here.step) in self.kernels:
                waiting.extend((each, count + 1) for each in self.written(here.step))
            elif here.step is not None:  # no kernel more: before all that have one
                waiting.extendleft((each, count) for each in self.written(here.step))
        return found

    def between(self, value: Value, others: int) -> list[Step]:
        """The steps that a value is computed in from others, in order."""
        found: dict[int, Step] = {}
        waiting = [value]
        while waiting:
            here = waiting.pop()
            step = here.step
            if step is None or step.index in found or self.bit(here) & others:
                continue
            found[step.index] = step
            waiting += self.signals(step)
        return [found[index] for index in sorted(found)]
