"""A kernel as a matrix with a column for each unit."""

from typing import Any

import numpy as np

from keras_winit.models.anatomy.slots import Slot
from keras_winit.theory.matrix_view import MatrixView


def columns(slot: Slot, array: Any) -> Any:
    """The weights of a slot as a matrix with a column for each unit."""
    rank = array.ndim
    inputs, outputs = slot.axes or (list(range(rank - 1)), [rank - 1])
    if slot.depthwise:  # each channel is a unit of its own
        outputs = [axis for axis in range(rank) if axis not in inputs]
    view = MatrixView(slot.shape, list(inputs), list(outputs))
    order = [*view.inputs, *view.others, *view.outputs]
    return np.transpose(array, order).reshape(-1, view.columns)
