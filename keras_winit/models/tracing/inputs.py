"""What a model or layer takes: the shapes, and types where they are known, of its inputs."""

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
from keras import tree

from keras_winit.support.checks import Shape

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
