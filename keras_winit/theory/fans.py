"""Fans, and what they count in a weight: its axes, its matrices, its gates."""

import functools
import math
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import layers, ops

from keras_winit.support.checks import Shape, as_axes, as_float, as_shape, one_of

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
        pair = (as_float("fan_in", fan_in, positive=True), as_float("fan_out", fan_out, positive=True))
        self = super().__new__(cls, (int(fan) if fan.is_integer() else fan for fan in pair))
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
        fan_in, fan_out = self
        if one_of("mode", mode, MODES) == "fan_avg":
            return (fan_in + fan_out) / 2
        if mode == "fan_geo_avg":
            return math.sqrt(fan_in * fan_out)
        return fan_in if mode == "fan_in" else fan_out

    def __repr__(self) -> str:
        note = f", note={self.note!r}" if self.note else ""
        return f"Fans(fan_in={self.fan_in:.6g}, fan_out={self.fan_out:.6g}{note})"

    def __getnewargs__(self) -> tuple[Any, ...]:  # of copies and pickles
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
    if axes := resolve_axes(shape, input_axes, output_axes):
        fan_in, fan_out = (math.prod(shape[axis] for axis in group) for group in axes)
        return Fans(fan_in, fan_out)
    if len(shape) < 2:
        return Fans(math.prod(shape), math.prod(shape))
    spatial = math.prod(shape[:-2])
    return Fans(spatial * shape[-2], spatial * shape[-1])


def resolve_axes(
    shape: tuple[int, ...],
    input_axes: Sequence[int] | None,
    output_axes: Sequence[int] | None,
) -> tuple[list[int], list[int]] | None:
    """Both groups of axes, counted from the front; None where neither is given."""
    if input_axes is None and output_axes is None:
        return None
    if input_axes is None or output_axes is None:
        raise ValueError(
            "`input_axes` and `output_axes` go together: give both or neither. "
            f"Received: input_axes={input_axes!r}, output_axes={output_axes!r}."
        )
    groups = []
    for name, axes in (("input_axes", input_axes), ("output_axes", output_axes)):
        group = as_axes(name, axes) or []
        if not all(-len(shape) <= axis < len(shape) for axis in group):
            raise ValueError(
                f"`{name}` names an axis that the shape does not have. "
                f"Received: {name}={list(axes)!r} for shape={shape!r}."
            )
        groups.append([axis % len(shape) for axis in group])
    inputs, outputs = groups
    if len({*inputs, *outputs}) < len(inputs) + len(outputs):
        raise ValueError(
            "An axis is either an input or an output. "
            f"Received: input_axes={list(input_axes)!r}, output_axes={list(output_axes)!r} "
            f"for shape={shape!r}."
        )
    return inputs, outputs


class MatrixView(NamedTuple):
    """A weight as matrices of its inputs and outputs, one for each place along its other axes."""

    shape: Shape
    inputs: list[int]
    outputs: list[int]

    @property
    def others(self) -> list[int]:
        """The axes that are neither inputs nor outputs, such as one that counts experts."""
        return [axis for axis in range(len(self.shape)) if axis not in (*self.inputs, *self.outputs)]

    @property
    def rows(self) -> int:
        """How many inputs a matrix has."""
        return self._size(self.inputs)

    @property
    def columns(self) -> int:
        """How many outputs a matrix has."""
        return self._size(self.outputs)

    @property
    def batch(self) -> int:
        """How many matrices there are."""
        return self._size(self.others)

    def restore(self, matrices: Any) -> Any:
        """The weight that has these matrices, (batch, rows, columns) or fewer axes of the same size."""
        order = [*self.others, *self.inputs, *self.outputs]
        shape = tuple(self.shape[axis] for axis in order)
        tensor = matrices if tuple(matrices.shape) == shape else ops.reshape(matrices, shape)
        return tensor if order == sorted(order) else ops.transpose(tensor, np.argsort(order).tolist())

    def _size(self, axes: list[int]) -> int:
        return math.prod(self.shape[axis] for axis in axes)


# Keras does not export it, and making a layer to ask it takes too long.
_CONV_LSTM_CELL = sys.modules[layers.ConvLSTM1D.__bases__[0].__module__].ConvLSTMCell
_LSTM = ("input", "forget", "candidate", "output")

# By Keras' order. A candidate is what a cell computes from its state.
GATES: dict[type, tuple[str, ...]] = {
    layers.SimpleRNNCell: ("candidate",),
    layers.GRUCell: ("update", "reset", "candidate"),
    layers.LSTMCell: _LSTM,
    _CONV_LSTM_CELL: _LSTM,
}
CELLS = tuple(GATES)


def gates(layer: Any) -> tuple[str, ...]:
    """The gates of a recurrent cell, none of other layers."""
    return next((names for cell, names in GATES.items() if isinstance(layer, cell)), ())


Labels = tuple[str, ...]


def einsum_labels(equation: str, ranks: Sequence[int]) -> tuple[tuple[Labels, ...], Labels]:
    """A label for each axis of an einsum's operands, of these ranks, and of its output.

    Without an arrow the output has the letters that are there once, in their order.

    Example:

    >>> einsum_labels("...c,cd->...d", [3, 2])
    ((('0', '1', 'c'), ('c', 'd')), ('0', '1', 'd'))
    """
    return _labels(equation, tuple(ranks))


@functools.lru_cache(maxsize=1024)
def _labels(equation: str, ranks: tuple[int, ...]) -> tuple[tuple[Labels, ...], Labels]:
    inputs, arrow, output = re.sub(r"\s", "", equation).partition("->")
    terms = inputs.split(",")
    if not arrow:
        output = "..." * ("..." in inputs)
        output += "".join(each for each in sorted(inputs) if inputs.count(each) == 1 and each not in ",.")
    hidden = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    dots = list(map(str, range(max(0, *hidden))))

    def spread(term: str, count: int) -> Labels:
        before, inside, after = term.partition("...")
        return (*before, *(dots[len(dots) - count :] if inside else ()), *after)

    labels = tuple(spread(term, count) for term, count in zip(terms, hidden, strict=True))
    return labels, spread(output, len(dots))
