"""Tensors without numbers, in the place of a model's tensors and variables."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops, tree


class VariableSymbol(keras.KerasTensor):
    """A symbol in the place of a variable: like it for all that does not need numbers."""

    def __init__(self, variable: Any) -> None:
        dtype = keras.backend.standardize_dtype(variable.dtype)
        super().__init__(tuple(variable.shape), dtype, name=variable.name)
        self.path, self.trainable = variable.path, variable.trainable

    @property
    def value(self) -> "VariableSymbol":
        """Itself: Keras' variables have their tensor here."""
        return self

    def assign(self, value: Any) -> Any:
        """Nothing: a trace changes no variable."""
        return value

    assign_add = assign_sub = assign


def mapped(function: Callable[[Any], Any], nest: Any) -> Any:
    """A nest with a function of each leaf; quickly for what is none."""
    if nest is None or isinstance(nest, (keras.KerasTensor, bool, int, float, str)):
        return function(nest)
    return tree.map_structure(function, nest)


def is_symbol(item: Any) -> bool:
    """Whether something is a tensor without numbers."""
    return isinstance(item, keras.KerasTensor)


def fresh(item: Any) -> Any:
    """A new symbol like a tensor, symbolic or not; all else as it is."""
    if is_symbol(item) or ops.is_tensor(item) or isinstance(item, np.ndarray):
        # A name keeps Keras from making one.
        return keras.KerasTensor(tuple(item.shape), keras.backend.standardize_dtype(item.dtype), name="_")
    return item
