"""What an operation sums over: a label for every axis of its operands and of its output.

A label that the output does not have is summed over. The kernels of convolutions are told by kind.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keras_winit.models.tracing.trace import Step, Value
from keras_winit.theory.fans import Fans, einsum_labels

Labels = tuple[Any, ...]  # of each axis; None for one of size one, which is repeated


class Contraction(NamedTuple):
    """The labels of the axes of each operand of a step, and those of its output."""

    operands: tuple[tuple[Value, Labels], ...]
    output: Labels

    def sizes(self) -> dict[Any, int]:
        """The size of each label."""
        return {
            label: size
            for value, labels in self.operands
            for label, size in zip(labels, value.shape, strict=True)
            if label is not None
        }


def contraction(step: Step) -> Contraction | None:
    """What a step of `keras.ops` sums over, or None for one that is no sum of products."""
    rule = _RULES.get(step.kind)
    if rule is None or step.in_layer or len(step.outputs) != 1:
        return None
    found = [item if isinstance(item, Value) else _constant(item) for item in step.arguments]
    values = [value for value in found if value is not None]
    if len(values) != len(found) or len(values) < 2:
        return None
    labels, output = rule(step.operation, values)
    named = [
        tuple(label if size != 1 or label in _certain(labels, values) else None for label, size in pairs)
        for pairs in (zip(each, value.shape, strict=True) for each, value in zip(labels, values, strict=True))
    ]
    return Contraction(tuple(zip(values, named, strict=True)), tuple(output))


def _constant(item: Any) -> Value | None:
    """A bare array of NumPy, or a tensor, as a value."""
    shape = getattr(item, "shape", None)
    return None if shape is None else Value(tuple(shape), str(item.dtype), "constant")


def _certain(labels: Sequence[Labels], values: Sequence[Value]) -> set[Any]:
    """The labels that are of size one in every operand that has them."""
    sizes: dict[Any, set[int]] = {}
    for each, value in zip(labels, values, strict=True):
        for label, size in zip(each, value.shape, strict=True):
            sizes.setdefault(label, set()).add(size)
    return {label for label, found in sizes.items() if found == {1}}


def _matmul(_operation: Any, values: list[Value]) -> tuple[list[Labels], Labels]:
    left, right = (len(value.shape) for value in values)
    batch = max(left, right) - 2
    leading = [f"batch{index}" for index in range(max(batch, 0))]
    one = ["in"] if left == 1 else [*leading[len(leading) - (left - 2) :], "row", "in"]
    two = ["in"] if right == 1 else [*leading[len(leading) - (right - 2) :], "in", "out"]
    output = [*leading, *(["row"] if left > 1 else []), *(["out"] if right > 1 else [])]
    return [tuple(one), tuple(two)], tuple(output)


def _tensordot(operation: Any, values: list[Value]) -> tuple[list[Labels], Labels]:
    left, right = (len(value.shape) for value in values)
    axes = operation.axes
    if isinstance(axes, int):
        axes = [list(range(left - axes, left)), list(range(axes))]
    pairs = [[each] if isinstance(each, int) else list(each) for each in axes]
    inward = {
        (side, axis % size): f"in{index}"
        for side, (each, size) in enumerate(zip(pairs, (left, right), strict=True))
        for index, axis in enumerate(each)
    }
    labels = [
        tuple(inward.get((side, axis), f"{side}.{axis}") for axis in range(size))
        for side, size in enumerate((left, right))
    ]
    output = [label for each in labels for label in each if not str(label).startswith("in")]
    return labels, tuple(output)


def _dot(_operation: Any, values: list[Value]) -> tuple[list[Labels], Labels]:
    right = len(values[1].shape)
    return _tensordot(_Axes(([-1], [-1 if right == 1 else -2])), values)


def _inner(_operation: Any, values: list[Value]) -> tuple[list[Labels], Labels]:
    return _tensordot(_Axes(([-1], [-1])), values)


class _Axes(NamedTuple):
    axes: Any


def _einsum(operation: Any, values: list[Value]) -> tuple[list[Labels], Labels]:
    labels, output = einsum_labels(operation.subscripts, [len(value.shape) for value in values])
    return list(labels), output


_RULES: dict[str, Callable[[Any, list[Value]], tuple[list[Labels], Labels]]] = {
    "Matmul": _matmul,
    "Tensordot": _tensordot,
    "Dot": _dot,
    "Inner": _inner,
    "Einsum": _einsum,
}


def plain_fans(shape: Sequence[int], groups: int, steps: int) -> Fans:
    """Of a kernel (spatial…, channels of one group, filters); steps is the product of the strides."""
    *spatial, channels, filters = shape
    taps = math.prod(spatial)
    return Fans(taps * channels, taps * filters / (groups * steps))


def depthwise_fans(shape: Sequence[int], steps: int) -> Fans:
    """Of a kernel (spatial…, channels, multiplier), which do not depend on how many channels there are."""
    *spatial, _channels, multiplier = shape
    taps = math.prod(spatial)
    return Fans(taps, taps * multiplier / steps)


def transposed_fans(shape: Sequence[int], steps: int) -> Fans:
    """Of a kernel (spatial…, filters, channels)."""
    *spatial, filters, channels = shape
    taps = math.prod(spatial)
    return Fans(taps * channels / steps, taps * filters)


def transposed_axes(rank: int) -> tuple[list[int], list[int]]:
    """The input and output axes of a transposed kernel."""
    return [rank - 1], [*range(rank - 1)]


def depthwise_axes(rank: int) -> tuple[list[int], list[int]]:
    """The input and output axes of a depthwise kernel."""
    return [*range(rank - 2)], [rank - 1]


class Convolved(NamedTuple):
    """A kernel in a convolution: its fans, its axes where its shape does not tell, and the groups."""

    fans: Fans
    axes: tuple[list[int], list[int]] | None = None
    groups: int = 1


def of_step(step: Step, kernel: Value) -> Convolved | None:
    """A kernel in a convolution of `keras.ops`; None for what is none, or another operand."""
    if step.kind not in ("Conv", "DepthwiseConv", "SeparableConv", "ConvTranspose") or step.in_layer:
        return None
    signal: Any = step.inputs[0]
    if kernel is signal:
        return None
    rank, strides = len(signal.shape), step.operation.strides
    steps = math.prod(strides) if isinstance(strides, (tuple, list)) else strides ** (rank - 2)
    if step.kind == "ConvTranspose":
        return Convolved(transposed_fans(kernel.shape, steps), transposed_axes(rank))
    if step.kind == "DepthwiseConv" or (step.kind == "SeparableConv" and kernel is step.inputs[1]):
        return Convolved(depthwise_fans(kernel.shape, steps), depthwise_axes(rank))
    channels = signal.shape[1 if step.operation.data_format == "channels_first" else -1]
    groups = channels // kernel.shape[-2] if step.kind == "Conv" else 1
    steps = 1 if step.kind == "SeparableConv" else steps
    return Convolved(plain_fans(kernel.shape, groups, steps), groups=groups)
