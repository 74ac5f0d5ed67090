"""What a model says of itself: which layer owns which variable, and what it takes."""

import inspect
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
from keras import layers, tree

from keras_winit.support.checks import Shape


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


SAMPLES, STEPS, SIDE = 32, 16, 64

# What is tried for sizes that a model leaves open: along a sequence, and along the sides of an image.
_SIZES = ((STEPS, SIDE), (8, 32), (4, 16), (32, 224))
_FEW = 3  # samples of a trace


class Spec(NamedTuple):
    """The shape of one input, None where any size goes, and its type, None where it is not known."""

    shape: tuple[int | None, ...]
    dtype: str | None


def input_struct(layer: Any) -> Any:
    """The nest of symbolic inputs of a functional model, or of what a sequential one runs as; else None."""
    function = getattr(layer, "_functional", None) if isinstance(layer, keras.Sequential) else layer
    return getattr(function, "_inputs_struct", None)


def specs_of(layer: Any) -> Any:
    """The nest of `Spec`s that a layer takes as its first argument.

    Raises:
        ValueError: where it does not say.
    """
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


def skeleton(specs: Any) -> Any:
    """The nest of the specifications with a leaf in the place of each."""
    if isinstance(specs, Spec):
        return 0
    if isinstance(specs, dict):
        return {key: skeleton(item) for key, item in specs.items()}
    return type(specs)(skeleton(item) for item in specs)


def concrete(shape: Any, samples: int, steps: int = STEPS, side: int = SIDE) -> Shape:
    """A shape with a size in the place of each that is open."""
    unknown = side if len(shape) > 3 else steps
    return tuple(
        (unknown if axis else samples) if size is None else int(size) for axis, size in enumerate(shape)
    )


def arguments_for(layer: Any, data: Any = None) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What a layer can be called with, as symbols: the arguments and options of one attempt after another."""
    if data is not None:
        yield (tree.map_structure(_like, data),), {}
        return
    try:
        specs, named = _all_specs(layer)
    except (ValueError, TypeError, AttributeError, NotImplementedError):
        return
    unknown = any(spec.dtype is None for spec in _flat(specs))
    seen = set()
    for steps, side in _SIZES:
        for dtype in ("float32", "int32") if unknown else ("float32",):
            # One for all: what a model joins has to agree.
            sizes = {
                id(spec): (concrete(spec.shape, _FEW, steps, side), spec.dtype or dtype)
                for spec in _flat(specs)
            }
            if tuple(sizes.values()) in seen:
                continue
            seen.add(tuple(sizes.values()))
            given = tree.map_structure_up_to(
                skeleton(specs), lambda spec, sizes=sizes: keras.KerasTensor(*sizes[id(spec)]), specs
            )
            yield ((), given) if named else ((given,), {})


def _all_specs(layer: Any) -> tuple[Any, bool]:
    """The specifications of all arguments of a layer, and whether they go by name."""
    shapes = None if input_struct(layer) is not None else (layer.get_build_config() or {}).get("shapes_dict")
    if not shapes:
        return specs_of(layer), False
    accepted = inspect.signature(type(layer).call).parameters
    named = {key.removesuffix("_shape"): _of_shapes(shape) for key, shape in shapes.items() if shape}
    return {key: spec for key, spec in named.items() if key in accepted}, True


def _flat(specs: Any) -> Iterator[Spec]:
    if isinstance(specs, Spec):
        yield specs
    else:
        for item in specs.values() if isinstance(specs, dict) else specs:
            yield from _flat(item)


def _like(item: Any) -> Any:
    shape = tuple(getattr(item, "shape", ()))
    return keras.KerasTensor(shape, keras.backend.standardize_dtype(getattr(item, "dtype", "float32")))
