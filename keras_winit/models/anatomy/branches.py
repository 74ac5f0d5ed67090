"""Residual branches: where a signal is used twice, and both uses are added."""

import math
from typing import Any, NamedTuple

import keras
from keras import tree

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.ancestry import Ancestry, Meeting
from keras_winit.models.anatomy.branch import Addition, Branch, Branches
from keras_winit.models.anatomy.branch_parts import begins, behind, end_of, inside, kernels_in
from keras_winit.models.anatomy.contractions import contraction
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.kinds import (
    ADDING,
    ELEMENTWISE_OPERATIONS,
    ENLARGING,
    ENLARGING_OPERATIONS,
    PROPORTIONAL,
    PROPORTIONAL_OPERATIONS,
)
from keras_winit.models.tracing.trace import Step, Value

# How large a branch starts beside its stream; where there are many, so that all together are as large as it.
# Measured: tests/benchmarks/published.py.
SHARE = 0.3
_ERRORS = {"Square", "Power", "Abs", "Absolute", "Multiply"}  # of a difference, as a loss has it


def branches(model: keras.layers.Layer, data: Any = None) -> Branches:
    """The residual branches of a model: where each is added, its kernels, and what normalizes it.

    A branch starts where a signal is used twice and ends where both uses are added; the use with fewer
    kernels in it, none or those of a projection, is the stream. All is found by what the model computes, so
    that it does not matter how layers are called, or whose they are.

    Args:
        model: a built model of any kind, or a built layer.
        data: what it is called with, an array or a nest of arrays, of which only the shapes count; None
            takes the shapes that it was built with.

    Returns:
        A `Branches`: a sequence of `Branch`es with `others`; printing it shows tables.

    Raises:
        TypeError, ValueError: for what is no model, and one that is not built.

    Example:

    >>> inputs = x = keras.Input((8, 8, 4))
    >>> for _ in range(2):
    ...     y = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    ...     y = keras.layers.Conv2D(4, 3, padding="same", name=f"write_{_}")(y)
    ...     x = keras.layers.Add()([x, y])
    >>> found = branches(keras.Model(inputs, x))
    >>> [(branch.number, branch.count, branch.kind, branch.last[0].layer.name) for branch in found]
    [(1, 2, 'plain', 'write_0'), (2, 2, 'plain', 'write_1')]

    Source: K. He, X. Zhang, S. Ren, J. Sun 2015, "Deep residual learning for image recognition",
    arXiv:1512.03385; R. Xiong et al. 2020, "On layer normalization in the transformer architecture",
    arXiv:2002.04745, for pre-norm and post-norm.
    """
    return branches_of(Anatomy(model, data))


def branches_of(anatomy: Anatomy) -> Branches:
    """The residual branches of a model taken apart."""
    finder = _Finder(anatomy)
    return Branches(anatomy.model.name, finder.branches(), finder.others, anatomy.trace.reason)


def shares(anatomy: Anatomy) -> dict[Slot, float]:
    """For the last kernels of branches that no normalization ends, what they are to be multiplied by."""
    found = branches_of(anatomy)
    share = min(SHARE, 1 / math.sqrt(len(found))) if len(found) else 1.0
    return {slot: share for branch in found if branch.ends is None for slot in branch.last}


class _Pair(NamedTuple):
    """A branch before it is numbered: its add, its end and its stream there, and what it starts from."""

    add: Step
    joined: Value
    carried: Value
    projected: bool
    fork: Value


