"""What divides by the size of a signal, so that its scale changes nothing behind.

A signal that is multiplied by s comes out multiplied by s to the power of a degree: 2 of a square, −½ of
1/√, the sum of both of a product. Where the degree is 0, the size is divided out: by a normalization of
Keras, or by what a layer of the user's own computes, as x / √(mean(x²) + ε).
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from keras import layers

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.passing import activation_of, by_name
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.kinds import (
    LINEAR,
    NORMALIZATIONS,
    NORMALIZING_OPERATIONS,
    PROPORTIONAL,
    PROPORTIONAL_OPERATIONS,
)
from keras_winit.models.tracing.trace import Step, Trace, Value, number_in
from keras_winit.theory.activations import resolve

_NORMALIZING = {kind.call for kind in NORMALIZATIONS}
_HOMOGENEOUS = ("relu", "leaky_relu", "prelu", "gelu", "silu", "mish", "hard_silu")
_DIVIDING = ("Multiply", "Divide", "TrueDivide")
_EPSILON = 0.01  # what is added to a variance is at most this


@dataclass
class Normalized:
    """What divides by the size of a signal: the layers, or operations, and the signals that are left."""

    by: list[Any] = field(default_factory=list)
    ends: list[Value] = field(default_factory=list)


def normalizations_after(anatomy: Anatomy, slot: Slot) -> list[Any]:
    """The normalizations that read all that a slot's kernel puts out, before anything else does.

    An activation between, such as ReLU, that makes twice of twice the signal, or nearly so, as GELU, is no
    hindrance. In training the scale of its kernel then changes no output. Empty where anything else reads
    it, or a normalization that goes by what it has seen before, as a frozen one does.
    """
    own = by_name(getattr(slot.layer, "activation", None))
    if slot.role != "kernel" or (slot.use is None and type(slot.layer).call not in LINEAR):
        return []
    if slot.use is None and own is not None and not _is_homogeneous(own):
        return []
    steps = anatomy.steps(slot)
    if any(isinstance(layer, layers.SpectralNormalization) for layer in slot.parents):
        return []
    found = normalized(anatomy, [value for step in steps for value in step.outputs])
    return list({id(each): each for each in found.by}.values())


def normalized(anatomy: Anatomy, start: list[Value]) -> Normalized:
    """What divides by the size of signals that grow and shrink together; nothing where something does not."""
    result, degrees = Normalized(), {id(value): 1.0 for value in start}
    waiting: list[int] = []
    seen: set[int] = set()

    def go_on(values: list[Value]) -> bool:
        for value in values:
            if not value.readers or anatomy.trace.is_output(value):
                return False
            for step in value.readers:
                if step.index not in seen:
                    seen.add(step.index)
                    heapq.heappush(waiting, step.index)
        return True

    if not start or not go_on(start):
        return Normalized()
    while waiting:
        step = anatomy.trace.steps[heapq.heappop(waiting)]
        if isinstance(step.operation, NORMALIZATIONS) or step.kind in NORMALIZING_OPERATIONS:
            if not _goes_by_what_it_reads(step, anatomy.trace):
                return Normalized()
            result.by.append(step.operation)
            result.ends += step.outputs
            continue
        degree = _degree(anatomy, step, degrees)
        if degree is None:
            return Normalized()
        if degree == 0:
            result.by.append(step.around[-1] if len(step.around) > 1 else step.operation)
            result.ends += step.outputs
            continue
        degrees.update({id(value): degree for value in step.outputs})
        if not go_on(list(step.outputs)):
            return Normalized()
    return result


def normalization_at(anatomy: Anatomy, step: Step, start: Value | None = None) -> Any:
    """The layer or operation that a step divides by the size of a signal for, or None.

    Args:
        anatomy: the model taken apart.
        step: a normalization of Keras, or the last step of one of the user's own.
        start: what the normalization is to read; None for whatever it reads.
    """
    if isinstance(step.operation, NORMALIZATIONS) or step.kind in NORMALIZING_OPERATIONS:
        return step.operation if start is None or start in step.inputs else None
    signals = [value for value in dict.fromkeys(step.inputs) if anatomy.uses.is_signal(value)]
    if step.in_layer or step.kind not in _DIVIDING or len(signals) != 2:
        return None
    for value in [start] if start is not None else _before(anatomy, signals):
        if _degree_from(anatomy, value, step.outputs[0], {}) == 0:
            return step.around[-1] if len(step.around) > 1 else step.operation
    return None


def _before(anatomy: Anatomy, signals: list[Value]) -> list[Value]:
    """Signals, and what the steps that put them out read: what a normalization may have started from."""
    found = dict.fromkeys(signals)
    for value in signals:
        if value.step is not None and not value.step.in_layer:
            found.update((each, None) for each in value.step.inputs if anatomy.uses.is_signal(each))
    return list(found)


def _degree_from(
    anatomy: Anatomy, start: Value, value: Value, known: dict[int, float | None]
) -> float | None:
    """The degree of a value in another a few steps before it; None where it is in no such proportion."""
    if value is start:
        return 1.0
    if id(value) not in known:
        known[id(value)] = None
        step = value.step
        if step is not None and (not step.in_layer or isinstance(step.operation, PROPORTIONAL)):
            degrees = {id(each): _degree_from(anatomy, start, each, known) for each in step.inputs}
            found = {key: degree for key, degree in degrees.items() if degree is not None}
            known[id(value)] = _degree(anatomy, step, found) if found else None
    return known[id(value)]


def _goes_by_what_it_reads(step: Step, trace: Trace) -> bool:
    """Whether it is one of Keras' own, called once, that takes the statistics of what it is given."""
    normalization = step.operation
    if not step.in_layer:
        return step.kind != "BatchNorm"  # which is given its statistics
    if type(normalization).call not in _NORMALIZING or len(trace.of(normalization)) > 1:
        return False
    batch = isinstance(normalization, layers.BatchNormalization)
    renorm = getattr(normalization, "renorm", False)  # which an older Keras has not
    return not batch or (normalization.trainable and not renorm)


