"""Changes to a model that are taken back where something fails, or all kept."""

import contextlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import ops


class Undo:
    """The values that variables and attributes had, in the order in which they were changed.

    Values go to a temporary file, so that a model is not held in memory twice.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._saved: list[tuple[Any, int, tuple[int, ...], Any]] = []
        self._attributes: list[tuple[Any, str, Any]] = []

    def assign(self, variable: Any, value: Any) -> None:
        """Assign to a variable, its old value kept."""
        old = np.ascontiguousarray(ops.convert_to_numpy(variable.value))
        start = self._file.tell()
        self._file.write(old.tobytes() if old.dtype.kind == "V" else old.data)
        self._saved.append((variable, start, old.shape, old.dtype))  # only once it can be taken back
        variable.assign(value)

    def set_attribute(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute, its old value kept."""
        self._attributes.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def take_back(self) -> None:
        """Give everything its old value."""
        for variable, start, shape, dtype in reversed(self._saved):
            self._file.seek(start)
            count = int(np.prod(shape)) * dtype.itemsize
            variable.assign(np.frombuffer(self._file.read(count), dtype).reshape(shape))
        for owner, name, value in reversed(self._attributes):
            setattr(owner, name, value)


@contextlib.contextmanager
def undo_on_failure() -> Iterator[Undo]:
    """All changes made through the `Undo` are taken back if the block raises, an interrupt included."""
    with tempfile.TemporaryFile() as file:
        undo = Undo(file)
        try:
            yield undo
        except BaseException:
            undo.take_back()
            raise
