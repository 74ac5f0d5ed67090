"""What training changes, put back: optimizers, notes and random states."""

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import global_seed_generator

from keras_winit.drawing.seeds import fold

_GENERATOR = "global_seed_generator"  # its name among Keras' global attributes


def start_randomness(seed: int) -> None:
    """Give all global random states the value that each start begins with."""
    place = int(fold(seed, "training"))
    random.seed(place)
    np.random.seed(place)
    state = global_seed_generator().state
    state.assign(np.array([place, 0], state.dtype))
    if keras.backend.backend() == "torch":
        import torch  # noqa: PLC0415 - the backend in use

        torch.manual_seed(place)


@contextlib.contextmanager
def randomness_kept() -> Iterator[None]:
    """When the block ends, all global random states are as before."""
    generator = global_state.get_global_attribute(_GENERATOR)
    steps: list[Callable[[], Any]] = [
        partial(global_state.set_global_attribute, _GENERATOR, generator),
        partial(random.setstate, random.getstate()),
        partial(np.random.set_state, np.random.get_state()),
    ]
    if generator is not None:
        state = keras.ops.convert_to_numpy(generator.state).copy()
        steps.append(partial(generator.state.assign, state))
    if keras.backend.backend() == "torch":
        import torch  # noqa: PLC0415 - the backend in use

        steps.append(partial(torch.set_rng_state, torch.get_rng_state()))
        if torch.cuda.is_initialized():
            steps.append(partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))

    def put_back() -> None:
        for step in steps:
            step()

    try:
        yield
    finally:
        try:
            put_back()
        except KeyboardInterrupt:  # in the midst of it: from the start
            put_back()
            raise


# What a model notes as it trains: the compiled step, JAX' copy of its state.
_NOTES = ("train_function", "stop_training", "_jax_state", "_jax_state_synced")
_BUILT_LATE = ("_compile_loss", "_compile_metrics")


def _places(model: keras.Model) -> list[tuple[Any, str, Any]]:
    """Where a model, and those inside it, hold an optimizer: (layer, attribute, optimizer)."""
    return [
        (layer, name, value)
        for layer in model._flatten_layers()
        for name, value in vars(layer).items()
        if isinstance(value, keras.optimizers.Optimizer)
    ]


def optimizers_of(model: keras.Model) -> dict[str, Any]:
    """Each optimizer of a model and of those inside it once, by where it is."""
    found: dict[int, tuple[str, Any]] = {}
    for layer, name, value in _places(model):
        found.setdefault(id(value), (name if layer is model else f"{layer.name}.{name}", value))
    return dict(found.values())


class StandIns:
    """Stand-ins for a model's optimizers, with the same settings and states of their own."""

    def __init__(self, model: keras.Model) -> None:
        self.by_original = {id(each): _stand_in(each) for each in optimizers_of(model).values()}
        main = self.by_original.get(id(model.optimizer))
        if main is not None and not main.built:
            main.build(model.trainable_variables)
        self._early = [each for each in self.by_original.values() if each.built]

    @property
    def variables(self) -> list[Any]:
        """The states of those that were built before the training."""
        return _once(variable for each in self.by_original.values() for variable in each.variables)

    @property
    def late(self) -> list[Any]:
        """Those that were built by the training itself."""
        return [each for each in self.by_original.values() if each.built and each not in self._early]


def _stand_in(optimizer: Any) -> Any:
    """An optimizer with the same settings, built for the same weights, its state at the start."""
    found = type(optimizer).from_config(optimizer.get_config())
    pairs = [(optimizer, found)]
    if hasattr(optimizer, "inner_optimizer"):
        pairs.append((optimizer.inner_optimizer, found.inner_optimizer))
    for one, other in pairs:
        for name, value in vars(one).items():
            if name.startswith("_exclude_from_weight_decay"):  # which no config has
                vars(other)[name] = value
    weights = list(pairs[-1][0]._trainable_variables)
    if optimizer.built and weights:
        found.build(weights)
    return found


def variables_of(model: keras.Model) -> list[Any]:
    """All that training may assign to but optimizers."""
    found = list(model.variables)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.RNN) and layer.stateful:
            found += keras.tree.flatten(layer.states)
    for metric in _metrics_of(model):
        found += metric.variables
    return _once(each for each in found if isinstance(each, keras.Variable))


def _metrics_of(model: keras.Model) -> list[Any]:
    return _once(metric for layer in model._flatten_layers() for metric in layer.metrics)


def _once(found: Iterable[Any]) -> list[Any]:
    return list({id(each): each for each in found}.values())


@contextlib.contextmanager
def as_found(model: keras.Model) -> Iterator[StandIns]:
    """In the block a model trains with stand-ins for its optimizers; afterwards it has what it had.

    No metric is built that was not, and no compiled step kept. Values of variables are left to others.
    """
    late = [vars(model)[name] for name in _BUILT_LATE if vars(model).get(name) is not None]
    losses = [held for layer in model._flatten_layers() for held in (layer._losses, layer._loss_ids)]
    contents = [_contents(held) for held in (*map(vars, late), *losses)]
    notes = {name: vars(model)[name] for name in _NOTES if name in vars(model)}
    known = {id(variable) for variable in variables_of(model)}
    places, stand_ins = _places(model), StandIns(model)

    def all_back() -> None:
        for layer, name, optimizer in places:
            vars(layer)[name] = optimizer
        for metric in _metrics_of(model):
            if any(id(variable) not in known for variable in metric.variables):
                metric.reset_state()
        for each in contents:
            each()
        for name in _NOTES:
            vars(model).pop(name, None)
        vars(model).update(notes)
        if keras.backend.backend() == "torch":
            model.zero_grad()

    try:
        for layer, name, optimizer in places:
            vars(layer)[name] = stand_ins.by_original[id(optimizer)]
        vars(model)["train_function"] = None  # one that is there trains with the optimizer itself
        yield stand_ins
    finally:
        try:
            all_back()
        except KeyboardInterrupt:  # in the midst of it: from the start
            all_back()
            raise


def _contents(held: Any) -> Callable[[], None]:
    """What gives a dict, list or set, and those in it, what they hold now."""
    values = list(held.values()) if isinstance(held, dict) else list(held)
    if isinstance(held, dict) and "_tracker" in held:  # Keras' list of what an object tracks
        values.append(held["_tracker"].stored_ids)
    inner = [_contents(each) for each in values if isinstance(each, (dict, list, set))]
    before: Any = dict(held) if isinstance(held, dict) else list(held)

    def put_back() -> None:
        if isinstance(held, list):
            held[:] = before
        elif isinstance(held, dict):
            for name in held.keys() - before.keys():
                del held[name]
            held.update(before)
        else:
            held.clear()
            held.update(before)
        for each in inner:
            each()

    return put_back
