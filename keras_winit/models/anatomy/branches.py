"""Residual branches: where a signal is used twice, and both uses are added."""

import math
from dataclasses import replace
from typing import Any

import keras

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.ancestry import (
    Ancestry,
    LookUps,
    adds_a_table,
    enlarges,
    is_compared,
    is_spread,
    shown,
    union,
    weighs,
)
from keras_winit.models.anatomy.branch import (
    Addition,
    Branch,
    Branches,
    begins,
    behind,
    end_of,
    inside,
    kernels_in,
)
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.kinds import ADDING
from keras_winit.models.tracing.trace import Step, Value

# From so many branches on, each starts at 1/√L, so that all together are as large as the stream. With fewer
# they start as their fans say: at a given learning rate smaller ones learn more slowly, and there is little
# to add up. Measured: tests/benchmarks/published.py. Where the sum is normalized, the stream shrinks by what
# is added, and they start at 1/L, near what DeepNorm comes to: twelve such blocks, calibrated, end at 2.52 so
# and at 2.88 by 1/√L, 24 at 2.56 and 2.88 (residual.py there, three seeds).
SEVERAL = 4
# From so many on also the γ that ends each starts small, at this. With 16, a slim ResNet50 ends at 0.67, and
# with a γ of one at 1.69; with nine and ten, EfficientNetB0 and MobileNetV2 at 0.92 and 1.50, and with one at
# 1.16 and 1.81 (residual.py there); with six and three, the ResNet and the Xception of published.py end 1.3
# and 1.1 times as high with it as without.
ENDED, GAMMA = 8, 0.3


