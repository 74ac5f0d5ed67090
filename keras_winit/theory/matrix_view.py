"""A weight of any rank seen as matrices of its inputs by its outputs."""

import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_winit.support.checks import Shape


class MatrixView(NamedTuple):
    """Where the inputs, the outputs and the rest of a weight's axes are.

    Axes that are neither input nor output, such as one that counts experts, hold a batch of
    independent matrices.
    """

    shape: Shape
    inputs: list[int]
    outputs: list[int]

    @property
    def others(self) -> list[int]:
        """The axes that are neither inputs nor outputs."""
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
        """The weight whose matrices, (batch, rows, columns) or fewer axes of the same size, these are."""
        order = [*self.others, *self.inputs, *self.outputs]
        shape = tuple(self.shape[axis] for axis in order)
        tensor = matrices if tuple(matrices.shape) == shape else ops.reshape(matrices, shape)
        return tensor if order == sorted(order) else ops.transpose(tensor, np.argsort(order).tolist())

    def _size(self, axes: list[int]) -> int:
        return math.prod(self.shape[axis] for axis in axes)
