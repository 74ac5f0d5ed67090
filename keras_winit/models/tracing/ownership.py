"""Which layer owns which variable, and the place of each in its model."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers


def owned(layer: keras.layers.Layer) -> list[Any]:
    """A layer's own variables, without those of the layers inside it and of random generators."""
    inner = {
        id(variable) for other in layer._flatten_layers(include_self=False) for variable in other.variables
    }
    seeds = {id(generator.state) for generator in getattr(layer, "_seed_generators", ())}
    return [own for own in layer.variables if id(own) not in inner and id(own) not in seeds]


def children(layer: keras.layers.Layer) -> list[Any]:
    """The layers directly inside a layer, in the order in which it was given them."""
    inner = list(layer.layers) if isinstance(layer, keras.Model) else []
    # A model may hold layers beside those of its graph; a Sequential one also holds the functional
    # model that it runs as.
    known = {id(child) for child in (*inner, getattr(layer, "_functional", None))}
    held = layer._flatten_layers(include_self=False, recursive=False)
    return inner + [child for child in held if id(child) not in known]


def owners(model: keras.layers.Layer) -> Iterator[tuple[Any, Any, tuple[Any, ...], str]]:
    """Each variable once, in the order of the layers: with its layer, the layers around, and its place.

    A place is made of names, those that Keras counts up in each process counted in the model.
    """
    seen: set[int] = set()
    for layer, parents, chain in _walk(model, (), (), set()):
        names: Counter[str] = Counter()
        for variable in owned(layer):
            if id(variable) in seen:
                continue
            seen.add(id(variable))
            name = re.sub(r"^variable_\d+$", "variable", variable.name)  # one that was given none
            names[name] += 1
            count = f"_{names[name]}" if names[name] > 1 else ""
            yield variable, layer, parents, "/".join([*chain, name + count])


def _walk(
    layer: Any, parents: tuple[Any, ...], chain: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[Any, tuple[Any, ...], tuple[str, ...]]]:
    """Each layer once, with the layers around it and the names that lead to it."""
    if id(layer) in seen:
        return
    seen.add(id(layer))
    yield layer, parents, chain
    counts: Counter[str] = Counter()
    for child in children(layer):
        name, automatic = _stable_name(child)
        if automatic:
            counts[name] += 1
            name = f"{name}_{counts[name]}"
        yield from _walk(child, (*parents, layer), (*chain, name), seen)


def _stable_name(layer: Any) -> tuple[str, bool]:
    """A layer's name, and whether Keras made it: `dense_37` becomes `dense`, to be counted."""
    kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(layer).__name__).lower()
    if layer.name.replace("_", "") == kind.replace("_", ""):
        return str(layer.name), True  # the class itself may end in a number
    base = re.sub(r"_\d+$", "", layer.name)
    core = re.sub(r"^(forward|backward)_", "", base)  # the halves of a Bidirectional
    automatic = core.replace("_", "") == kind.replace("_", "")
    return (base, True) if automatic else (str(layer.name), False)


def is_unbuilt(layer: Any) -> bool:
    """Whether a layer has no weights yet, but will have."""
    return not layer.built and type(layer).build is not layers.Layer.build


def unbuilt(model: keras.layers.Layer) -> tuple[str, ...]:
    """The names of layers that a built model holds but has never called, and which have no weights yet."""
    return tuple(layer.name for layer in model._flatten_layers() if is_unbuilt(layer))


def check_callable(model: Any) -> None:
    """Raise a ValueError for a model that cannot be called, with what can be inside of it."""
    if type(model).call not in (layers.Layer.call, keras.Model.call):
        return
    inside = [child.name for child in children(model) if isinstance(child, keras.Model)]
    models = f"Pass one of the models inside: {', '.join(map(repr, inside))}." if inside else "It needs one."
    raise ValueError(
        f"The model {model.name!r} has no `call`, so no data can be sent through it. {models} "
        "`initialize` works on the whole."
    )


def check_built(model: Any) -> None:
    """Raise a TypeError for what is no model or layer, a ValueError for one that is not built."""
    if not isinstance(model, layers.Layer):
        raise TypeError(f"`model` must be a Keras model. Received: {model!r} of type {type(model).__name__}.")
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} has no weights to work on yet: it is not built. "
            "Call the model on data, or `model.build(input_shape)`, first."
        )
