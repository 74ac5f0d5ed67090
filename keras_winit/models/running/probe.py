"""A probe: standard normal numbers, or random tokens, of the shapes that a model takes."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers, ops, tree

from keras_winit.drawing.seeds import fold
from keras_winit.models.running.watching import intercepted
from keras_winit.models.tracing.inputs import SAMPLES, concrete, input_struct, skeleton, specs_of

_MANY = 2**20  # integers of a probe are below this, and an Embedding folds them into its vocabulary


def probe_for(model: keras.Model, seed: int) -> Any:
    """Random arrays in the nest, and of the shapes, that a model takes.

    Raises:
        ValueError: for a model that does not say what it takes, or takes no numbers.
    """
    counter = iter(range(10**6))
    samples = fixed_samples(model) or SAMPLES

    def draw(spec: Any) -> Any:
        shape = concrete((samples, *spec[0][1:]), samples)
        rng = np.random.default_rng([fold(seed, "probe"), next(counter)])
        if spec[1] is not None and not keras.backend.is_float_dtype(spec[1]):
            if spec[1] == "bool":
                return np.ones(shape, "bool")
            if "int" not in spec[1]:
                raise ValueError(_NO_PROBE.format(model.name, f"it takes {spec[1]}"))
            return rng.integers(1, _MANY, shape).astype(spec[1])
        return rng.standard_normal(shape, "float32")

    try:
        specs = specs_of(model)
    except ValueError as error:
        raise ValueError(_NO_PROBE.format(model.name, error)) from error
    return tree.map_structure_up_to(skeleton(specs), draw, specs)


_NO_PROBE = "No probe can be made for the model {!r}: {}. Pass `data`."


def fixed_samples(model: keras.Model) -> int | None:
    """How many samples a model takes at a time, where it takes no other number."""
    struct = input_struct(model)
    sizes = (
        [tensor.shape[0] for tensor in tree.flatten(struct) if len(tensor.shape)]
        if struct is not None
        else []
    )
    return next((size for size in sizes if size is not None), None)


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
