"""The activation that follows a kernel: its layer's own, or the next one in the trace."""

from typing import Any

import keras

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.mixing import mixed
from keras_winit.models.anatomy.normalizing import normalized
from keras_winit.models.anatomy.passing import activation_of
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.kinds import (
    ELEMENTWISE_OPERATIONS,
    NORMALIZATIONS,
    TRANSPARENT,
    TRANSPARENT_OPERATIONS,
)
from keras_winit.models.tracing.trace import Step, Value
from keras_winit.theory.activations import Activation, resolve


def activation_after(anatomy: Anatomy, slot: Slot) -> tuple[Activation | None, str]:
    """The activation that a slot's kernel feeds, and how it was found; None where that is not seen."""
    steps = anatomy.steps(slot)
    own = getattr(slot.layer, "activation", None)
    if slot.depthwise and any(step.kind.startswith("SeparableConv") for step in steps):
        return resolve(None), "the pointwise kernel follows"
    if own is not None and own is not keras.activations.linear and (slot.use is None or not steps):
        return resolve(own), "the layer's own activation"
    if not steps:
        return None, "what its layer computes is not seen"
    return activation_behind(anatomy, [value for step in steps for value in step.outputs])


def activation_before(anatomy: Anatomy, slot: Slot) -> Activation | None:
    """The activation whose output a slot's kernel reads; None where something else comes first."""
    steps = anatomy.steps(slot)
    value = steps[0].inputs[0] if steps and steps[0].inputs else None
    while value is not None and value.step is not None and not value.step.opaque:
        step = value.step
        own = getattr(step.operation, "activation", None) if step.in_layer else None
        found = activation_of(step) or (None if own is keras.activations.linear else own)
        if found is not None:
            return resolve(found)
        signals = [each for each in step.inputs if anatomy.uses.is_signal(each)]
        if isinstance(step.operation, NORMALIZATIONS) or len(signals) != 1 or not passes(anatomy, step):
            return None
        value = signals[0]
    return None


def is_gate(anatomy: Anatomy, slot: Slot) -> bool:
    """Whether what a slot's kernel puts out, between zero and one, multiplies another signal."""
    found = activation_after(anatomy, slot)[0]
    if found is None or found.name not in ("sigmoid", "hard_sigmoid"):
        return False
    queue, seen = [value for step in anatomy.steps(slot) for value in step.outputs], set()
    while queue:
        value = queue.pop(0)
        for step in value.readers:
            if id(step) in seen:
                continue
            seen.add(id(step))
            if step.kind == "Multiply" and sum(map(anatomy.uses.is_signal, step.inputs)) > 1:
                return True
            if activation_of(step) is not None or passes(anatomy, step):
                queue += step.outputs
    return False


def passes(anatomy: Anatomy, step: Step) -> bool:
    """Whether a signal passes a step with its distribution more or less as it was."""
    if step.kind in ELEMENTWISE_OPERATIONS:
        signals = [value for value in step.inputs if anatomy.uses.is_signal(value)]
        # A sum of what several kernels put out is what one kernel of all their inputs would.
        return len(signals) == 1 or (step.kind == "Add" and all(map(anatomy.is_kernel_output, signals)))
    return isinstance(step.operation, TRANSPARENT) or step.kind in TRANSPARENT_OPERATIONS


def _is_mixed(anatomy: Anatomy, value: Value, step: Step) -> bool:
    """Whether a signal's samples or nodes are mixed, and its units, on its last axis, stay."""
    last = len(value.shape) - 1
    return any(each.value is value and last in each.axes for each in mixed(step, anatomy.uses.is_signal))


def activation_behind(anatomy: Anatomy, start: list[Value]) -> tuple[Activation | None, str]:
    """The activation that signals feed, and how it was found; None where that is not seen."""
    queue, seen = list(start), set()
    unseen = ""
    while queue:
        value = queue.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        if anatomy.trace.is_lost(value):
            unseen = unseen or "what follows is not seen"
        following: list[Any] = []
        for step in value.readers:
            if step.opaque:
                unseen = unseen or f"what follows is not seen: {step.described}"
                continue
            found = activation_of(step)
            if found is not None:
                activation = resolve(found)
                return activation, f"{step.operation.name if step.in_layer else activation.name} follows"
            if passes(anatomy, step) or _is_mixed(anatomy, value, step):
                following += step.outputs
        if not following and value.readers:
            following = normalized(anatomy, [value]).ends
        queue = [*following, *queue]
    return (None, unseen) if unseen else (resolve(None), "no activation follows")