_FACTORS: dict[str, float] = dict.fromkeys(
    ("Mean", "Sum", "Max", "Std", "Abs", "Absolute", "Norm", "BroadcastTo", *PROPORTIONAL_OPERATIONS),
    1,
)
_FACTORS |= {"Square": 2, "Var": 2, "Sqrt": 0.5, "Rsqrt": -0.5, "Reciprocal": -1}


def _degree(anatomy: Anatomy, step: Step, degrees: dict[int, float]) -> float | None:
    """The degree of what a step puts out, or None where its output is in no such proportion."""
    if step.opaque:
        return None
    known = [degrees.get(id(value)) for value in step.inputs]
    of_signal = [degree for degree in known if degree is not None]
    others = [value for value in step.inputs if id(value) not in degrees]
    if len(of_signal) == 1 and (
        isinstance(step.operation, PROPORTIONAL) or _is_homogeneous(activation_of(step))
    ):
        return of_signal[0] if of_signal[0] == 1 or isinstance(step.operation, PROPORTIONAL) else None
    if step.in_layer or any(map(anatomy.uses.is_signal, others)):
        return None
    combine = _COMBINED.get(step.kind)
    if combine is not None:
        return combine(anatomy, step, known)
    factor = _FACTORS.get(step.kind)
    return None if factor is None or len(set(of_signal)) != 1 else factor * of_signal[0]


def _is_homogeneous(activation: Any) -> bool:
    """Whether an activation makes twice of twice the signal, or nearly so."""
    return activation is not None and resolve(activation).name in _HOMOGENEOUS


def _sum(anatomy: Anatomy, step: Step, known: list[float | None]) -> float | None:
    found = {degree for degree in known if degree is not None}
    if len(found) != 1:
        return None
    (degree,) = found
    number = number_in(step)
    if number is not None and abs(number) > _EPSILON:
        return None
    weights = [value for value, each in zip(step.inputs, known, strict=True) if each is None]
    roles = {use.role for value in weights for use in anatomy.uses.of(value.variable) if use.step is step}
    return degree if not weights or (degree == 1 and roles == {"bias"}) else None


def _product(_anatomy: Anatomy, _step: Step, known: list[float | None]) -> float | None:
    return sum(degree or 0.0 for degree in known)


def _ratio(_anatomy: Anatomy, step: Step, known: list[float | None]) -> float | None:
    if len(known) == 2:
        return (known[0] or 0.0) - (known[1] or 0.0)
    over = isinstance(step.arguments[0], Value)
    return known[0] if over or known[0] is None else -known[0]


def _power(_anatomy: Anatomy, step: Step, known: list[float | None]) -> float | None:
    exponent = number_in(step)
    raised = isinstance(step.arguments[0], Value) and len(known) == 1
    return exponent * known[0] if raised and exponent is not None and known[0] is not None else None


_COMBINED: dict[str, Callable[[Anatomy, Step, list[float | None]], float | None]] = {
    **dict.fromkeys(("Add", "Subtract", "Maximum"), _sum),
    "Multiply": _product,
    "Power": _power,
    **dict.fromkeys(("Divide", "TrueDivide"), _ratio),
}
