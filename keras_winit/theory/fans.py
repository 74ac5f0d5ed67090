"""Fans: how many inputs feed one output element, and how many outputs one input element feeds."""

import math
from collections.abc import Sequence
from typing import Any

from keras_winit.support.checks import as_axes, as_float, as_shape, one_of

MODES = ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")


class Fans(tuple[float, float]):
    """The pair (`fan_in`, `fan_out`) of a weight; it unpacks like a tuple.

    Args:
        fan_in: how many inputs feed one output element, a positive number.
        fan_out: how many outputs one input element feeds, a positive number.
        note: how the pair was found, where that is worth knowing.

    Raises:
        TypeError, ValueError: where a fan is not a positive, finite number.

    Example:

    >>> fan_in, fan_out = Fans(9, 288)
    >>> Fans(9, 288).average("fan_geo_avg")
    50.91168824543142
    """

    note: str

    def __new__(cls, fan_in: float, fan_out: float, note: str = "") -> "Fans":
        pair = (
            _tidy(as_float("fan_in", fan_in, positive=True)),
            _tidy(as_float("fan_out", fan_out, positive=True)),
        )
        self = super().__new__(cls, pair)
        self.note = note
        return self

    @property
    def fan_in(self) -> float:
        """How many inputs feed one output element."""
        return self[0]

    @property
    def fan_out(self) -> float:
        """How many outputs one input element feeds."""
        return self[1]

    def average(self, mode: str) -> float:
        """The number that a variance is divided by: one fan, or a mean of both."""
        one_of("mode", mode, MODES)
        if mode == "fan_in":
            return self.fan_in
        if mode == "fan_out":
            return self.fan_out
        if mode == "fan_avg":
            return (self.fan_in + self.fan_out) / 2
        return math.sqrt(self.fan_in * self.fan_out)

    def __repr__(self) -> str:
        note = f", note={self.note!r}" if self.note else ""
        return f"Fans(fan_in={self.fan_in:.6g}, fan_out={self.fan_out:.6g}{note})"

    def __getnewargs__(self) -> tuple[Any, ...]:  # copying and pickling go through __new__
        return (*self, self.note)


def compute_fans(
    shape: Sequence[int],
    input_axes: Sequence[int] | None = None,
    output_axes: Sequence[int] | None = None,
) -> Fans:
    """The fans of a weight from its shape alone, by Keras' convention.

    Without axes, a matrix is (inputs, outputs), and a larger rank is a convolution kernel
    (spatial…, inputs, outputs) whose spatial size multiplies both fans. A vector's fans are its
    length and a scalar's are 1. For the fans that a layer really has, which for depthwise,
    transposed and fused recurrent kernels differ, use `layer_fans`.

    Args:
        shape: positive integers.
        input_axes: the axes that are summed over, where the shape does not tell.
        output_axes: the axes that are put out. Give both or neither; an axis in neither, such
            as one that counts experts, counts for neither fan.

    Returns:
        `Fans`.

    Raises:
        TypeError, ValueError: for an impossible shape or axes.

    Example:

    >>> compute_fans((3, 3, 32, 64))
    Fans(fan_in=288, fan_out=576)
    >>> compute_fans((512, 8, 64), input_axes=[0], output_axes=[1, 2])
    Fans(fan_in=512, fan_out=512)
    """
    shape = as_shape(shape)
    axes = resolve_axes(shape, input_axes, output_axes)
    if axes is not None:
        fan_in, fan_out = (math.prod(shape[axis] for axis in group) for group in axes)
        return Fans(fan_in, fan_out)
    if len(shape) < 2:
        length = math.prod(shape)
        return Fans(length, length)
    spatial = math.prod(shape[:-2])
    return Fans(spatial * shape[-2], spatial * shape[-1])


def resolve_axes(
    shape: tuple[int, ...],
    input_axes: Sequence[int] | None,
    output_axes: Sequence[int] | None,
) -> tuple[list[int], list[int]] | None:
    """Both groups of axes counted from the front, or None where neither is given."""
    if input_axes is None and output_axes is None:
        return None
    if input_axes is None or output_axes is None:
        raise ValueError(
            "`input_axes` and `output_axes` go together: give both or neither. "
            f"Received: input_axes={input_axes!r}, output_axes={output_axes!r}."
        )
    groups = []
    for name, axes in (("input_axes", input_axes), ("output_axes", output_axes)):
        group = []
        for axis in as_axes(name, axes) or []:
            if not -len(shape) <= axis < len(shape):
                raise ValueError(
                    f"`{name}` names an axis that the shape does not have. "
                    f"Received: {name}={list(axes)!r} for shape={shape!r}."
                )
            group.append(axis % len(shape))
        groups.append(group)
    if len(set(groups[0]) | set(groups[1])) != len(groups[0]) + len(groups[1]):
        raise ValueError(
            "An axis is either an input or an output. "
            f"Received: input_axes={list(input_axes)!r}, output_axes={list(output_axes)!r} "
            f"for shape={shape!r}."
        )
    return groups[0], groups[1]


def _tidy(number: float) -> float:
    return int(number) if number == int(number) else number
