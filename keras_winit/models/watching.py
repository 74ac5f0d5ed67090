"""Watch, and change, what layers do while a model is called, and leave no trace."""

import contextlib
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
            stack.enter_context(having(layer, "call", partial(hook, layer.call)))
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
    # Set changes made by a call: everything that training does not change, and what
    # SpectralNormalization does to its kernel.
    every = list(model._flatten_layers())
    learned = {id(variable) for layer in every for variable in layer._trainable_variables}
    states = [variable for variable in model.variables if id(variable) not in learned]
    states += [layer.kernel for layer in every if isinstance(layer, layers.SpectralNormalization)]
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


def no_gradients() -> contextlib.AbstractContextManager[Any]:
    """In the block nothing is kept for a backward pass."""
    if keras.backend.backend() == "torch":
        import torch  # noqa: PLC0415

        nothing_kept: contextlib.AbstractContextManager[Any] = torch.no_grad()
        return nothing_kept
    return contextlib.nullcontext()


def is_traced(tensor: Any) -> bool:
    """Whether a tensor is one of a program that is being compiled, and has no values yet."""
    if keras.backend.backend() == "jax":
        import jax  # noqa: PLC0415

        return isinstance(tensor, jax.core.Tracer)
    return keras.backend.backend() == "tensorflow" and not hasattr(tensor, "numpy")
