"""Attention, by what is computed: the kernels of its queries, keys and values, and the one that reads it."""

import math
from typing import NamedTuple

from keras import layers

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.ancestry import Ancestry
from keras_winit.models.anatomy.contractions import Contraction, contraction
from keras_winit.models.anatomy.passing import mixed, onward
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.kinds import (
    ELEMENTWISE_OPERATIONS,
    PROPORTIONAL,
    TRANSPARENT_OPERATIONS,
)
from keras_winit.models.tracing.trace import Step, Value

_BETWEEN = ELEMENTWISE_OPERATIONS | TRANSPARENT_OPERATIONS | {"Where", "Tanh", "Clip"}


class Projection(NamedTuple):
    """A kernel that puts out what attention reads, and which of how many equal parts of its units that is.

    Part -1 is one that is not known.
    """

    slot: Slot
    part: int = 0
    parts: int = 1


class Attention(NamedTuple):
    """What puts out one attention's queries, keys and values, and reads its result; None if not found."""

    query: Projection | None
    key: Projection | None
    value: Projection | None
    output: Slot | None
    width: int  # the numbers of a query in one head


def attentions(anatomy: Anatomy) -> list[Attention]:
    """Every attention of a model, in order."""
    return anatomy.once(_found)


def _found(anatomy: Anatomy) -> list[Attention]:
    found, ancestry = [], anatomy.once(Ancestry)
    for step in anatomy.trace.steps:
        core = _core(anatomy, step)
        if core is not None:
            width, *parts = core
            query, key, value = (_projection(ancestry, each) for each in parts)
            found.append(Attention(query, key, value, _read_by(ancestry, step), width))
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
    outer, values = contraction(step), mixed(step, anatomy.uses.is_signal)
    if outer is None or len(values) != 1:
        return None
    weights = next((value for value in step.inputs if value is not values[0].value), None)
    sums = None if weights is None else _scores(anatomy, weights)
    if sums is None or weights is None:
        return None
    (one, labels), (other, others) = sums.operands
    summed = [size for label, size in zip(labels, one.shape, strict=True) if label not in sums.output]
    # The axis of the weights that the values are summed along is that of the keys.
    along = next((axis for axis, label in enumerate(outer.labels(weights)) if label not in outer.output), -1)
    own = [label for label in labels if label in sums.output and label not in others]
    query, key = (other, one) if along in map(sums.output.index, own) else (one, other)
    return math.prod(summed), query, key, values[0].value


def _scores(anatomy: Anatomy, weights: Value) -> Contraction | None:
    """The product of queries and keys that a softmax makes weights of, or None."""
    waiting, seen = [weights], set[Step]()
    while waiting:
        step = waiting.pop(0).step
        if step is None or step in seen:
            continue
        seen.add(step)
        signals, sums = anatomy.uses.signals(step), contraction(step)
        if sums is not None and len(signals) == len(sums.operands) == 2:
            return sums
        if step.kind == "Softmax" or step.kind in _BETWEEN or isinstance(step.operation, PROPORTIONAL):
            waiting += signals
    return None


def _projection(ancestry: Ancestry, value: Value) -> Projection | None:
    """The one kernel that a value comes from, with no other between, or None."""
    found: list[Projection] = []
    waiting, seen = [(value, 0, 1)], set[tuple[Value, int]]()
    while waiting:
        here, part, parts = waiting.pop()
        step = here.step
        if step is None or (here, part) in seen:
            continue
        seen.add((here, part))
        if step in ancestry.kernels:
            found += [Projection(slot, part, parts) for slot in ancestry.kernels[step]]
            continue
        if step.kind in ("Split", "Unstack"):
            part, parts = step.outputs.index(here), len(step.outputs)
        elif step.kind == "GetItem" and here.shape != step.inputs[0].shape:
            part, parts = -1, 3  # query, key and value in one kernel
        waiting += [(each, part, parts) for each in ancestry.written(step)]
    if len({each.slot for each in found}) != 1:
        return None
    return found[0] if len(set(found)) == 1 else Projection(found[0].slot)


def _read_by(ancestry: Ancestry, step: Step) -> Slot | None:
    """The kernel that reads what a step puts out, moved at most."""

    def moved(reader: Step) -> bool:
        kept = isinstance(reader.operation, PROPORTIONAL) or reader.kind in TRANSPARENT_OPERATIONS
        return kept and len(ancestry.anatomy.uses.signals(reader)) == 1

    for reader in onward(step.outputs, moved):
        if reader in ancestry.kernels:
            return next(iter(ancestry.kernels[reader]), None)
    return None
