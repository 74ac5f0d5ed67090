"""Watch, and change, what layers do while a model is called, and leave no trace."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import keras
from keras import layers, ops

# What a layer does in place of its own `call`: it is given that, and what `call` would be.
Hook = Callable[..., Any]


@contextlib.contextmanager
def intercepted(hooks: Mapping[Any, Hook]) -> Iterator[None]:
    """In the block, `hook(call, *arguments)` answers in place of each layer's `call(*arguments)`."""
    with contextlib.ExitStack() as stack:
        for layer, hook in hooks.items():
            stack.enter_context(having(layer, "call", partial(_by_position, hook, layer.call)))
        yield


def _by_position(hook: Hook, call: Any, *arguments: Any, **options: Any) -> Any:
    """Hand the first argument to a hook by position, however the model passed it."""
    if not arguments and options:
        first = next(iter(inspect.signature(call).parameters), None)
        if first in options:
            arguments = (options.pop(first),)
    return hook(call, *arguments, **options)


@contextlib.contextmanager
def as_written(model: keras.layers.Layer) -> Iterator[None]:
    """In the block every layer's call runs as it is written: not compiled, not computed twice.

    What TensorFlow compiled in here, it would go on using; what JAX computes again for a gradient, it
    compiles.
    """
    with contextlib.ExitStack() as stack:
        for layer in model._flatten_layers():
            if getattr(layer, "_remat_mode", None) is not None:
                stack.enter_context(having(layer, "_remat_mode", None))
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf  # noqa: PLC0415

            stack.callback(tf.config.run_functions_eagerly, tf.config.functions_run_eagerly())
            tf.config.run_functions_eagerly(True)
        yield


@contextlib.contextmanager
def having(layer: Any, name: str, value: Any) -> Iterator[None]:
    """In the block, an attribute of one layer has another value.

    It is put where Python looks first: Keras' own way of setting attributes would track it.
    """
    missing = object()
    before = vars(layer).get(name, missing)
    vars(layer)[name] = value
    try:
        yield
    finally:
        if before is missing:
            vars(layer).pop(name, None)
        else:
            vars(layer)[name] = before


@contextlib.contextmanager
def untouched(model: keras.layers.Layer) -> Iterator[None]:
    """What a call changes by itself (statistics, seeds, losses) is as before when the block ends."""
    every = list(model._flatten_layers())
    states = _changed_by_calls(model, every)
    values = [ops.convert_to_numpy(variable).copy() for variable in states]
    losses = [(layer, list(layer._losses), set(layer._loss_ids)) for layer in every]
    try:
        yield
    finally:
        for variable, value in zip(states, values, strict=True):
            variable.assign(value)
        for layer, held, ids in losses:
            layer._losses[:] = held
            layer._loss_ids.clear()
            layer._loss_ids.update(ids)


def _changed_by_calls(model: keras.layers.Layer, every: list[Any]) -> list[Any]:
    """All that training does not change, a spectrally normalized kernel, and the states of RNNs."""
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

        nothing_kept: contextlib.AbstractContextManager[Any] = torch.no_grad()
        return nothing_kept
    return contextlib.nullcontext()
