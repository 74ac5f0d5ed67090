"""What becomes of a layer's units on their way to the next kernel, by the shapes alone.

Where samples, nodes or steps are mixed with one another the units stay what they are: so a graph's adjacency
matrix does with its nodes, and attention's softmax with its values.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
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
    NORMALIZING_OPERATIONS,
    PROPORTIONAL,
    PROPORTIONAL_OPERATIONS,
    TRANSPARENT_OPERATIONS,
)
from keras_winit.models.tracing.trace import Step, Value, number_in
from keras_winit.theory.activations import builtin_names
from keras_winit.theory.linearity import power


@dataclass(frozen=True)
class Signal:
    """A tensor of a model: whose units it holds, and how."""

    source: Any  # the slot of the kernel that puts the units out; None where none is known
    why: str = ""  # what is there instead, for the user
    activation: Any = None  # what was applied to them, as `resolve` takes it
    axis: int = 0  # along which the units are
    units: int = 0  # how many there are; where the axis is longer they are repeated

    def blocks(self, shape: Any, axis: int) -> int | None:
        """How often the units are repeated for a kernel that reads along an axis, or None."""
        whole = self.axis == axis and shape[axis] is not None and shape[axis] % self.units == 0
        return int(shape[axis]) // self.units if whole else None


def unknown(why: str) -> Signal:
    """A signal whose units are nobody's."""
    return Signal(None, why)


def normalizes(step: Step) -> bool:
    """Whether a step is a normalization of Keras."""
    return isinstance(step.operation, NORMALIZATIONS) or step.kind in NORMALIZING_OPERATIONS


def moves(step: Step) -> bool:
    """Whether a step puts the same numbers elsewhere, in proportion and about as large."""
    return isinstance(step.operation, PROPORTIONAL) or step.kind in PROPORTIONAL_OPERATIONS


def onward(values: Iterable[Value], goes_on: Callable[[Step], bool]) -> Iterator[Step]:
    """The steps that read values, and those behind the ones that go on, each once, the nearest first."""
    waiting, seen = list(values), set[Step]()
    while waiting:
        for step in waiting.pop(0).readers:
            if step not in seen:
                seen.add(step)
                yield step
                if goes_on(step):
                    waiting += step.outputs


def passed(step: Step, signal: Signal, before: Any, after: Any) -> Signal:
    """The signal after a step that takes shape `before` to `after`."""
    activation = activation_of(step)
    if activation is not None:
        if signal.activation is not None:
            return unknown(f"{step.described}, a second activation,")
        return replace(signal, activation=activation)
    if isinstance(step.operation, NORMALIZATIONS):
        return unknown(step.described)
    if signal.source is None:
        kept = isinstance(step.operation, (*KEEP_CHANNELS, *GLOBAL_POOLS, layers.Flatten, layers.Reshape))
        return signal if kept or step.kind in _KEEP_CHANNELS else unknown(step.described)
    axis = _axis(step, signal, before, after)
    return unknown(step.described) if axis is None else replace(signal, axis=axis)


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


def applied(step: Step) -> Any:
    """The activation that a step is, or that its layer applies to what it computes; None for none."""
    own = getattr(step.operation, "activation", None) if step.in_layer else None
    return activation_of(step) or (None if own is keras.activations.linear else own)


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


# Operations of keras.ops that leave each channel in its place.
_KEEP_CHANNELS = {"Cast", "ConvertToTensor", "StopGradient", "MaxPool", "AveragePool", "Pad"}


def _axis(step: Step, signal: Signal, before: Any, after: Any) -> int | None:
    """The axis of the units after a step, or None where they are scattered."""
    operation: Any = step.operation
    last, axis = len(before) - 1, signal.axis
    if isinstance(operation, KEEP_CHANNELS) or step.kind in _KEEP_CHANNELS:
        return axis if after[axis] == before[axis] else None
    if isinstance(operation, (*GLOBAL_POOLS, layers.Flatten)):
        if axis != (last if operation.data_format == "channels_last" else 1):
            return None
        if isinstance(operation, layers.Flatten):
            return 1
        return axis if operation.keepdims else len(after) - 1
    if isinstance(operation, layers.Permute):
        return (0, *operation.dims).index(axis)
    if isinstance(operation, layers.RepeatVector):
        return 2
    if step.kind == "Reshape":  # of keras.layers or of keras.ops
        return len(after) - 1 if axis == last and after[-1] and after[-1] % signal.units == 0 else None
    if step.kind in ("Mean", "Max") and operation.axis is not None:
        over = operation.axis if isinstance(operation.axis, (list, tuple)) else [operation.axis]
        gone = {each % len(before) for each in over}
        if axis not in gone:
            return axis if operation.keepdims else axis - sum(each < axis for each in gone)
    return None


class Mixed(NamedTuple):
    """A signal that is mixed; for each of its axes that the output still has, where it is there."""

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
            kept = ((axis, label) for axis, label in enumerate(labels) if label in sums.output)
            found.append(Mixed(value, {axis: sums.output.index(label) for axis, label in kept}))
    return found


def _is_weight(value: Value, is_signal: Callable[[Value], bool]) -> bool:
    """Whether a value is given to the model, or put out by a softmax, and only moved or masked since."""
    while value.step is not None:
        step = value.step
        activation = activation_of(step)
        if step.kind == "Softmax" or getattr(activation, "__name__", activation) == "softmax":
            return True
        passes = step.kind in (TRANSPARENT_OPERATIONS | ELEMENTWISE_OPERATIONS)
        signals = list(filter(is_signal, step.inputs))
        if not (passes or isinstance(step.operation, PROPORTIONAL)) or len(signals) != 1:
            return False
        value = signals[0]
    return value.source in ("input", "constant")