def branches(model: keras.layers.Layer, data: Any = None) -> Branches:
    """The residual branches of a model: where each is added, its kernels, and what normalizes it.

    A branch starts where a signal is used twice and ends where both uses are added; the use with fewer
    kernels in it, none or those of a projection, is the stream. Branches are found by what the model
    computes: the names and classes of its layers do not matter.

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
    return anatomy.once(_found)


def shares(anatomy: Anatomy) -> dict[Slot, float]:
    """What makes a branch start small, with what it is multiplied by.

    The last kernels of several branches; where a normalization ends the branch, its γ if there are many.
    """
    found = branches_of(anatomy)
    count = len(found)
    if count < SEVERAL:
        return {}
    kernels = {
        slot: 1 / count if branch.kind == "post-norm" else 1 / math.sqrt(count)
        for branch in found
        if branch.ends is None
        for slot in branch.last
    }
    return kernels | dict.fromkeys(ending_gains(anatomy) if count >= ENDED else (), GAMMA)


def last_kernels(anatomy: Anatomy) -> dict[Slot, Branch]:
    """The last kernels of each branch, and the branch; the first where a kernel is shared."""
    return {slot: branch for branch in reversed(branches_of(anatomy).branches) for slot in branch.last}


def ending_gains(anatomy: Anatomy) -> dict[Slot, Branch]:
    """The γ of each normalization that ends a branch, and the branch."""
    branches = reversed(branches_of(anatomy).branches)
    ends = {id(branch.ends): branch for branch in branches if branch.ends is not None}
    found = {}
    for slot in anatomy.slots:
        branch = ends.get(id(slot.layer))
        if branch is None or slot.role not in ("norm", "gain") or slot.variable.name == "beta":
            continue
        if slot.role == "norm" or any(use.step in branch.tail for use in anatomy.uses.of(slot.variable)):
            found[slot] = branch
    return found


def _found(anatomy: Anatomy) -> Branches:
    finder = _Finder(anatomy)
    return Branches(anatomy.model.name, finder.branches(), finder.others, anatomy.trace.reason)


class _Finder:
    """Goes through the additions of a model."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self._ancestry, self._look_ups = anatomy.once(Ancestry), anatomy.once(LookUps)
        self.others: list[Addition] = []

    def branches(self) -> list[Branch]:
        """The branches, in the order of the adds; the other additions are noted."""
        found: list[Branch] = []
        for step in self._anatomy.trace.steps:
            if step.kind in ADDING and step.outputs and keras.backend.is_float_dtype(step.outputs[0].dtype):
                found += self._at(step)
        streams = self._streams(found)
        return [
            replace(
                branch,
                number=index + 1,
                count=len(found),
                stream=stream,
                depth=streams.count(stream),
                place=streams[: index + 1].count(stream),
            )
            for index, (branch, stream) in enumerate(zip(found, streams, strict=True))
        ]

    def _at(self, step: Step) -> list[Branch]:
        """The branches that an addition ends; where it ends none, the reason is noted."""
        signals = self._ancestry.signals(step)
        found: list[Branch] | str = []
        if len(signals) > 1:
            found = self._ended(step, signals)
        elif step.kind == "Add" and adds_a_table(self._anatomy, step):
            found = "a weight or constant is added, such as a table of positions"
        if not isinstance(found, str):
            return found
        if step.kind != "Subtract":  # which is no addition, unless it ends a branch
            self.others.append(Addition(step, found))
        return []

    def _ended(self, step: Step, signals: list[Value]) -> list[Branch] | str:
        """The branches that end in a step, or why there are none."""
        total = step.outputs[0]
        if len(total.shape) < 2:
            return "numbers without features are added, as a loss to a loss"
        if weighs(total):
            return "a mask or bias is added to attention's scores"
        if is_compared(step):
            return "signals are compared"
        every = [self._ancestry.of(value) for value in signals]
        meetings = [
            self._ancestry.meetings(value, union(every[:index] + every[index + 1 :]))
            for index, value in enumerate(signals)
        ]
        if not any(meetings):
            if any(map(self._look_ups.tables, signals)):
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
        if is_spread(carried, total):
            return f"the shorter way, of shape {shown(carried)}, is spread over {shown(total)}"
        if len(streams) == len(signals):
            return "no kernel is on the ways to it from the signal that they share"
        joined = [value for index, value in enumerate(signals) if index not in streams]
        found = [self._branch(step, carried, value, lowest) for value in joined]
        branches = [each for each in found if not isinstance(each, str)]
        return branches or str(found[-1])

    def _branch(self, add: Step, carried: Value, joined: Value, cost: int) -> Branch | str:
        """A branch of one stream, its numbers left out, or why it is none."""
        ancestry, total = self._ancestry, add.outputs[0]
        meetings = ancestry.meetings(carried, ancestry.of(joined))
        if not meetings:
            return "what is added shares no signal"
        forks = [each for each in meetings if each.kernels == min(m.kernels for m in meetings)]
        fork = ancestry.bit(max((each.value for each in forks), key=_index))
        region = ancestry.between(joined, ancestry.of(carried))
        beside = ancestry.between(carried, ancestry.of(joined))
        if any(map(enlarges, region)) != any(map(enlarges, beside)):
            # Only one of both ways comes up from a smaller size, and not from the other way alone.
            back = ancestry.meetings(joined, ancestry.of(carried))
            if cost or any(not ancestry.of(each.value) & fork for each in back):
                return "features of two sizes are added, as in a feature pyramid"
        if cost and is_spread(joined, total):
            return f"the longer way, of shape {shown(joined)}, is spread over {shown(total)}"
        end = end_of(ancestry, joined, region)
        written = [value for step in end.steps for value in step.outputs]
        readers = {reader for value in written for reader in value.readers}
        if readers - {*region, add} or any(map(self._anatomy.trace.is_output, written)):
            return "what is added is read elsewhere too: no branch ends here"
        first, after = begins(ancestry, region, fork), behind(self._anatomy, total)
        within = inside(ancestry, joined, region)
        kinds = {"pre-norm": first, "normalized inside": within, "post-norm": after}
        kind = next((kind for kind, found in kinds.items() if found is not None), "plain")
        kernels, numbers = kernels_in(ancestry, region, joined, fork), (0, 0, 0, 0, 0)
        normalizations = first, end.normalization, after, within
        values = joined, carried, cost > 0, end.steps
        return Branch(*numbers, kind, add, kernels, end.last, *normalizations, *values)

    def _streams(self, branches: list[Branch]) -> list[int]:
        """The stream of each branch: that of the branch whose add it goes on from, or a new one."""
        ends, number = 0, dict[int, int]()  # of each add
        for branch in branches:
            add = branch.add.index
            if add not in number:
                met = self._ancestry.meetings(branch.carried, ends)
                before = [_index(each.value) for each in met if each.kernels <= 1]
                number[add] = number[max(before)] if before else max(number.values(), default=0) + 1
                ends |= 1 << add
        return [number[branch.add.index] for branch in branches]


def _index(value: Value) -> int:
    """The place of a value in the order of the call."""
    return -1 if value.step is None else value.step.index
