"""What each value of a trace is computed from, and what an addition is."""

import functools
import operator
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from keras import backend, layers, tree

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.contractions import contraction
from keras_winit.models.anatomy.passing import applied, mixed, moves, onward
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.kinds import (
    ADDING,
    ELEMENTWISE_OPERATIONS,
    ENLARGING,
    ENLARGING_OPERATIONS,
    PROPORTIONAL_OPERATIONS,
)
from keras_winit.models.tracing.trace import Step, Value
from keras_winit.theory.activations import resolve

_OPENING = ("sigmoid", "hard_sigmoid", "softmax")  # between zero and one, what is to pass of another signal


def _values_of_attention(step: Step, signals: list[Value]) -> list[Value]:
    if step.kind == "DotProductAttention":
        value = step.arguments[2] if len(step.arguments) > 2 else step.options.get("value")
        return [value] if isinstance(value, Value) else []
    if isinstance(step.operation, (layers.Attention, layers.AdditiveAttention)):
        return signals[1:2]
    return []


def _gating(value: Value, product: Value) -> int:
    """How much a factor is a gate: spread over the other, between zero and one, or behind an activation."""
    if value.shape != product.shape:
        return 3
    step = value.step
    while step is not None and not step.opaque:
        found = applied(step)
        if found is not None:
            return 2 if resolve(found).name in _OPENING else 1
        if not moves(step):
            return 0
        step = step.inputs[0].step
    return 0


class Meeting(NamedTuple):
    """What one value and another both come from, and the fewest kernels between it and the one."""

    value: Value
    kernels: int


class Ancestry:
    """All that each value is computed from, as the bits of a number: the steps, then the inputs.

    Only real numbers count: what is computed from the same tokens or the same mask shares no signal.

    Attributes:
        kernels: by step those that meet the signal there; none for an opaque one with weights.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.kernels: dict[Step, list[Slot]] = {}
        for slot in anatomy.slots:
            for step in anatomy.steps(slot) if slot.role == "kernel" else []:
                self.kernels.setdefault(step, []).append(slot)
        for step in anatomy.trace.opaque:
            if any(len(variable.shape) > 1 for variable in step.variables):
                self.kernels.setdefault(step, [])
        self._count = len(anatomy.trace.steps)
        self._inputs: dict[Value, int] = {}
        self._before: dict[Step, int] = {}
        self._signals: dict[Step, list[Value]] = {}  # that each step reads
        for step in anatomy.trace.steps:
            self._before[step] = 1 << step.index | union(map(self.of, self.signals(step)))

    def signals(self, step: Step) -> list[Value]:
        """The signals of real numbers that a step reads, each once."""
        if step not in self._signals:
            given = dict.fromkeys(self.anatomy.uses.signals(step))
            self._signals[step] = [value for value in given if backend.is_float_dtype(value.dtype)]
        return self._signals[step]

    def written(self, step: Step) -> list[Value]:
        """Of the signals that a step reads, those that it writes on.

        Not the gates that multiply them, nor the weights by which attention sums them.
        """
        signals = self.signals(step)
        if len(signals) < 2:
            return signals
        values = _values_of_attention(step, signals)
        values = values or [each.value for each in mixed(step, self.anatomy.uses.is_signal)]
        if values or step.kind != "Multiply":
            return values or signals
        ranks = [_gating(value, step.outputs[0]) for value in signals]
        return [value for value, rank in zip(signals, ranks, strict=True) if rank == min(ranks)]

    def of(self, value: Value) -> int:
        """All that a value comes from, and itself."""
        return self.bit(value) if value.step is None else self._before.get(value.step, 0)

    def bit(self, value: Value) -> int:
        """A value itself: the step that puts it out, or an input."""
        if value.step is not None:
            return 1 << value.step.index
        return 1 << (self._count + self._inputs.setdefault(value, len(self._inputs)))

    def meetings(self, value: Value, others: int) -> list[Meeting]:
        """Going back from a value by what is written on, the first on every way that are among others."""
        found: list[Meeting] = []
        waiting, seen = deque([(value, 0)]), set()
        while waiting:
            here, count = waiting.popleft()
            if here in seen:
                continue
            seen.add(here)
            before = self.written(here.step) if here.step is not None else []
            if self.bit(here) & others:
                found.append(Meeting(here, count))
            elif here.step in self.kernels:
                waiting.extend((each, count + 1) for each in before)
            else:  # no kernel more: before all that have one
                waiting.extendleft((each, count) for each in before)
        return found

    def between(self, value: Value, others: int) -> list[Step]:
        """The steps that a value is computed in from others, in order."""
        found, waiting = set[Step](), [value]
        while waiting:
            here = waiting.pop()
            if here.step is not None and here.step not in found and not self.bit(here) & others:
                found.add(here.step)
                waiting += self.signals(here.step)
        return sorted(found, key=lambda step: step.index)


def union(every: Iterable[int]) -> int:
    """The bits that any of several numbers has."""
    return functools.reduce(operator.or_, every, 0)


class LookUps:
    """What is looked up in a model's tables."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._ancestry = anatomy.once(Ancestry)
        slots = [slot for slot in anatomy.slots if slot.role == "embedding"]
        self._tables = {step: slot for slot in slots for step in anatomy.steps(slot)}
        self._found: dict[Value, set[Slot]] = {}

    def is_one(self, step: Step) -> bool:
        """Whether a step looks rows up."""
        return step in self._tables

    def tables(self, value: Value) -> set[Slot]:
        """The embeddings whose rows a value is, or is a sum of; none where anything else is in it."""
        if value not in self._found:
            self._found[value] = self._summed(value)
        return self._found[value]

    def _summed(self, value: Value) -> set[Slot]:
        found, waiting, seen = set[Slot](), [value], set[Step]()
        while waiting:
            step = waiting.pop().step
            if step is None or step in self._ancestry.kernels:
                return set()
            if step in self._tables:
                found.add(self._tables[step])
            elif step not in seen:
                seen.add(step)
                signals = self._ancestry.signals(step)
                if not signals or (_multiplies(step) and len(set().union(*map(self.tables, signals))) > 1):
                    return set()
                waiting += signals
        return found


