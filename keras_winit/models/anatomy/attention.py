"""Attention, by what is computed: which kernels put out its queries, keys and values, and read its result."""

import math
from typing import NamedTuple

from keras import layers

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.ancestry import Ancestry
from keras_winit.models.anatomy.contractions import contraction
from keras_winit.models.anatomy.passing import mixed
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.kinds import (
    ELEMENTWISE_OPERATIONS,
    PROPORTIONAL,
    TRANSPARENT_OPERATIONS,
)
from keras_winit.models.tracing.trace import Step, Value

_PACKED = 3  # query, key and value in one kernel
_BETWEEN = ELEMENTWISE_OPERATIONS | TRANSPARENT_OPERATIONS | {"Where", "Tanh", "Clip"}


class Projection(NamedTuple):
    """A kernel that puts out what attention reads, and which of several parts of its units that is.

    Attributes:
        slot: the kernel.
        part, parts: the place of the part among equal ones side by side, and how many there are; a part of
            -1 where the units are cut in a way that is not known.
    """

    slot: Slot
    part: int = 0
    parts: int = 1


class Attention(NamedTuple):
    """One attention of a model; what is not found is None.

    Attributes:
        query, key, value: what puts them out.
        output: the kernel that reads what it puts out.
        width: the numbers of a query in one head.
    """

    query: Projection | None
    key: Projection | None
    value: Projection | None
    output: Slot | None
    width: int


def attentions(anatomy: Anatomy) -> list[Attention]:
    """Every attention of a model, in order."""
    return anatomy.once(_found)


def _found(anatomy: Anatomy) -> list[Attention]:
    found, ancestry = [], anatomy.once(Ancestry)
    for step in anatomy.trace.steps:
        core = _core(anatomy, step)
        if core is None:
            continue
        width, *parts = core
        query, key, value = (_projection(ancestry, each) for each in parts)
        found.append(Attention(query, key, value, _read_by(anatomy, ancestry, step), width))
    return found


def query_kernels(anatomy: Anatomy) -> set[Slot]:
    """The kernels that put out queries of attention, and nothing else."""
    found = attentions(anatomy)
    queries = {each.query.slot for each in found if each.query is not None and each.query.parts == 1}
    return queries - {part.slot for each in found for part in (each.key, each.value) if part is not None}


def _core(anatomy: Anatomy, step: Step) -> tuple[int, Value, Value, Value] | None:
    """The numbers in a query of a head, the query, the key and the value where a step sums the values."""
    if step.kind == "DotProductAttention":
        names = ("query", "key", "value")
        given = [*step.arguments, *(step.options[name] for name in names[len(step.arguments) :])]
        return (given[0].shape[-1], *given[:3])
    if isinstance(step.operation, (layers.Attention, layers.AdditiveAttention)):
        given = [*step.inputs[:2], *step.inputs[2:3], step.inputs[1]]
        return given[0].shape[-1], given[0], given[2], given[1]
    values = mixed(step, anatomy.uses.is_signal)
    if len(values) != 1:
        return None
    weights = next((value for value in step.inputs if value is not values[0].value), None)
    scores = None if weights is None else _scores(anatomy, weights)
    sums = None if scores is None else contraction(scores)
    if sums is None or weights is None:
        return None
    (one, labels), (other, _) = sums.operands
    summed = [size for label, size in zip(labels, one.shape, strict=True) if label not in sums.output]
    is_key = _place_summed_over(step, weights) in [
        sums.output.index(label)
        for label in labels
        if label in sums.output and label not in sums.operands[1][1]
    ]
    query, key = (other, one) if is_key else (one, other)
    return math.prod(summed), query, key, values[0].value


def _place_summed_over(step: Step, weights: Value) -> int:
    """The axis of attention's weights that its values are summed along."""
    sums = contraction(step)
    if sums is None:
        return -1
    labels = next(each for value, each in sums.operands if value is weights)
    return next((axis for axis, label in enumerate(labels) if label not in sums.output), -1)


def _scores(anatomy: Anatomy, weights: Value) -> Step | None:
    """The step that compares queries and keys, whose scores a softmax makes weights of; None for no such."""
    waiting, seen = [weights], set[int]()
    while waiting:
        step = waiting.pop(0).step
        if step is None or step.index in seen:
            continue
        seen.add(step.index)
        signals = [value for value in step.inputs if anatomy.uses.is_signal(value)]
        if contraction(step) is not None and len(signals) == 2:
            return step
        if step.kind == "Softmax" or step.kind in _BETWEEN or isinstance(step.operation, PROPORTIONAL):
            waiting += signals
    return None


def _projection(ancestry: Ancestry, value: Value) -> Projection | None:
    """The one kernel that a value comes from, with no other between; None where it comes from several."""
    found: dict[tuple[Slot, int, int], None] = {}
    waiting, seen = [(value, 0, 1)], set[tuple[int, int]]()
    while waiting:
        here, part, parts = waiting.pop()
        step = here.step
        if step is None or (id(here), part) in seen:
            continue
        seen.add((id(here), part))
        if id(step) in ancestry.kernels:
            found.update(((slot, part, parts), None) for slot in ancestry.kernels[id(step)])
            continue
        if step.kind in ("Split", "Unstack"):
            part, parts = [id(each) for each in step.outputs].index(id(here)), len(step.outputs)
        elif step.kind == "GetItem" and here.shape != step.inputs[0].shape:
            part, parts = -1, _PACKED
        waiting += [(each, part, parts) for each in ancestry.written(step)]
    slots = {slot for slot, _, _ in found}
    if len(slots) != 1:
        return None
    every = [Projection(*each) for each in found]
    return every[0] if len(every) == 1 else Projection(every[0].slot)


def _read_by(anatomy: Anatomy, ancestry: Ancestry, step: Step) -> Slot | None:
    """The kernel that reads what a step puts out, moved at most."""
    waiting, seen = list(step.outputs), set[int]()
    while waiting:
        for reader in waiting.pop(0).readers:
            if reader.index in seen:
                continue
            seen.add(reader.index)
            if id(reader) in ancestry.kernels:
                return next(iter(ancestry.kernels[id(reader)]), None)
            moved = isinstance(reader.operation, PROPORTIONAL) or reader.kind in TRANSPARENT_OPERATIONS
            if moved and len([each for each in reader.inputs if anatomy.uses.is_signal(each)]) == 1:
                waiting += reader.outputs
    return None
