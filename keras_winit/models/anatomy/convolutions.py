"""The kernels of convolutions: their fans and their axes, by kind."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from keras_winit.models.tracing.trace import Step, Value
from keras_winit.theory.fans import Fans


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
