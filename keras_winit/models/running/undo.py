"""Changes to a model that can be taken back, and states that start over."""

import contextlib
import io
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops, tree
from keras.src.backend.common.variables import AutocastScope

from keras_winit.support.host import host_array


def exact_value(variable: Any) -> Any:
    """A variable's value in its own precision, also where a layer of mixed precision is called."""
    value = variable._value
    return value.read_value() if hasattr(value, "read_value") else value  # TensorFlow's is a variable too


def assign_exactly(variable: Any, value: Any) -> None:
    """Assign to a variable, also where a layer of mixed precision is called."""
    with AutocastScope(None):  # else Keras shows PyTorch a copy of half precision to assign to
        variable.assign(value)


_SMALL = 2**12  # numbers for which a file would take more time than it saves memory
_PART = 2**20  # numbers of what is read by copying
_HELD = 2**25  # numbers held in memory before a file is written to

# Keeps a value; returns what gives it back.
Store = Callable[[Any], Callable[[], Any]]


def _in_memory(value: Any) -> Callable[[], Any]:
    """Hold a value: only PyTorch writes into the tensor that is there."""
    if keras.backend.backend() == "torch":
        value = value.detach().clone()
    return lambda: value


def _in_file(file: Any, room: int = -1) -> Store:
    """Hold as many numbers as there is room for, and write the rest to a file."""

    def keep(value: Any) -> Callable[[], Any]:
        nonlocal room
        size = math.prod(value.shape)
        if size <= room:
            room -= size
            return _in_memory(value)
        if size <= _SMALL:
            array = host_array(value).copy()  # JAX gives the memory of what is trained to what comes of it
            return lambda: array
        start = file.seek(0, os.SEEK_END)  # giving back may have moved it
        for part in _readable(value):
            array = host_array(part)
            rest = np.ascontiguousarray(array).reshape(-1).view("uint8").data
            while rest:  # a full disk takes a part before it says so
                rest = rest[file.write(rest) :]
        return partial(give_back, start, tuple(value.shape), array.dtype)

    def give_back(start: int, shape: tuple[int, ...], dtype: Any) -> Any:
        file.seek(start)
        values = np.empty(math.prod(shape) * dtype.itemsize, "uint8")
        rest: Any = values.data
        while rest:
            rest = rest[file.readinto(rest) :]
        return values.view(dtype).reshape(shape)

    return keep


def _readable(value: Any) -> Iterator[Any]:
    """A value; JAX's of half precision, which numpy copies to read, by parts of its first axis."""
    whole = keras.backend.backend() != "jax" or value.ndim == 0 or value.dtype.itemsize > 2
    if whole or len(value.devices()) > 1:
        yield value
        return
    step = max(1, _PART * len(value) // math.prod(value.shape))
    for start in range(0, len(value), step):
        yield value[start : start + step]


class Undo:
    """The values that variables and attributes had before their changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: set[int] = set()
        self._changes: list[Callable[[], Any]] = []

    def keep(self, variable: Any) -> None:
        """Keep a variable's value, the first of several."""
        if id(variable) not in self._kept:
            value = self._store(exact_value(variable))
            self._changes.append(lambda: variable.assign(value()))
            self._kept.add(id(variable))  # only once it can be taken back

    def assign(self, variable: Any, value: Any) -> None:
        """Assign to a variable, its old value kept."""
        self.keep(variable)
        variable.assign(value)

    def set_attribute(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute, its old value kept."""
        self._changes.append(partial(setattr, owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def take_back(self) -> None:
        """Give everything its old value."""
        for change in reversed(self._changes):
            change()


@contextlib.contextmanager
def taken_back() -> Iterator[Undo]:
    """All changes made through the `Undo` are taken back as the block ends.

    The old values are in a temporary file, out of the reach of training.
    """
    with tempfile.TemporaryFile(buffering=0) as file:
        undo = Undo(_in_file(file))
        try:
            yield undo
        finally:
            try:
                undo.take_back()
            except KeyboardInterrupt:  # in the midst of it: from the start
                undo.take_back()
                raise


@contextlib.contextmanager
def undo_on_failure(*, in_memory: bool = False) -> Iterator[Undo]:
    """All changes made through the `Undo` are taken back if the block raises, an interrupt included.

    Args:
        in_memory: hold all old values in memory, which costs no time; else those of a large model are in a
            temporary file, as they could not be held twice.
    """
    # No buffer: what a full disk refuses would wait in it, in the way of taking back. And nothing of Python's
    # own closes either file: an interrupt there would come too late to take back.
    with io.BytesIO() if in_memory else tempfile.TemporaryFile(buffering=0) as file:
        undo = Undo(_in_memory if in_memory else _in_file(file, _HELD))
        try:
            yield undo
        except BaseException:
            try:
                undo.take_back()
            except KeyboardInterrupt:  # in the midst of it: from the start
                undo.take_back()
                raise
            raise


class State(NamedTuple):
    """A state that is not at its start, the value to start from, and what that means."""

    variable: Any
    start: Any
    reason: str


def states_of(model: keras.layers.Layer) -> list[State]:
    """The states of a model that have moved on."""
    found: dict[int, State] = {}
    for layer in model._flatten_layers():
        for generator in layer._seed_generators:
            seed, count = ops.convert_to_numpy(generator.state)
            if count:
                start = np.array([seed, 0], generator.state.dtype)
                reason = f"{layer.name}: its random numbers start over"
                found.setdefault(id(generator.state), State(generator.state, start, reason))
        states = tree.flatten(layer.states) if isinstance(layer, layers.RNN) and layer.stateful else []
        for variable in states if all(isinstance(each, keras.Variable) for each in states) else ():
            value = ops.convert_to_numpy(variable)
            if value.any():
                start = np.zeros_like(value)
                found.setdefault(id(variable), State(variable, start, f"{layer.name}: its state is empty"))
    return list(found.values())


def reset_states(states: list[State], undo: Undo) -> None:
    """Let each state start over."""
    for state in states:
        undo.assign(state.variable, state.start)


def reset_optimizer(optimizer: keras.optimizers.Optimizer, undo: Undo) -> None:
    """Let an optimizer start over; a ValueError where it was built for other weights."""
    fresh = type(optimizer).from_config(optimizer.get_config())
    # What it was built for, which after loading an h5 file may be nothing yet.
    fresh.build(getattr(optimizer, "inner_optimizer", optimizer)._trainable_variables)
    if [tuple(v.shape) for v in fresh.variables] != [tuple(v.shape) for v in optimizer.variables]:
        raise ValueError(
            f"The state of the optimizer {type(optimizer).__name__} does not belong to this model's weights. "
            "Compile the model again."
        )
    for old, new in zip(optimizer.variables, fresh.variables, strict=True):
        undo.assign(old, new)


def rate_of(optimizer: keras.optimizers.Optimizer) -> str:
    """The learning rate in force, which is no state: a callback may have changed it."""
    if isinstance(optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        return "its learning rate follows its schedule from the start"
    return f"its learning rate stays {float(ops.convert_to_numpy(optimizer.learning_rate)):.3g}"
