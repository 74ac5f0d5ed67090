"""What becomes of a layer's units on their way to the next kernel, by the shapes alone."""

from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import layers

from keras_winit.models.anatomy.kinds import ACTIVATION_LAYERS, GLOBAL_POOLS, KEEP_CHANNELS, NORMALIZATIONS
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


def passed(operation: Any, signal: Signal, before: Any, after: Any) -> Signal:
    """The signal after an operation that takes shape `before` to `after`."""
    activation = activation_of(operation)
    if activation is not None:
        return _activated(operation, signal, activation)
    if isinstance(operation, NORMALIZATIONS):
        return unknown(described(operation))
    if signal.source is None:
        kept = isinstance(operation, (*KEEP_CHANNELS, *GLOBAL_POOLS, layers.Flatten, layers.Reshape))
        return signal if kept else unknown(described(operation))
    axis, units = _place(operation, signal, before, after)
    if axis is None:
        return unknown(described(operation))
    return replace(signal, axis=axis, units=units)


def activation_of(operation: Any) -> Any:
    """The activation that an operation is, as a scheme's configuration holds it, or None."""
    if isinstance(operation, layers.Activation):
        return by_name(operation.activation)
    if isinstance(operation, ACTIVATION_LAYERS):
        return type(operation).from_config(operation.get_config())
    if isinstance(operation, layers.Layer):
        return None
    name = type(operation).__name__.lower()  # an operation of keras.ops, such as Relu
    return next((known for known in builtin_names() if known.replace("_", "") == name), None)


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


def _activated(operation: Any, signal: Signal, activation: Any) -> Signal:
    if signal.activation is not None:
        return unknown(f"{described(operation)}, a second activation,")
    return replace(signal, activation=activation)


def _place(operation: Any, signal: Signal, before: Any, after: Any) -> tuple[int | None, int]:
    """The axis of the units after an operation, None where they are scattered, and how many repeat."""
    last, axis, units = len(before) - 1, signal.axis, signal.units
    if isinstance(operation, KEEP_CHANNELS) or type(operation).__name__ == "Cast":
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
    if isinstance(operation, layers.Reshape) or type(operation).__name__ == "Reshape":
        run = after[-1]
        return (len(after) - 1 if axis == last and run and run % units == 0 else None), units
    return None, units


def described(operation: Any) -> str:
    """An operation by its name and kind."""
    return f"{operation.name} ({type(operation).__name__})"
