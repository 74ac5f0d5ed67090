"""What a model says of itself: whose its variables are, and what it takes."""

import inspect
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
from keras import layers, tree

from keras_winit.support.checks import Shape


def owned(layer: keras.layers.Layer) -> list[Any]:
    """A layer's own variables, without those of layers inside it and of random generators."""
    others = {id(inner) for other in layer._flatten_layers(include_self=False) for inner in other.variables}
    others.update(id(generator.state) for generator in getattr(layer, "_seed_generators", ()))
    return [variable for variable in layer.variables if id(variable) not in others]


def inside(layer: Any) -> list[Any]:
    """The layers directly inside a layer, as Keras holds them."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def children(layer: keras.layers.Layer) -> list[Any]:
    """The layers directly inside a layer, in the order in which it was given them."""
    inner = list(layer.layers) if isinstance(layer, keras.Model) else []
    # A model may hold layers beside those of its graph; a Sequential one holds the model that it runs as.
    known = {id(child) for child in (*inner, getattr(layer, "_functional", None))}
    return inner + [child for child in inside(layer) if id(child) not in known]


def owners(model: keras.layers.Layer) -> Iterator[tuple[Any, Any, tuple[Any, ...], str]]:
    """Each variable once, in the order of layers, with its layer, the layers around it, and its place.

    A place is made of names; those that Keras counts in the process are counted in the model.
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
    """Each layer once, with the layers around it and their names."""
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
    kind = type(layer).__name__.lower().replace("_", "")
    if layer.name.replace("_", "") == kind:
        return str(layer.name), True  # the class itself may end in a number
    base = re.sub(r"_\d+$", "", layer.name)
    core = re.sub(r"^(forward|backward)_", "", base)  # the halves of a Bidirectional
    return (base, True) if core.replace("_", "") == kind else (str(layer.name), False)


def unbuilt(model: keras.layers.Layer) -> tuple[str, ...]:
    """The names of layers without weights yet, which a built model may never have called."""
    return tuple(
        layer.name
        for layer in model._flatten_layers()
        if not layer.built and type(layer).build is not layers.Layer.build
    )


def check_callable(model: Any) -> None:
    """Raise a ValueError for a model that cannot be called."""
    if type(model).call not in (layers.Layer.call, keras.Model.call):
        return
    inside = [child.name for child in children(model) if isinstance(child, keras.Model)]
    models = f"Pass one of the models inside: {', '.join(map(repr, inside))}." if inside else "It needs one."
    raise ValueError(
        f"The model {model.name!r} has no `call`, so no data can be sent through it. {models} "
        "`initialize` works on the whole."
    )


def check_built(model: Any) -> None:
    """Raise a TypeError for what is no layer, a ValueError for an unbuilt one."""
    if not isinstance(model, layers.Layer):
        raise TypeError(f"`model` must be a Keras model. Received: {model!r} of type {type(model).__name__}.")
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} has no weights to work on yet: it is not built. "
            "Call the model on data, or `model.build(input_shape)`, first."
        )


SAMPLES, STEPS, SIDE = 32, 16, 64

# What is tried for open sizes: along a sequence, and along an image's sides.
_SIZES = ((STEPS, SIDE), (8, 32), (4, 16), (32, 224))
_FEW = 3  # samples of a trace


@dataclass(frozen=True)
class Spec:
    """The shape of an input, None where any size goes, and its type, None where it is not known."""

    shape: tuple[int | None, ...]
    dtype: str | None


def input_struct(layer: Any) -> Any:
    """The nest of symbolic inputs of a functional or sequential model, or None."""
    function = getattr(layer, "_functional", None) if isinstance(layer, keras.Sequential) else layer
    return getattr(function, "_inputs_struct", None)


def specs_of(layer: Any) -> Any:
    """The nest of `Spec`s of a layer's first argument; a ValueError where it does not say."""
    struct = input_struct(layer)
    if struct is not None:
        return tree.map_structure(lambda tensor: Spec(tensor.shape, tensor.dtype), struct)
    shape = (layer.get_build_config() or {}).get("input_shape")
    if not shape:
        raise ValueError("it does not say which shapes it takes")
    return _of_shapes(shape)


def _of_shapes(shape: Any) -> Any:
    if shape is None:
        raise ValueError("one of its inputs was not given when it was built")
    if isinstance(shape, dict):
        return {key: _of_shapes(item) for key, item in shape.items()}
    if any(isinstance(item, (list, tuple, dict)) for item in shape):
        return [_of_shapes(item) for item in shape]
    return Spec(tuple(shape), None)


def concrete(shape: Any, samples: int, steps: int = STEPS, side: int = SIDE) -> Shape:
    """A shape with a size for each that is open."""
    unknown = side if len(shape) > 3 else steps
    return tuple(
        (unknown if axis else samples) if size is None else int(size) for axis, size in enumerate(shape)
    )


def arguments_for(layer: Any, data: Any = None) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What to try a call with: arguments and options, as symbols."""
    if data is not None:
        yield (tree.map_structure(_like, data),), {}
        return
    try:
        specs, named = _all_specs(layer)
    except (ValueError, TypeError, AttributeError, NotImplementedError):
        return
    unknown = any(spec.dtype is None for spec in tree.flatten(specs))
    seen = set()
    for sizes in _SIZES:  # the same for all inputs: what a model joins has to agree
        for dtype in ("float32", "int32") if unknown else ("float32",):
            given = tree.map_structure(partial(_symbol, sizes, dtype), specs)
            found = tuple((symbol.shape, symbol.dtype) for symbol in tree.flatten(given))
            if found not in seen:
                seen.add(found)
                yield ((), given) if named else ((given,), {})


def _all_specs(layer: Any) -> tuple[Any, bool]:
    """The specifications of a layer's arguments, and whether they go by name."""
    shapes = None if input_struct(layer) is not None else (layer.get_build_config() or {}).get("shapes_dict")
    if not shapes:
        return specs_of(layer), False
    accepted = inspect.signature(type(layer).call).parameters
    named = {key.removesuffix("_shape"): _of_shapes(shape) for key, shape in shapes.items() if shape}
    return {key: spec for key, spec in named.items() if key in accepted}, True


def _symbol(sizes: tuple[int, int], dtype: str, spec: Spec) -> Any:
    return keras.KerasTensor(concrete(spec.shape, _FEW, *sizes), spec.dtype or dtype)


def _like(item: Any) -> Any:
    shape = tuple(getattr(item, "shape", ()))
    return keras.KerasTensor(shape, keras.backend.standardize_dtype(getattr(item, "dtype", "float32")))
