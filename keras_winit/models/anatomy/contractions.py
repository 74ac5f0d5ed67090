"""What an operation sums over: a label for every axis of its operands and of its output.

A label that the output does not have is summed over. The kernels of convolutions are told by kind.
"""

import itertools
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

    def labels(self, value: Value) -> Labels:
        """The labels of an operand's axes."""
        return next(labels for operand, labels in self.operands if operand is value)

    def sizes(self) -> dict[Any, int]:
        """The size of each label."""
        pairs = (zip(labels, value.shape, strict=True) for value, labels in self.operands)
        return {label: size for label, size in itertools.chain(*pairs) if label is not None}


def contraction(step: Step) -> Contraction | None:
    """What a step of `keras.ops` sums over, or None for one that is no sum of products."""
    rule = _RULES.get(step.kind)
    if rule is None or step.in_layer or len(step.outputs) != 1:
        return None
    found = [item if isinstance(item, Value) else _constant(item) for item in step.arguments]
    values = [value for value in found if value is not None]
    if len(values) != len(found) or len(values) < 2:
        return None
    ranks = [len(value.shape) for value in values]
    if 0 in ranks and step.kind != "Einsum":  # times a number
        return None
    labels, output = rule(step.operation, *ranks)
    pairs = [list(zip(each, value.shape, strict=True)) for each, value in zip(labels, values, strict=True)]
    sizes: dict[Any, set[int]] = {}
    for label, size in itertools.chain(*pairs):
        sizes.setdefault(label, set()).add(size)
    ones = {label for label, found in sizes.items() if found == {1}}
    named = (tuple(label if size != 1 or label in ones else None for label, size in each) for each in pairs)
    return Contraction(tuple(zip(values, named, strict=True)), tuple(output))


def _constant(item: Any) -> Value | None:
    """A bare array of NumPy, or a tensor, as a value."""
    shape = getattr(item, "shape", None)
    return None if shape is None else Value(tuple(shape), str(item.dtype), "constant")


def _matmul(left: int, right: int) -> tuple[list[Labels], Labels]:
    leading = [f"batch{index}" for index in range(max(left, right) - 2)]
    one = ["in"] if left == 1 else [*leading[len(leading) - (left - 2) :], "row", "in"]
    two = ["in"] if right == 1 else [*leading[len(leading) - (right - 2) :], "in", "out"]
    output = [*leading, *(["row"] if left > 1 else []), *(["out"] if right > 1 else [])]
    return [tuple(one), tuple(two)], tuple(output)


def _tensordot(axes: Any, left: int, right: int) -> tuple[list[Labels], Labels]:
    if isinstance(axes, int):
        axes = range(left - axes, left), range(axes)
    labels = [[f"{side}.{axis}" for axis in range(rank)] for side, rank in enumerate((left, right))]
    for each, own in zip(axes, labels, strict=True):
        for index, axis in enumerate([each] if isinstance(each, int) else each):
            own[axis] = f"in{index}"
    output = [label for own in labels for label in own if not label.startswith("in")]
    return [tuple(own) for own in labels], tuple(output)


# For each kind, what gives the labels, from the operation and the ranks of its operands.
_RULES: dict[str, Callable[..., tuple[Sequence[Labels], Labels]]] = {
    "Matmul": lambda _operation, left, right: _matmul(left, right),
    "Tensordot": lambda operation, left, right: _tensordot(operation.axes, left, right),
    "Dot": lambda _operation, left, right: _tensordot((-1, -1 if right == 1 else -2), left, right),
    "Inner": lambda _operation, left, right: _tensordot((-1, -1), left, right),
    "Einsum": lambda operation, *ranks: einsum_labels(operation.subscripts, ranks),
}


def plain_fans(shape: Sequence[int], strides: Any, groups: int = 1) -> Fans:
    """Of a kernel (spatial…, channels of one group, filters)."""
    taps, steps = _taps_and_steps(shape, strides)
    return Fans(taps * shape[-2], taps * shape[-1] / (groups * steps))


def depthwise_fans(shape: Sequence[int], strides: Any) -> Fans:
    """Of a kernel (spatial…, channels, multiplier), which do not depend on how many channels there are."""
    taps, steps = _taps_and_steps(shape, strides)
    return Fans(taps, taps * shape[-1] / steps)


def transposed_fans(shape: Sequence[int], strides: Any) -> Fans:
    """Of a kernel (spatial…, filters, channels)."""
    taps, steps = _taps_and_steps(shape, strides)
    return Fans(taps * shape[-1] / steps, taps * shape[-2])


def _taps_and_steps(shape: Sequence[int], strides: Any) -> tuple[int, int]:
    """The products of a kernel's spatial sizes and of its strides; one stride is that of all."""
    *spatial, _, _ = shape
    return math.prod(spatial), math.prod(strides) if isinstance(strides, (tuple, list)) else strides ** len(
        spatial
    )


def transposed_axes(rank: int) -> tuple[list[int], list[int]]:
    """The input and output axes of a transposed kernel."""
    return [rank - 1], [*range(rank - 1)]


def depthwise_axes(rank: int) -> tuple[list[int], list[int]]:
    """The input and output axes of a depthwise kernel."""
    return [*range(rank - 2)], [rank - 1]


def of_step(step: Step, kernel: Value) -> tuple[Fans, tuple[list[int], list[int]] | None, int] | None:
    """A kernel's fans in a convolution of `keras.ops`, its axes where its shape does not tell, its groups.

    None for what is none, or another operand.
    """
    if step.kind not in ("Conv", "DepthwiseConv", "SeparableConv", "ConvTranspose") or step.in_layer:
        return None
    signal: Any = step.inputs[0]
    if kernel is signal:
        return None
    rank, strides = len(signal.shape), step.operation.strides
    if step.kind == "ConvTranspose":
        return transposed_fans(kernel.shape, strides), transposed_axes(rank), 1
    if step.kind == "DepthwiseConv" or (step.kind == "SeparableConv" and kernel is step.inputs[1]):
        return depthwise_fans(kernel.shape, strides), depthwise_axes(rank), 1
    if step.kind == "SeparableConv":  # its pointwise kernel
        return plain_fans(kernel.shape, 1), None, 1
    channels = signal.shape[1 if step.operation.data_format == "channels_first" else -1]
    groups = channels // kernel.shape[-2]
    return plain_fans(kernel.shape, strides, groups), None, groups