def _multiplies(step: Step) -> bool:
    """Whether a step is a product, which is no sum of what it multiplies."""
    return step.kind in {*ELEMENTWISE_OPERATIONS, "Dot"} - ADDING or contraction(step) is not None


def added_to(anatomy: Anatomy) -> dict[Slot, Slot]:
    """For each table that is added to a larger one, as positions are to tokens, the one of most rows."""
    if not any(slot.role == "embedding" for slot in anatomy.slots):
        return {}
    ancestry, look_ups = anatomy.once(Ancestry), anatomy.once(LookUps)
    sums: list[set[Slot]] = []
    for step in anatomy.trace.steps:
        if step.kind not in ADDING:
            continue
        tables = added_whole(anatomy, step).union(*map(look_ups.tables, ancestry.signals(step)))
        if not tables:  # signals that kernels have made, as behind a branch
            continue
        joined = [each for each in sums if each & tables]
        sums = [each for each in sums if each not in joined] + [tables.union(*joined)]
    found: dict[Slot, Slot] = {}
    for tables in sums:  # in the order of the model: of tables as large the first counts
        ordered = [slot for slot in anatomy.slots if slot in tables]
        largest = max(ordered, key=lambda slot: (slot.role == "embedding", slot.shape[0]))
        found |= {slot: largest for slot in ordered if slot is not largest}
    return found


def added_whole(anatomy: Anatomy, step: Step) -> set[Slot]:
    """The tables that an addition adds as they are, a row for each place."""
    slots = [slot for slot in anatomy.slots if slot.role == "other" and len(slot.shape) > 1]
    return {slot for slot in slots if slot.use is not None and slot.use.step is step}


_MASKS = 3  # that are added to scores, at most, before a softmax
_ERRORS = {"Square", "Power", "Abs", "Absolute", "Multiply"}  # of a difference, as a loss has it


def adds_a_table(anatomy: Anatomy, step: Step) -> bool:
    """Whether what is added to a signal has a row for each place, as no bias has."""
    given = tree.flatten((step.arguments, step.options))
    tables = [each for each in given if not isinstance(each, Value) or not anatomy.uses.is_signal(each)]
    shapes = [tuple(getattr(each, "shape", ())) for each in tables]
    return any(len(shape) > 1 and shape[-2] > 1 and shape[-1] > 1 for shape in shapes)


def is_spread(value: Value, total: Value) -> bool:
    """Whether a value is repeated along an axis of a sum; sizes that are not known are the same."""
    sizes = zip(value.shape, total.shape, strict=False)
    unlike = any(one != other for one, other in sizes if one is not None and other is not None)
    return len(value.shape) != len(total.shape) or unlike


def weighs(total: Value) -> bool:
    """Whether a sum is one of attention's scores: a softmax makes weights of it, for other signals."""
    waiting, seen = [(total, 0)], dict[Step, int]()  # by how few sums each step was reached
    while waiting:
        value, sums = waiting.pop()
        for step in value.readers:
            passed = sums + (step.kind in ADDING)
            if passed >= seen.get(step, _MASKS + 1):
                continue
            seen[step] = passed
            if step.kind == "Softmax":
                return any(map(contraction, onward(step.outputs, moves)))
            if step.kind in ELEMENTWISE_OPERATIONS | PROPORTIONAL_OPERATIONS:
                waiting += [(each, passed) for each in step.outputs]
    return False


def enlarges(step: Step) -> bool:
    """Whether a step puts out more places than it reads."""
    return isinstance(step.operation, ENLARGING) or step.kind in ENLARGING_OPERATIONS


def shown(value: Value) -> str:
    """The shape of a value, in words."""
    return "×".join(map(str, value.shape))


def is_compared(step: Step) -> bool:
    """Whether a difference is an error, as that of a loss."""
    return step.kind == "Subtract" and bool({reader.kind for reader in step.outputs[0].readers} & _ERRORS)