class _Finder:
    """Goes through the additions of a model."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self._ancestry = Ancestry(anatomy)
        self.others: list[Addition] = []

    def branches(self) -> list[Branch]:
        """The branches, in the order of the adds; the other additions are noted."""
        pairs: list[_Pair] = []
        for step in self._anatomy.trace.steps:
            if step.kind in ADDING and step.outputs and keras.backend.is_float_dtype(step.outputs[0].dtype):
                pairs += self._at(step)
        streams = self._streams(pairs)
        places: dict[int, int] = {}
        found = []
        for number, (pair, stream) in enumerate(zip(pairs, streams, strict=True), 1):
            places[stream] = places.get(stream, 0) + 1
            counts = number, len(pairs), stream, streams.count(stream), places[stream]
            found.append(self._branch(pair, counts))
        return found

    def _at(self, step: Step) -> list[_Pair]:
        """The branches that an addition ends; where it ends none, the reason is noted."""
        signals = self._ancestry.signals(step)
        if len(signals) < 2:
            if step.kind == "Add" and self._adds_a_table(step):
                self.others.append(
                    Addition(step, "a weight or constant is added, such as a table of positions")
                )
            return []
        found = self._pairs(step, signals)
        if isinstance(found, str):
            if step.kind != "Subtract":  # which is no addition, unless it ends a branch
                self.others.append(Addition(step, found))
            return []
        return found

    def _adds_a_table(self, step: Step) -> bool:
        """Whether what is added to a signal has a row for each place, as no bias has."""
        given = tree.flatten((step.arguments, step.options))
        tables = [
            each for each in given if not isinstance(each, Value) or not self._anatomy.uses.is_signal(each)
        ]
        shapes = [tuple(getattr(each, "shape", ())) for each in tables]
        return any(len(shape) > 1 and shape[-2] > 1 and shape[-1] > 1 for shape in shapes)

    def _pairs(self, step: Step, signals: list[Value]) -> list[_Pair] | str:
        """The branches that end in a step, or why there are none."""
        total = step.outputs[0]
        if len(total.shape) < 2:
            return "numbers without features are added, as a loss to a loss"
        if _weighs(total):
            return "a mask or bias is added to attention's scores"
        if step.kind == "Subtract" and {reader.kind for reader in total.readers} & _ERRORS:
            return "signals are compared"
        every = [self._ancestry.of(value) for value in signals]
        meetings = [
            self._ancestry.meetings(value, _all(every[:index] + every[index + 1 :]))
            for index, value in enumerate(signals)
        ]
        if not any(meetings):
            if any(map(self._is_looked_up, signals)):
                return "an embedding is added, such as of positions: it shares no signal with the other"
            return "what is added shares no signal"
        costs = [min((each.kernels for each in found), default=None) for found in meetings]
        lowest = min(cost for cost in costs if cost is not None)
        streams = [index for index, cost in enumerate(costs) if cost == lowest]
        if lowest > 1 or (lowest and len(streams) > 1):
            return (
                f"there are kernels on every way to it, {lowest} or more: ways side by side, without a stream"
            )
        carried = max((signals[index] for index in streams), key=_index)
        if _is_spread(carried, total):
            return f"the shorter way, of shape {_shown(carried)}, is spread over {_shown(total)}"
        if len(streams) == len(signals):
            return "no kernel is on the ways to it from the signal that they share"
        found: list[_Pair] = []
        reason = ""
        for index, value in enumerate(signals):
            if index not in streams:
                pair = self._pair(step, carried, value, lowest)
                reason = pair if isinstance(pair, str) else reason
                found += [] if isinstance(pair, str) else [pair]
        return found or reason

    def _pair(self, step: Step, carried: Value, joined: Value, cost: int) -> _Pair | str:
        """A branch of one stream, or why it is none."""
        ancestry = self._ancestry
        meetings = ancestry.meetings(carried, ancestry.of(joined))
        if not meetings:
            return "what is added shares no signal"
        forks = [each for each in meetings if each.kernels == min(m.kernels for m in meetings)]
        fork = max((each.value for each in forks), key=_index)
        pair = _Pair(step, joined, carried, cost > 0, fork)
        region = ancestry.between(joined, ancestry.of(carried))
        if self._is_pyramid(pair, region):
            return "features of two sizes are added, as in a feature pyramid"
        if cost and _is_spread(joined, step.outputs[0]):
            return f"the longer way, of shape {_shown(joined)}, is spread over {_shown(step.outputs[0])}"
        tail = end_of(self._anatomy, ancestry, joined, region).steps
        if self._is_read_elsewhere(step, region, tail):
            return "what is added is read elsewhere too: no branch ends here"
        return pair

    def _is_pyramid(self, pair: _Pair, region: list[Step]) -> bool:
        """Whether only one of both ways comes up from a smaller size, and not from the other alone."""
        ancestry = self._ancestry
        beside = ancestry.between(pair.carried, ancestry.of(pair.joined))
        if any(map(_enlarges, region)) == any(map(_enlarges, beside)):
            return False
        fork = ancestry.bit(pair.fork)
        meetings: list[Meeting] = ancestry.meetings(pair.joined, ancestry.of(pair.carried))
        return pair.projected or any(not ancestry.of(each.value) & fork for each in meetings)

    def _is_read_elsewhere(self, add: Step, region: list[Step], tail: tuple[Step, ...]) -> bool:
        """Whether what the last kernels of a branch write is read by anything but the branch and its add."""
        inside = {id(step) for step in region} | {id(add)}
        values = [value for step in tail for value in step.outputs]
        if any(map(self._anatomy.trace.is_output, values)):
            return True
        return any(id(reader) not in inside for value in values for reader in value.readers)

    def _is_looked_up(self, value: Value) -> bool:
        """Whether a value is what an embedding puts out, or a sum of such."""
        waiting = [value]
        tables = {
            id(step)
            for slot in self._anatomy.slots
            if slot.role == "embedding"
            for step in self._anatomy.steps(slot)
        }
        while waiting:
            step = waiting.pop().step
            if step is None or id(step) in self._ancestry.kernels:
                return False
            if id(step) not in tables:
                signals = self._ancestry.signals(step)
                if not signals:
                    return False
                waiting += signals
        return True

    def _streams(self, pairs: list[_Pair]) -> list[int]:
        """The stream of each branch: that of the branch whose add it goes on from, or a new one."""
        ancestry, ends = self._ancestry, 0
        number: dict[int, int] = {}  # of each add
        found: list[int] = []
        for pair in pairs:
            if pair.add.index not in number:
                before = [
                    each.value.step.index
                    for each in ancestry.meetings(pair.carried, ends)
                    if each.kernels <= 1 and each.value.step is not None
                ]
                number[pair.add.index] = number[max(before)] if before else max(found, default=0) + 1
                ends |= 1 << pair.add.index
            found.append(number[pair.add.index])
        return found

    def _branch(self, pair: _Pair, counts: tuple[int, int, int, int, int]) -> Branch:
        anatomy, ancestry = self._anatomy, self._ancestry
        region, fork = ancestry.between(pair.joined, ancestry.of(pair.carried)), ancestry.bit(pair.fork)
        end = end_of(anatomy, ancestry, pair.joined, region)
        first, after = begins(anatomy, ancestry, region, fork), behind(anatomy, pair.add.outputs[0])
        within = inside(anatomy, ancestry, pair.joined, region)
        kind = "plain"
        if first is not None:
            kind = "pre-norm"
        elif within is not None:
            kind = "normalized inside"
        elif after is not None:
            kind = "post-norm"
        kernels = kernels_in(ancestry, region, pair.joined, fork)
        normalizations = first, end.normalization, after, within
        values = pair.joined, pair.carried, pair.projected, end.steps
        return Branch(*counts, kind, pair.add, kernels, end.last, *normalizations, *values)


def _all(every: list[int]) -> int:
    result = 0
    for bits in every:
        result |= bits
    return result


def _index(value: Value) -> int:
    """The place of a value in the order of the call."""
    return -1 if value.step is None else value.step.index


def _is_spread(value: Value, total: Value) -> bool:
    """Whether a value is repeated along an axis of a sum; sizes that are not known are the same."""
    sizes = zip(value.shape, total.shape, strict=False)
    unlike = any(one != other for one, other in sizes if one is not None and other is not None)
    return len(value.shape) != len(total.shape) or unlike


def _weighs(total: Value) -> bool:
    """Whether a sum is that of attention's scores: a softmax makes weights of it, for other signals."""
    waiting, seen = [total], set[int]()
    while waiting:
        for step in waiting.pop().readers:
            if step.index in seen:
                continue
            seen.add(step.index)
            if step.kind == "Softmax":
                return any(
                    contraction(reader) is not None for each in step.outputs for reader in _readers(each)
                )
            if (
                step.kind in ELEMENTWISE_OPERATIONS
                or step.kind in PROPORTIONAL_OPERATIONS
                or step.kind == "Cast"
            ):
                waiting += step.outputs
    return False


def _readers(value: Value) -> list[Step]:
    """The steps that read a value, through dropout and the like."""
    found = []
    for step in value.readers:
        through = isinstance(step.operation, PROPORTIONAL) or step.kind in (*PROPORTIONAL_OPERATIONS, "Cast")
        found += [each for output in step.outputs for each in _readers(output)] if through else [step]
    return found


def _enlarges(step: Step) -> bool:
    return isinstance(step.operation, ENLARGING) or step.kind in ENLARGING_OPERATIONS


def _shown(value: Value) -> str:
    return "×".join(map(str, value.shape))
