"""What becomes of a layer's units on their way to the next kernel, by the shapes alone.

Where samples, nodes or steps are mixed with one another the units stay what they are: so a graph's adjacency
matrix does with its nodes, and attention's softmax with its values.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import keras
from keras import layers

from keras_winit.models.anatomy.contractions import contraction
from keras_winit.models.tracing.kinds import (
    ACTIVATION_LAYERS,
    ELEMENTWISE_OPERATIONS,
    GLOBAL_POOLS,
    KEEP_CHANNELS,
    NORMALIZATIONS,
    PROPORTIONAL,
    PROPORTIONAL_OPERATIONS,
    TRANSPARENT_OPERATIONS,
)
from keras_winit.models.tracing.trace import Step, Value, number_in
from keras_winit.theory.activations import builtin_names
from keras_winit.theory.linearity import power


@dataclass(frozen=True)
class Signal:
    """A tensor of a model: whose units it holds, and how.

    Attributes:
        source: the slot of the kernel that puts the units out; None where none is known.
        why: what is there instead, to be told to the user.
        activation: what was applied to them, as `resolve` takes it; None for nothing.
        axis: the axis of the tensor along which the units are.
        units: how many there are; they are repeated along the axis where it is longer.
    """

    source: Any
    why: str = ""
    activation: Any = None
    axis: int = 0
    units: int = 0

    def blocks(self, shape: Any, axis: int) -> int | None:
        """How often the units are repeated for a kernel that reads along an axis, or None."""
        if self.axis != axis or shape[axis] is None or shape[axis] % self.units:
            return None
        return int(shape[axis]) // self.units


def unknown(why: str) -> Signal:
    """A signal whose units are nobody's."""
    return Signal(None, why)


def moves(step: Step) -> bool:
    """Whether a step puts the same numbers elsewhere, in proportion and about as large."""
    return isinstance(step.operation, PROPORTIONAL) or step.kind in PROPORTIONAL_OPERATIONS


def passed(step: Step, signal: Signal, before: Any, after: Any) -> Signal:
    """The signal after a step that takes shape `before` to `after`."""
    activation = activation_of(step)
    if activation is not None:
        return _activated(step, signal, activation)
    if isinstance(step.operation, NORMALIZATIONS):
        return unknown(step.described)
    if signal.source is None:
        kept = isinstance(step.operation, (*KEEP_CHANNELS, *GLOBAL_POOLS, layers.Flatten, layers.Reshape))
        return signal if kept or step.kind in _KEEP_CHANNELS else unknown(step.described)
    axis, units = _place(step, signal, before, after)
    if axis is None:
        return unknown(step.described)
    return replace(signal, axis=axis, units=units)


def activation_of(step: Step) -> Any:
    """The activation that a step is, as a scheme's configuration holds it, or None."""
    operation = step.operation
    if step.opaque:
        return None
    if isinstance(operation, layers.Activation):
        return by_name(operation.activation)
    if isinstance(operation, ACTIVATION_LAYERS):
        return type(operation).from_config(operation.get_config())
    if step.in_layer:
        return None
    if step.kind == "Maximum" and number_in(step) == 0:
        return "relu"
    if step.kind == "LeakyRelu":
        return layers.LeakyReLU(operation.negative_slope, name="leaky_relu")
    return _operations().get(step.kind.lower())


@functools.cache
def _operations() -> dict[str, str]:
    """The names of activations by those of the operations of keras.ops that are them, such as Relu."""
    return {name.replace("_", ""): name for name in builtin_names()}


def by_name(activation: Any) -> Any:
    """The name of an activation that Keras ships, any other as it is; None for the identity."""
    if activation is None or activation is keras.activations.linear:
        return None
    name = getattr(activation, "__name__", "")
    return name if getattr(keras.activations, name, None) is activation else activation


def readable(activation: Any) -> bool:
    """Whether a kernel can read the difference of an activation's twins."""
    try:
        return power(activation, 1.0, twins=True) > 0
    except (TypeError, ValueError):  # one that joins features, is even, or takes other shapes
        return False


def _activated(step: Step, signal: Signal, activation: Any) -> Signal:
    if signal.activation is not None:
        return unknown(f"{step.described}, a second activation,")
    return replace(signal, activation=activation)


# Operations of keras.ops that leave each channel in its place.
_KEEP_CHANNELS = {"Cast", "ConvertToTensor", "StopGradient", "MaxPool", "AveragePool", "Pad"}


def _place(step: Step, signal: Signal, before: Any, after: Any) -> tuple[int | None, int]:
    """The axis of the units after a step, None where they are scattered, and how many repeat."""
    operation: Any = step.operation
    last, axis, units = len(before) - 1, signal.axis, signal.units
    if isinstance(operation, KEEP_CHANNELS) or step.kind in _KEEP_CHANNELS:
        return (axis if after[axis] == before[axis] else None), units
    if isinstance(operation, GLOBAL_POOLS):
        channels = last if operation.data_format == "channels_last" else 1
        return (len(after) - 1 if not operation.keepdims else axis) if axis == channels else None, units
    if isinstance(operation, layers.Permute):
        return (0, *operation.dims).index(axis), units
    if isinstance(operation, layers.RepeatVector):
        return 2, units
    if isinstance(operation, layers.Flatten):
        innermost = last if operation.data_format == "channels_last" else 1
        return (1 if axis == innermost else None), units
    if step.kind == "Reshape":  # of keras.layers or of keras.ops
        run = after[-1]
        return (len(after) - 1 if axis == last and run and run % units == 0 else None), units
    if step.kind in ("Mean", "Max") and operation.axis is not None:
        return _after_pooling(operation, axis, len(before)), units
    return None, units


def _after_pooling(operation: Any, axis: int, rank: int) -> int | None:
    """The axis of the units after a mean or maximum over other axes."""
    over = operation.axis if isinstance(operation.axis, (list, tuple)) else [operation.axis]
    gone = {each % rank for each in over}
    if axis in gone:
        return None
    return axis if operation.keepdims else axis - sum(each < axis for each in gone)


class Mixed(NamedTuple):
    """A signal that is mixed.

    Attributes:
        value: the signal.
        axes: for each of its axes that the output still has, where it is there.
    """

    value: Value
    axes: dict[int, int]


def mixed(step: Step, is_signal: Callable[[Value], bool]) -> list[Mixed]:
    """The signals that a step sums over with weights that no kernel puts out; none for most steps."""
    sums = contraction(step)
    if sums is None or len(sums.operands) != 2:
        return []
    found = []
    for (value, labels), (other, _) in (sums.operands, sums.operands[::-1]):
        if other is not value and is_signal(value) and _is_weight(other, is_signal):
            axes = {
                axis: sums.output.index(label) for axis, label in enumerate(labels) if label in sums.output
            }
            found.append(Mixed(value, axes))
    return found


def _is_weight(value: Value, is_signal: Callable[[Value], bool]) -> bool:
    """Whether a value is given to the model, or put out by a softmax, and only moved or masked since."""
    while value.step is not None:
        step = value.step
        if (
            step.kind == "Softmax"
            or getattr(activation_of(step), "__name__", activation_of(step)) == "softmax"
        ):
            return True
        passes = step.kind in (TRANSPARENT_OPERATIONS | ELEMENTWISE_OPERATIONS)
        signals = [each for each in step.inputs if is_signal(each)]
        if not (passes or isinstance(step.operation, PROPORTIONAL)) or len(signals) != 1:
            return False
        value = signals[0]
    return value.source in ("input", "constant")
