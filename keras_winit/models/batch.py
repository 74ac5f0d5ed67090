"""One batch to send through a model: of the user's data, or a standard normal probe."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops, tree

from keras_winit.models.watching import intercepted
from keras_winit.seeds import fold

# How many samples a probe has, and how many are taken at most of an array.
PROBE_SAMPLES = 32
MOST_SAMPLES = 256

# What a probe has where the model takes any size: along an image's sides, along a sequence.
_SIDE, _STEPS = 64, 16
_MANY = 2**20  # integers of a probe are below this, and an Embedding folds them into its vocabulary


class Batch(NamedTuple):
    """What a model is called on.

    Attributes:
        inputs: arrays, in the nest that the model takes.
        labels: what its outputs are compared with, or None.
        samples: how many samples there are.
        probe: whether it is random numbers in place of data.
    """

    inputs: Any
    labels: Any
    samples: int
    probe: bool

    def __str__(self) -> str:
        return f"{self.samples} samples of {'a standard normal probe' if self.probe else 'the data'}"


def batch_for(model: keras.Model, data: Any, labels: Any = None, *, seed: int = 0) -> Batch:
    """The first batch of the data, checked; without data, a probe of the shapes that the model takes.

    Raises:
        TypeError, ValueError: for data that is empty, not finite, or of no known kind, and where no
            probe can be made.
    """
    if data is None:
        if labels is not None:
            raise ValueError("`labels` without `data` belong to nothing. Pass the data too.")
        return Batch(_probe(model, seed), None, PROBE_SAMPLES, True)
    inputs, found = _first(data)
    if labels is not None and found is not None:
        raise ValueError("The data brings labels of its own. Pass `labels` with arrays only.")
    inputs = tree.map_structure(_array, inputs)
    count = _samples(inputs, "data")
    if count == 0:
        raise ValueError("`data` is empty: it has no samples.")
    answers = tree.map_structure(_array, found if labels is None else labels)
    if answers is not None and _samples(answers, "labels") != count:
        raise ValueError(
            f"`data` and `labels` must have the same number of samples. Received: {count} and "
            f"{_samples(answers, 'labels')}."
        )
    if count > MOST_SAMPLES:  # spread over all of them, which may be sorted by class
        chosen = np.linspace(0, count - 1, MOST_SAMPLES).astype(int)
        inputs, answers = tree.map_structure(
            lambda array: None if array is None else array[chosen], (inputs, answers)
        )
    for array in tree.flatten(inputs):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                f"`data` must be finite. Received: {np.count_nonzero(~np.isfinite(array))} values that are "
                f"NaN or infinite, in an array of shape {array.shape}."
            )
    return Batch(inputs, answers, min(count, MOST_SAMPLES), False)


def _first(data: Any) -> tuple[Any, Any]:
    """The first batch of a data set, as (inputs, labels or None); arrays are one batch."""
    if isinstance(data, keras.utils.PyDataset):
        if not len(data):
            raise ValueError("`data` is empty: it has no batches.")
        batch = data[0]
    elif _is_array(data) or isinstance(data, (dict, list, tuple)):
        return data, None
    elif hasattr(data, "__iter__"):  # a tf.data.Dataset, a DataLoader, a generator
        batch = next(iter(data), None)
        if batch is None:
            raise ValueError("`data` is empty: it has no batches.")
        batch = tuple(batch) if isinstance(batch, list) else batch  # as a DataLoader collates a pair
    else:
        raise TypeError(
            "`data` must be an array, a nest of arrays as the model takes it, a tf.data.Dataset, a "
            "keras.utils.PyDataset, a DataLoader, or None for a probe. "
            f"Received: {data!r} of type {type(data).__name__}."
        )
    inputs, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
    return inputs, labels


def _is_array(data: Any) -> bool:
    return hasattr(data, "shape") and hasattr(data, "dtype")


def _array(item: Any) -> Any:
    if item is None:
        return None
    array = np.asarray(item) if not keras.ops.is_tensor(item) else ops.convert_to_numpy(item)
    if array.dtype.kind not in "fiubUSO" or array.ndim == 0:
        raise TypeError(
            f"`data` must be arrays of samples. Received: {item!r} of type {type(item).__name__}."
        )
    if array.dtype.kind in "USO":
        raise ValueError(
            "`data` must be numbers. Received: text. Pass what the model's first layers make of it, and the "
            "model without them."
        )
    return array


def _samples(nest: Any, name: str) -> int:
    counts = {len(array) for array in tree.flatten(nest) if array is not None}
    if len(counts) != 1:
        raise ValueError(
            f"The arrays of `{name}` must have as many samples each. Received: {sorted(counts)}."
        )
    return counts.pop()


def _probe(model: keras.Model, seed: int) -> Any:
    """Random arrays of the shapes that a model takes."""
    counter = iter(range(10**6))

    def draw(spec: Any) -> Any:
        shape = _concrete(spec[0])
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
    return _of_shapes(shape)


def _of_shapes(shape: Any) -> Any:
    if isinstance(shape, dict):
        return {key: _of_shapes(item) for key, item in shape.items()}
    if any(isinstance(item, (list, tuple, dict)) for item in shape):
        return [_of_shapes(item) for item in shape]
    return _Spec(tuple(shape), None)


def _concrete(shape: Any) -> tuple[int, ...]:
    unknown = _SIDE if len(shape) > 3 else _STEPS
    return PROBE_SAMPLES, *(unknown if size is None else int(size) for size in shape[1:])


def call_on(model: keras.Model, batch: Batch, *, training: bool = False) -> Any:
    """What the model makes of a batch; where it cannot take it, an error that says so."""
    try:
        return model(batch.inputs, training=training)
    except (ValueError, TypeError, IndexError, RuntimeError, ArithmeticError) as error:
        raise ValueError(
            f"The model {model.name!r} cannot be called on {'a probe' if batch.probe else 'this data'}: "
            f"{' '.join(str(error).split())[:600]}" + (" Pass `data`." if batch.probe else "")
        ) from error


@contextlib.contextmanager
def taken_as_data(model: keras.Model, batch: Batch) -> Iterator[None]:
    """While a probe passes, what comes before the first weights takes it as their input.

    A probe stands for what data has become when it reaches the first weights: layers that rescale
    data hand it on as it is, and an Embedding folds it into its vocabulary.
    """
    if not batch.probe:
        yield
        return
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
