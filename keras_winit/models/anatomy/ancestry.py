"""What each value of a trace is computed from, and what an addition of two of them is."""

from collections import deque
from typing import NamedTuple

import keras
from keras import layers, tree

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.contractions import contraction
from keras_winit.models.anatomy.passing import activation_of, mixed, moves
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


def written(anatomy: Anatomy, step: Step, signals: list[Value]) -> list[Value]:
    """Of the signals that a step reads, those that it writes on.

    Not the gates that multiply them, nor the weights by which attention sums them.
    """
    if len(signals) < 2:
        return signals
    values = _values_of_attention(step, signals) or [
        each.value for each in mixed(step, anatomy.uses.is_signal)
    ]
    if values:
        return values
    if step.kind != "Multiply":
        return signals
    ranks = [_gating(value, step.outputs[0]) for value in signals]
    return [value for value, rank in zip(signals, ranks, strict=True) if rank == min(ranks)]


def _values_of_attention(step: Step, signals: list[Value]) -> list[Value]:
    if step.kind == "DotProductAttention":
        value = step.options.get("value", step.arguments[2] if len(step.arguments) > 2 else None)
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
        own = getattr(step.operation, "activation", None) if step.in_layer else None
        found = activation_of(step) or (None if own is keras.activations.linear else own)
        if found is not None:
            return 2 if resolve(found).name in _OPENING else 1
        if not moves(step):
            return 0
        step = step.inputs[0].step
    return 0


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


class LookUps:
    """What is looked up in tables, of all values of a model.

    Args:
        anatomy: the model taken apart.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._ancestry = anatomy.once(Ancestry)
        slots = [slot for slot in anatomy.slots if slot.role == "embedding"]
        self._tables = {id(step): slot for slot in slots for step in anatomy.steps(slot)}

    def is_one(self, step: Step) -> bool:
        """Whether a step looks rows up."""
        return id(step) in self._tables

    def tables(self, value: Value) -> set[Slot]:
        """The embeddings whose rows a value is, or is a sum of; none where anything else is in it."""
        found, waiting, seen = set[Slot](), [value], set[int]()
        while waiting:
            step = waiting.pop().step
            if step is None or id(step) in self._ancestry.kernels:
                return set()
            if id(step) in self._tables:
                found.add(self._tables[id(step)])
            elif step.index not in seen:
                seen.add(step.index)
                signals = self._ancestry.signals(step)
                if not signals:
                    return set()
                waiting += signals
        return found


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
        sums = [each for each in sums if not each & tables] + [
            tables.union(*(each for each in sums if each & tables))
        ]
    found: dict[Slot, Slot] = {}
    for tables in sums:
        largest = max(tables, key=_rows)
        found |= {slot: largest for slot in tables if slot is not largest}
    return found


def added_whole(anatomy: Anatomy, step: Step) -> set[Slot]:
    """The tables that an addition adds as they are, a row for each place."""
    slots = [slot for slot in anatomy.slots if slot.role == "other" and len(slot.shape) > 1]
    return {slot for slot in slots if slot.use is not None and slot.use.step is step}


def _rows(slot: Slot) -> tuple[bool, int]:
    return slot.role == "embedding", slot.shape[0]


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
    """Whether a sum is that of attention's scores: a softmax makes weights of it, for other signals."""
    waiting, seen = [(total, 0)], dict[int, int]()  # by how few sums each step was reached
    while waiting:
        value, sums = waiting.pop()
        for step in value.readers:
            passed = sums + (step.kind in ADDING)
            if passed >= seen.get(step.index, _MASKS + 1):
                continue
            seen[step.index] = passed
            if step.kind == "Softmax":
                return any(
                    contraction(reader) is not None for each in step.outputs for reader in _readers(each)
                )
            if step.kind in ELEMENTWISE_OPERATIONS | PROPORTIONAL_OPERATIONS:
                waiting += [(each, passed) for each in step.outputs]
    return False


def _readers(value: Value) -> list[Step]:
    """The steps that read a value, through dropout and the like."""
    found = []
    for step in value.readers:
        found += [each for output in step.outputs for each in _readers(output)] if moves(step) else [step]
    return found


def enlarges(step: Step) -> bool:
    """Whether a step puts out more places than it reads."""
    return isinstance(step.operation, ENLARGING) or step.kind in ENLARGING_OPERATIONS


def shown(value: Value) -> str:
    """The shape of a value, in words."""
    return "×".join(map(str, value.shape))


def is_compared(step: Step) -> bool:
    """Whether a difference is an error, as that of a loss."""
    return step.kind == "Subtract" and bool({reader.kind for reader in step.outputs[0].readers} & _ERRORS)
