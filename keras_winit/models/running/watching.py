"""Watch and change what layers do in a call, and leave no trace."""

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import keras
from keras import layers, ops

Hook = Callable[..., Any]


@contextlib.contextmanager
def intercepted(hooks: Mapping[Any, Hook]) -> Iterator[None]:
    """In the block `hook(call, *arguments)` answers in place of a layer's `call(*arguments)`."""
    calls = [(layer, "call", partial(_by_position, hook, layer.call)) for layer, hook in hooks.items()]
    with _having_all(calls):
        yield


def _by_position(hook: Hook, call: Any, /, *arguments: Any, **options: Any) -> Any:
    """Hand the first argument to a hook by position."""
    if not arguments and options:
        first = next(iter(inspect.signature(call).parameters), None)
        if first in options:
            arguments = (options.pop(first),)
    return hook(call, *arguments, **options)


@contextlib.contextmanager
def as_written(model: keras.layers.Layer) -> Iterator[None]:
    """In the block every layer's call runs as written, not compiled and not computed twice.

    TensorFlow would go on using what it compiles here, and JAX compiles what it computes twice.
    """
    computed_twice = [
        (layer, "_remat_mode", None)
        for layer in model._flatten_layers()
        if getattr(layer, "_remat_mode", None) is not None
    ]
    with _having_all(computed_twice), _eagerly():
        yield


# Who is in a block of `_eagerly`, and what holds outside: TensorFlow's switch is one for all threads.
_EAGER: set[object] = set()
_EAGER_BEFORE: list[bool] = []
_EAGER_LOCK = threading.RLock()


@contextlib.contextmanager
def _eagerly() -> Iterator[None]:
    """In the block TensorFlow compiles no function."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf  # noqa: PLC0415

    here = object()

    def put_back() -> None:
        with _EAGER_LOCK:
            _EAGER.discard(here)
            if not _EAGER and _EAGER_BEFORE:
                tf.config.run_functions_eagerly(_EAGER_BEFORE[0])
                _EAGER_BEFORE.clear()

    try:
        with _EAGER_LOCK:
            if not _EAGER_BEFORE:
                _EAGER_BEFORE.append(tf.config.functions_run_eagerly())
            _EAGER.add(here)
            tf.config.run_functions_eagerly(True)
        yield
    finally:
        try:
            put_back()
        except KeyboardInterrupt:  # in the midst of it: from the start
            put_back()
            raise


def having(layer: Any, **values: Any) -> contextlib.AbstractContextManager[None]:
    """In the block attributes of a layer have other values, put where Keras does not track them."""
    return _having_all([(layer, name, value) for name, value in values.items()])


# For each attribute what was there, and above it what each block that is not over has put there. An
# interrupt can end an inner block after the one around it.
_CHANGED: dict[tuple[int, str], list[tuple[object, Any]]] = {}
_MISSING = object()


@contextlib.contextmanager
def _having_all(changes: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    block = object()

    def put_back() -> None:
        for layer, name, _ in changes:
            values = _CHANGED.get((id(layer), name))
            if values is None:
                continue
            values[:] = [each for each in values if each[0] is not block]
            if values[-1][1] is _MISSING:
                vars(layer).pop(name, None)
            else:
                vars(layer)[name] = values[-1][1]
            if len(values) == 1:
                del _CHANGED[id(layer), name]

    try:
        for layer, name, value in changes:
            first = (None, vars(layer).get(name, _MISSING))
            _CHANGED.setdefault((id(layer), name), [first]).append((block, value))
            vars(layer)[name] = value
        yield
    finally:
        try:
            put_back()
        except KeyboardInterrupt:  # in the midst of it: from the start
            put_back()
            raise


@contextlib.contextmanager
def untouched(model: keras.layers.Layer, undo: Any = None) -> Iterator[None]:
    """What a call changes by itself (statistics, seeds, losses) is as before when the block ends.

    A block that an interrupt threw away may end after the `undo` around it: variables are then left to that.
    """
    states = _changed_by_calls(model)
    for variable in states if undo is not None else ():
        undo.keep(variable)
    values = [ops.convert_to_numpy(variable).copy() for variable in states]
    losses = [(layer, list(layer._losses), set(layer._loss_ids)) for layer in model._flatten_layers()]

    def put_back() -> None:
        for variable, value in zip(states, values, strict=False):  # none where they are left to an undo
            variable.assign(value)
        for layer, held, ids in losses:
            layer._losses[:] = held
            layer._loss_ids.clear()
            layer._loss_ids.update(ids)

    try:
        yield
    except GeneratorExit:
        if undo is not None:
            states.clear()
        raise
    finally:
        try:
            put_back()
        except KeyboardInterrupt:  # in the midst of it: from the start
            put_back()
            raise


def _changed_by_calls(model: keras.layers.Layer) -> list[Any]:
    """What training does not change, spectrally normalized kernels, and the states of RNNs."""
    every = model._flatten_layers()
    learned = {id(variable) for layer in every for variable in layer._trainable_variables}
    found = {id(variable): variable for variable in model.variables if id(variable) not in learned}
    for layer in every:
        if isinstance(layer, layers.SpectralNormalization) and layer.built:
            found[id(layer.kernel)] = layer.kernel
        if isinstance(layer, layers.RNN) and layer.stateful:
            for state in keras.tree.flatten(layer.states):
                if isinstance(state, keras.Variable):
                    found[id(state)] = state
    return list(found.values())


def no_gradients() -> contextlib.AbstractContextManager[Any]:
    """In the block nothing is kept for a backward pass."""
    if keras.backend.backend() == "torch":
        import torch  # noqa: PLC0415

        return surely_left(torch.no_grad())
    return contextlib.nullcontext()


@contextlib.contextmanager
def surely_left(scope: Any) -> Iterator[None]:
    """The block is in a scope, which is left even if an interrupt comes meanwhile.

    Where an interrupt keeps Python from leaving this block, it leaves the scope as it throws the block away.
    """
    try:
        with scope:
            yield
    except KeyboardInterrupt:
        scope.__exit__(None, None, None)  # to leave it again changes nothing
        raise
