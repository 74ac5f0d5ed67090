"""Changes to a model that are taken back where something fails, and what starts over with it."""

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
from keras import layers, tree
from keras.src.backend.common.variables import AutocastScope

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


_SMALL = 2**12  # of so many numbers a file would take more time than it saves memory
_PART = 2**20  # numbers of what is read by copying
_HELD = 2**25  # so many numbers in all are held in memory before a file is written to

# Keeps a value, and returns what gives it back.
Store = Callable[[Any], Callable[[], Any]]


def _in_memory(value: Any) -> Callable[[], Any]:
    """Hold a value: TensorFlow and JAX assign another tensor; PyTorch writes into the one that is there."""
    if keras.backend.backend() == "torch":
        value = value.detach().clone()
    return lambda: value


def _in_file(file: Any) -> Store:
    """Write values to a file, so that they are not in memory twice."""

    def keep(value: Any) -> Callable[[], Any]:
        if math.prod(value.shape) <= _SMALL:
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
    """A value; JAX's of half precision by parts of its first axis, as numpy would copy what it reads."""
    whole = keras.backend.backend() != "jax" or value.ndim == 0 or value.dtype.itemsize > 2
    if whole or len(value.devices()) > 1:
        yield value
        return
    step = max(1, _PART * len(value) // math.prod(value.shape))
    for start in range(0, len(value), step):
        yield value[start : start + step]


def _sparing(file: Any) -> Store:
    """Hold values while there are few, and write to a file what would make them many."""
    in_file, room = _in_file(file), _HELD

    def keep(value: Any) -> Callable[[], Any]:
        nonlocal room
        size = math.prod(value.shape)
        if size > room:
            return in_file(value)
        room -= size
        return _in_memory(value)

    return keep


class Undo:
    """The values that variables and attributes had, in the order in which they were changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._saved: list[tuple[Any, Callable[[], Any]]] = []
        self._kept: set[int] = set()
        self._attributes: list[tuple[Any, str, Any]] = []

    def keep(self, variable: Any) -> None:
        """Note a variable's value, to give it back on failure; of several, the first counts."""
        if id(variable) in self._kept:
            return
        value = self._store(exact_value(variable))
        self._saved.append((variable, value))  # only once it can be taken back
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
        for variable, value in reversed(self._saved):
            variable.assign(value())
        for owner, name, value in reversed(self._attributes):
            setattr(owner, name, value)


@contextlib.contextmanager
def taken_back() -> Iterator[Undo]:
    """All changes made through the `Undo` are taken back as the block ends, however it ends.

    The old values are in a temporary file, where what trains a model does not reach them.
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
        in_memory: where the old values are until then: all in memory, which costs no time; or those of a
            large model in a temporary file, since it could not be held twice.
    """
    # No buffer: what a full disk refuses would wait in it, and be in the way of taking back. And nothing
    # of Python's own closes either file, where an interrupt would come too late to take back.
    with io.BytesIO() if in_memory else tempfile.TemporaryFile(buffering=0) as file:
        undo = Undo(_in_memory if in_memory else _sparing(file))
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
    """One such state that is not at its start: the value that it starts from, and what that means."""

    variable: Any
    start: Any
    reason: str


def states_of(model: keras.layers.Layer) -> list[State]:
    """The states of a model that have moved on, in the order of its layers."""
    found: dict[int, State] = {}
    for layer in model._flatten_layers():
        for generator in layer._seed_generators:
            seed, count = keras.ops.convert_to_numpy(generator.state)
            if count:
                start = np.array([seed, 0], generator.state.dtype)
                reason = f"{layer.name}: its random numbers start over"
                found.setdefault(id(generator.state), State(generator.state, start, reason))
        for variable in tree.flatten(layer.states) if _keeps_its_state(layer) else ():
            value = keras.ops.convert_to_numpy(variable)
            if value.any():
                start = np.zeros_like(value)
                found.setdefault(id(variable), State(variable, start, f"{layer.name}: its state is empty"))
    return list(found.values())


def _keeps_its_state(layer: Any) -> bool:
    if not isinstance(layer, layers.RNN) or not layer.stateful:
        return False
    return all(isinstance(each, keras.Variable) for each in tree.flatten(layer.states))


def reset_states(states: list[State], undo: Undo) -> None:
    """Let each state start over."""
    for state in states:
        undo.assign(state.variable, state.start)


def reset_optimizer(optimizer: keras.optimizers.Optimizer, undo: Undo) -> None:
    """Give the state of an optimizer the values that it starts with.

    Raises:
        ValueError: for an optimizer that was built for other weights.
    """
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
    """The learning rate in force, which is not part of the state: a callback may have changed it."""
    if isinstance(optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        return "its learning rate follows its schedule from the start"
    return f"its learning rate stays {float(keras.ops.convert_to_numpy(optimizer.learning_rate)):.3g}"
