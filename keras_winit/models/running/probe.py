"""A probe: standard normal numbers, or random tokens, of the shapes that a model takes."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops, tree

from keras_winit.drawing.seeds import fold
from keras_winit.models.running.watching import intercepted

PROBE_SAMPLES = 32

# What a probe has where the model takes any size: along an image's sides, along a sequence.
_SIDE, _STEPS = 64, 16
_MANY = 2**20  # integers of a probe are below this, and an Embedding folds them into its vocabulary


def probe_for(model: keras.Model, seed: int) -> Any:
    """Random arrays in the nest, and of the shapes, that a model takes.

    Raises:
        ValueError: for a model that does not say what it takes, or takes no numbers.
    """
    counter = iter(range(10**6))
    samples = fixed_samples(model) or PROBE_SAMPLES

    def draw(spec: Any) -> Any:
        shape = _concrete(spec[0], samples)
        rng = np.random.default_rng([fold(seed, "probe"), next(counter)])
        if spec[1] is not None and not keras.backend.is_float_dtype(spec[1]):
            if spec[1] == "bool":
                return np.ones(shape, "bool")
            if "int" not in spec[1]:
                raise ValueError(_NO_PROBE.format(model.name, f"it takes {spec[1]}"))
            return rng.integers(1, _MANY, shape).astype(spec[1])
        return rng.standard_normal(shape, "float32")

    specs = _specs(model)
    return tree.map_structure_up_to(_skeleton(specs), draw, specs)


_NO_PROBE = "No probe can be made for the model {!r}: {}. Pass `data`."


class _Spec(NamedTuple):
    shape: Any
    dtype: str | None


def _skeleton(specs: Any) -> Any:
    """The nest of the specifications with a leaf in the place of each."""
    if isinstance(specs, _Spec):
        return 0
    if isinstance(specs, dict):
        return {key: _skeleton(item) for key, item in specs.items()}
    return type(specs)(_skeleton(item) for item in specs)


def _specs(model: keras.Model) -> Any:
    """The nest of shapes and dtypes that a model takes."""
    function = getattr(model, "_functional", None) if isinstance(model, keras.Sequential) else model
    struct = getattr(function, "_inputs_struct", None)
    if struct is not None:
        return tree.map_structure(lambda tensor: _Spec(tensor.shape, tensor.dtype), struct)
    shape = (model.get_build_config() or {}).get("input_shape")
    if not shape:
        raise ValueError(_NO_PROBE.format(model.name, "it does not say which shapes it takes"))
    return _of_shapes(shape, model.name)


def _of_shapes(shape: Any, name: str) -> Any:
    if shape is None:
        raise ValueError(_NO_PROBE.format(name, "one of its inputs was not given when it was built"))
    if isinstance(shape, dict):
        return {key: _of_shapes(item, name) for key, item in shape.items()}
    if any(isinstance(item, (list, tuple, dict)) for item in shape):
        return [_of_shapes(item, name) for item in shape]
    return _Spec(tuple(shape), None)


def fixed_samples(model: keras.Model) -> int | None:
    """How many samples a model takes at a time, where it takes no other number."""
    function = getattr(model, "_functional", None) if isinstance(model, keras.Sequential) else model
    struct = getattr(function, "_inputs_struct", None)
    sizes = (
        [tensor.shape[0] for tensor in tree.flatten(struct) if len(tensor.shape)]
        if struct is not None
        else []
    )
    return next((size for size in sizes if size is not None), None)


def _concrete(shape: Any, samples: int) -> tuple[int, ...]:
    unknown = _SIDE if len(shape) > 3 else _STEPS
    return samples, *(unknown if size is None else int(size) for size in shape[1:])


@contextlib.contextmanager
def handed_on(model: keras.Model) -> Iterator[None]:
    """While a probe passes, what comes before the first weights takes it as their input.

    A probe stands for what data has become when it reaches the first weights: layers that rescale
    data hand it on as it is, and an Embedding folds it into its vocabulary.
    """
    reached: list[Any] = []
    hooks = {}
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Embedding):
            hooks[layer] = _fold_into_vocabulary(layer, reached)
        elif isinstance(layer, (layers.Rescaling, layers.Normalization)):
            hooks[layer] = _hand_on(layer, reached)
        elif layer.trainable_weights and not layer._flatten_layers(include_self=False, recursive=False):
            hooks[layer] = _note(reached)
    with intercepted(hooks):
        yield


def _fold_into_vocabulary(layer: Any, reached: list[Any]) -> Any:
    def hook(call: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        reached.append(layer)
        if options.get("reverse") or (arguments and arguments[0]):
            return call(inputs, *arguments, **options)
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(inputs.dtype)):
            inputs = ops.abs(ops.cast(inputs, "float32")) * 1009
        tokens = ops.mod(ops.cast(inputs, "int32"), layer.input_dim)
        return call(tokens, *arguments, **options)

    return hook


def _hand_on(layer: Any, reached: list[Any]) -> Any:
    def hook(call: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        if reached:
            return call(inputs, *arguments, **options)
        return ops.cast(inputs, layer.compute_dtype)

    return hook


def _note(reached: list[Any]) -> Any:
    def hook(call: Any, *arguments: Any, **options: Any) -> Any:
        reached.append(call)
        return call(*arguments, **options)

    return hook
