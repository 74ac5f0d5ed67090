"""What divides by the size of a signal, so that its scale changes nothing behind.

A signal that is multiplied by s comes out multiplied by s to the power of a degree: 2 of a square, −½ of
1/√, the sum of both of a product. Where the degree is 0, the size is divided out: by a normalization of
Keras, or by what a layer of the user's own computes, as x / √(mean(x²) + ε).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from keras import layers

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.passing import activation_of, by_name, normalizes
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.kinds import (
    LINEAR,
    NORMALIZATIONS,
    PROPORTIONAL,
    PROPORTIONAL_OPERATIONS,
)
from keras_winit.models.tracing.trace import Step, Trace, Value, number_in
from keras_winit.theory.activations import resolve

_HOMOGENEOUS = ("relu", "leaky_relu", "prelu", "gelu", "silu", "mish", "hard_silu")
_DIVIDING = ("Multiply", "Divide", "TrueDivide")


class Normalized(NamedTuple):
    """The layers, or operations, that divide by the size of a signal, and what they put out."""

    by: list[Any]
    ends: list[Value]


def normalizations_after(anatomy: Anatomy, slot: Slot) -> list[Any]:
    """The normalizations that read all that a slot's kernel puts out, before anything else does.

    In training the scale of the kernel then changes no output. ReLU may be between, or what nearly makes
    twice of twice the signal too, as GELU. A normalization that goes by what it has seen, as a frozen one
    does, is none.
    """
    if slot.role != "kernel" or any(isinstance(each, layers.SpectralNormalization) for each in slot.parents):
        return []
    own = by_name(getattr(slot.layer, "activation", None))
    if slot.use is None and type(slot.layer).call not in LINEAR:
        return []
    if slot.use is None and own is not None and not _is_homogeneous(own):
        return []
    found = normalized(anatomy, [value for step in anatomy.steps(slot) for value in step.outputs])
    return list({id(each): each for each in found.by}.values())


def normalized(anatomy: Anatomy, start: list[Value]) -> Normalized:
    """What divides by the size of signals that grow and shrink together; nothing where something does not."""
    result, degrees = Normalized([], []), dict[Value, float]()
    new, waiting = dict.fromkeys(start, 1.0), set[Step]()
    while new or waiting:
        if any(not value.readers or anatomy.trace.is_output(value) for value in new):
            return Normalized([], [])
        degrees |= new
        waiting.update(step for value in new for step in value.readers)
        new = {}
        step = min(waiting, key=lambda step: step.index)
        waiting.remove(step)
        if normalizes(step):
            degree = 0.0 if _goes_by_what_it_reads(step, anatomy.trace) else None
        else:
            degree = _degree(anatomy, step, degrees)
        if degree is None:
            return Normalized([], [])
        if degree == 0:
            result.by.append(_named(step))
            result.ends.extend(step.outputs)
        else:
            new = dict.fromkeys(step.outputs, degree)
    return result


def _named(step: Step) -> Any:
    """What to name for a step that normalizes: its operation, or the layer of the user's own around it."""
    return step.operation if normalizes(step) or len(step.around) < 2 else step.around[-1]


def normalization_at(anatomy: Anatomy, step: Step, start: Value | None = None) -> Any:
    """The normalization that a step is, or is the last step of; None for none.

    It is to read `start`, or anything where that is None.
    """
    if normalizes(step):
        return step.operation if start is None or start in step.inputs else None
    signals = dict.fromkeys(anatomy.uses.signals(step))
    if step.in_layer or step.kind not in _DIVIDING or len(signals) != 2:
        return None
    starts = [start] if start is not None else [*signals]
    if start is None:  # it may have started one step before the signals
        for before in (value.step for value in signals):
            starts += [] if before is None or before.in_layer else anatomy.uses.signals(before)
    found = (_degree_from(anatomy, value, step.outputs[0], {}) for value in dict.fromkeys(starts))
    return _named(step) if 0 in found else None


def _degree_from(
    anatomy: Anatomy, start: Value, value: Value, known: dict[Value, float | None]
) -> float | None:
    """The degree of a value in another a few steps before it; None where it is in no such proportion."""
    if value is start:
        return 1.0
    if value not in known:
        known[value] = None
        step = value.step
        if step is not None and (not step.in_layer or isinstance(step.operation, PROPORTIONAL)):
            degrees = {each: _degree_from(anatomy, start, each, known) for each in step.inputs}
            if any(degree is not None for degree in degrees.values()):
                known[value] = _degree(anatomy, step, degrees)
    return known[value]


def _goes_by_what_it_reads(step: Step, trace: Trace) -> bool:
    """Whether it is one of Keras' own, called once, that takes the statistics of what it is given."""
    layer = step.operation
    if not step.in_layer:
        return step.kind != "BatchNorm"  # which is given its statistics
    if type(layer).call not in {kind.call for kind in NORMALIZATIONS} or len(trace.of(layer)) > 1:
        return False
    renorm = getattr(layer, "renorm", False)  # which an older Keras has not
    return not isinstance(layer, layers.BatchNormalization) or (layer.trainable and not renorm)


_FACTORS: dict[str, float] = dict.fromkeys(
    ("Mean", "Sum", "Max", "Std", "Abs", "Absolute", "Norm", "BroadcastTo", *PROPORTIONAL_OPERATIONS), 1
)
_FACTORS |= {"Square": 2, "Var": 2, "Sqrt": 0.5, "Rsqrt": -0.5, "Reciprocal": -1}


def _degree(anatomy: Anatomy, step: Step, degrees: Mapping[Value, float | None]) -> float | None:
    """The degree of what a step puts out, or None where its output is in no such proportion."""
    if step.opaque:
        return None
    known = [degrees.get(value) for value in step.inputs]
    of_signal = [degree for degree in known if degree is not None]
    others = [value for value, degree in zip(step.inputs, known, strict=True) if degree is None]
    proportional = isinstance(step.operation, PROPORTIONAL)
    if len(of_signal) == 1 and (proportional or _is_homogeneous(activation_of(step))):
        return of_signal[0] if proportional or of_signal[0] == 1 else None
    if step.in_layer or any(map(anatomy.uses.is_signal, others)):
        return None
    if step.kind == "Multiply":
        return sum(of_signal)
    if step.kind == "Power":
        exponent = number_in(step)
        raised = isinstance(step.arguments[0], Value) and len(known) == len(of_signal) == 1
        return exponent * of_signal[0] if raised and exponent is not None else None
    if step.kind in _DIVIDING:
        if len(known) == 2:
            return (known[0] or 0.0) - (known[1] or 0.0)
        over = isinstance(step.arguments[0], Value)
        return known[0] if over or known[0] is None else -known[0]
    if len(set(of_signal)) != 1:
        return None
    if step.kind not in ("Add", "Subtract", "Maximum"):
        factor = _FACTORS.get(step.kind)
        return None if factor is None else factor * of_signal[0]
    if abs(number_in(step) or 0) > 0.01:  # what is added to a variance is smaller
        return None
    roles = {use.role for value in others for use in anatomy.uses.of(value.variable) if use.step is step}
    return of_signal[0] if not others or (of_signal[0] == 1 and roles == {"bias"}) else None


def _is_homogeneous(activation: Any) -> bool:
    """Whether an activation makes twice of twice the signal, or nearly so."""
    return activation is not None and resolve(activation).name in _HOMOGENEOUS
