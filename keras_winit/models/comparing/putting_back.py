"""A model in training, and all as it was found: optimizers, notes and random states."""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import global_seed_generator

from keras_winit.drawing.seeds import fold

_GENERATOR = "global_seed_generator"  # its name among Keras' global attributes


def start_randomness(seed: int) -> None:
    """Give each the state that it is to have at each start."""
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
    """All are as before when the block ends."""
    python, array = random.getstate(), np.random.get_state()
    generator = global_state.get_global_attribute(_GENERATOR)
    state = None if generator is None else keras.ops.convert_to_numpy(generator.state).copy()
    torch_back = _torch_states()

    def put_back() -> None:
        if generator is not None:
            generator.state.assign(state)
        global_state.set_global_attribute(_GENERATOR, generator)
        torch_back()
        np.random.set_state(array)
        random.setstate(python)

    try:
        yield
    finally:
        try:
            put_back()
        except KeyboardInterrupt:  # in the midst of it: from the start
            put_back()
            raise


def _torch_states() -> Callable[[], None]:
    if keras.backend.backend() != "torch":
        return lambda: None
    import torch  # noqa: PLC0415 - the backend in use

    here = torch.get_rng_state()
    there = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def put_back() -> None:
        torch.set_rng_state(here)
        if there:
            torch.cuda.set_rng_state_all(there)

    return put_back


# What a model notes down as it trains: the compiled step, JAX' copy of its state.
_NOTES = ("train_function", "stop_training", "_jax_state", "_jax_state_synced")
_BUILT_LATE = ("_compile_loss", "_compile_metrics")
_MISSING = object()


def _places(model: keras.Model) -> list[tuple[Any, str, Any]]:
    """Where a model, and the models inside it, hold an optimizer: (layer, attribute, optimizer)."""
    return [
        (layer, name, value)
        for layer in model._flatten_layers()
        for name, value in vars(layer).items()
        if isinstance(value, keras.optimizers.Optimizer)
    ]


def optimizers_of(model: keras.Model) -> dict[str, Any]:
    """Each optimizer that a model, and the models inside it, hold, once, by where it is."""
    found: dict[int, tuple[str, Any]] = {}
    for layer, name, value in _places(model):
        found.setdefault(id(value), (name if layer is model else f"{layer.name}.{name}", value))
    return dict(found.values())


class StandIns:
    """What stands in for a model's optimizers: the same settings, and a state of its own."""

    def __init__(self, model: keras.Model) -> None:
        self._places = _places(model)
        self._by_original = {id(each): _stand_in(each) for each in optimizers_of(model).values()}
        main = self._by_original.get(id(model.optimizer))
        if main is not None and not main.built:
            main.build(model.trainable_variables)
        self._early = [each for each in self._by_original.values() if each.built]

    def put_in(self) -> None:
        """Let them take the places of the optimizers."""
        for layer, name, optimizer in self._places:
            vars(layer)[name] = self._by_original[id(optimizer)]

    def take_out(self) -> None:
        """Let the optimizers have their places again."""
        for layer, name, optimizer in self._places:
            vars(layer)[name] = optimizer

    @property
    def variables(self) -> list[Any]:
        """Their states, of those that were built before the training."""
        found = [variable for each in self._by_original.values() for variable in each.variables]
        return list({id(variable): variable for variable in found}.values())

    @property
    def late(self) -> list[Any]:
        """Those that were built by the training itself."""
        return [each for each in self._by_original.values() if each.built and each not in self._early]


def _stand_in(optimizer: Any) -> Any:
    """An optimizer with the same settings, built for what that is built for, its state at the start."""
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
    """All that training may assign to, the states of optimizers apart: weights, states and metrics."""
    found = list(model.variables)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.RNN) and layer.stateful:
            found += keras.tree.flatten(layer.states)
    for metric in _metrics_of(model):
        found += metric.variables
    return list({id(each): each for each in found if isinstance(each, keras.Variable)}.values())


def _metrics_of(model: keras.Model) -> list[Any]:
    found = [metric for layer in model._flatten_layers() for metric in layer.metrics]
    return list({id(metric): metric for metric in found}.values())


@contextlib.contextmanager
def as_found(model: keras.Model) -> Iterator[StandIns]:
    """In the block a model trains with stand-ins for its optimizers; afterwards it has what it had.

    No metric is built that was not, and no compiled step is kept. Values of variables are left to others.
    """
    late = [vars(model)[name] for name in _BUILT_LATE if vars(model).get(name) is not None]
    contents = [_contents(vars(thing)) for thing in late]
    contents += [
        _contents(held) for each in model._flatten_layers() for held in (each._losses, each._loss_ids)
    ]
    notes = {name: vars(model).get(name, _MISSING) for name in _NOTES}
    known = {id(variable) for variable in variables_of(model)}
    stand_ins = StandIns(model)

    def all_back() -> None:
        stand_ins.take_out()
        for metric in _metrics_of(model):
            if any(id(variable) not in known for variable in metric.variables):
                metric.reset_state()
        for each in contents:
            each()
        for name, value in notes.items():
            if value is _MISSING:
                vars(model).pop(name, None)
            else:
                vars(model)[name] = value
        if keras.backend.backend() == "torch":
            model.zero_grad()

    try:
        stand_ins.put_in()
        vars(model)["train_function"] = None  # one that is there trains with the optimizer itself
        yield stand_ins
    finally:
        try:
            all_back()
        except KeyboardInterrupt:  # in the midst of it: from the start
            all_back()
            raise


def _contents(held: Any) -> Callable[[], None]:
    """What gives a dict, list or set what it holds now, and those in it too."""
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
