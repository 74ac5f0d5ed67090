"""What a step writes on, and what only says how much of it: gates, and the weights of attention."""

import keras
from keras import layers

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.mixing import mixed
from keras_winit.models.anatomy.passing import activation_of, moves
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
