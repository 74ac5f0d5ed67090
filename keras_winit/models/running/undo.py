"""Changes to a model that are taken back where something fails, or all kept."""

import contextlib
import math
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from keras.src.backend.common.variables import AutocastScope  # which Keras does not export

from keras_winit.support.host import host_array


def exact_value(variable: Any) -> Any:
    """A variable's value in its own precision, also while a layer of mixed precision is called."""
    value = variable._value
    return value.read_value() if hasattr(value, "read_value") else value  # TensorFlow's is a variable too


def assign_exactly(variable: Any, value: Any) -> None:
    """Assign to a variable, also while a layer of mixed precision is called.

    There Keras would show PyTorch a copy of half precision to assign to.
    """
    with AutocastScope(None):
        variable.assign(value)


class Undo:
    """The values that variables and attributes had, in the order in which they were changed.

    Values go to a temporary file, so that a model is not held in memory twice.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._saved: list[tuple[Any, int, tuple[int, ...], Any]] = []
        self._kept: set[int] = set()
        self._attributes: list[tuple[Any, str, Any]] = []

    def keep(self, variable: Any) -> None:
        """Note a variable's value, to give it back on failure; of several, the first counts."""
        if id(variable) in self._kept:
            return
        start, array = self._file.tell(), host_array(exact_value(variable))
        rest = np.ascontiguousarray(array).reshape(-1).view("uint8").data
        while rest:  # a full disk takes a part before it says so
            rest = rest[self._file.write(rest) :]
        self._saved.append((variable, start, array.shape, array.dtype))  # only once it can be taken back
        self._kept.add(id(variable))

    def assign(self, variable: Any, value: Any) -> None:
        """Assign to a variable, its old value kept."""
        self.keep(variable)
        variable.assign(value)

    def set_attribute(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute, its old value kept."""
        self._attributes.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def take_back(self) -> None:
        """Give everything its old value."""
        for variable, start, shape, dtype in reversed(self._saved):
            self._file.seek(start)
            values = np.empty(math.prod(shape) * dtype.itemsize, "uint8")
            rest: Any = values.data
            while rest:
                rest = rest[self._file.readinto(rest) :]
            variable.assign(values.view(dtype).reshape(shape))
        for owner, name, value in reversed(self._attributes):
            setattr(owner, name, value)


@contextlib.contextmanager
def undo_on_failure() -> Iterator[Undo]:
    """All changes made through the `Undo` are taken back if the block raises, an interrupt included."""
    # No buffer: what a full disk refuses would wait in it, and be in the way of taking back.
    with tempfile.TemporaryFile(buffering=0) as file:
        undo = Undo(file)
        try:
            yield undo
        except BaseException:
            try:
                undo.take_back()
            except KeyboardInterrupt:  # a second one: from the start
                undo.take_back()
            raise
