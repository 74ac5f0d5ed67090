"""What starts over when weights are drawn: random generators, stateful layers, the optimizer's state."""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, tree

from keras_winit.models.running.undo import Undo


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
