"""One batch to send through a model, of the user's data or a probe, and the call."""

import contextlib
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops, tree

from keras_winit.drawing.seeds import fold
from keras_winit.models.running.watching import intercepted
from keras_winit.models.tracing.structure import SAMPLES, concrete, input_struct, skeleton, specs_of
from keras_winit.support.checks import as_int, said_by
from keras_winit.support.losses import check_finite


def is_data_set(data: Any) -> bool:
    """Whether data comes in batches of its own: a tf.data.Dataset, a PyDataset, a DataLoader, a generator."""
    if isinstance(data, keras.utils.PyDataset):
        return True
    plain = hasattr(data, "shape") or isinstance(data, (dict, list, tuple, str, bytes))
    return not plain and hasattr(data, "__iter__")


def batches_in(data: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Each batch of a data set, as (inputs, labels, sample weights); what is not there is None."""
    if isinstance(data, keras.utils.PyDataset):  # it may have no end, and no `__iter__`
        indices = itertools.count() if data.num_batches is None else range(data.num_batches)
        return map(_triple, map(data.__getitem__, indices))
    return map(_triple, data)  # no generator of ours, which would close the user's when it ends


def _triple(batch: Any) -> tuple[Any, Any, Any]:
    # A DataLoader collates a pair to a list.
    found: tuple[Any, Any, Any] = keras.utils.unpack_x_y_sample_weight(
        tuple(batch) if isinstance(batch, list) else batch
    )
    return found


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


MOST_SAMPLES = 256  # of an array
_AS_IT_IS = "Pass `samples=None` to hand a batch on as it is, as a model on graphs takes it."


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


def batch_for(
    model: keras.Model, data: Any, labels: Any = None, *, seed: int = 0, samples: Any = MOST_SAMPLES
) -> Batch:
    """The first batch of the data, checked; without data, a probe of the shapes that the model takes.

    Args:
        model: what is to be called.
        data: arrays, or a data set.
        labels: what belongs to arrays.
        seed: of a probe.
        samples: the most samples that are used; None leaves the batch as it is, its arrays of any lengths.

    Raises:
        TypeError, ValueError: for data that is empty, not finite, or of no known kind, and where no
            probe can be made.
    """
    if samples is not None:
        samples = as_int("samples", samples, minimum=1)
    if data is None:
        if labels is not None:
            raise ValueError("`labels` without `data` belong to nothing. Pass the data too.")
        inputs = probe_for(model, seed)
        return Batch(inputs, None, _samples(inputs, "data"), True)
    inputs, found = _first(data)
    if labels is not None and found is not None:
        raise ValueError("The data brings labels of its own. Pass `labels` with arrays only.")
    as_it_is = samples is None
    inputs = tree.map_structure(partial(_array, scalars=as_it_is), inputs)
    answers = tree.map_structure(_array, found if labels is None else labels)
    if as_it_is:
        arrays = [array for array in tree.flatten((answers, inputs)) if array is not None and array.ndim]
        count = len(arrays[0]) if arrays else 0
    else:
        count = _samples(inputs, "data")
        if answers is not None and _samples(answers, "labels") != count:
            raise ValueError(
                f"`data` and `labels` must have the same number of samples. Received: {count} and "
                f"{_samples(answers, 'labels')}. {_AS_IT_IS}"
            )
        most = fixed_samples(model) or samples
        if count > most:  # spread over all of them, which may be sorted by class
            chosen = np.linspace(0, count - 1, most).astype(int)
            inputs, answers = tree.map_structure(
                lambda array: None if array is None else array[chosen], (inputs, answers)
            )
            count = most
    if count == 0:
        raise ValueError("`data` is empty: it has no samples.")
    check_finite("data", inputs)
    return Batch(inputs, answers, count, False)


def _first(data: Any) -> tuple[Any, Any]:
    """The first batch of a data set, as (inputs, labels or None); arrays are one batch."""
    if is_data_set(data):
        batch = next(batches_in(data), None)
        if batch is None:
            raise ValueError("`data` is empty: it has no batches.")
        return batch[:2]
    if (hasattr(data, "shape") and hasattr(data, "dtype")) or isinstance(data, (dict, list, tuple)):
        return data, None
    raise TypeError(
        "`data` must be an array, a nest of arrays as the model takes it, a tf.data.Dataset, a "
        "keras.utils.PyDataset, a DataLoader, or None for a probe. "
        f"Received: {data!r} of type {type(data).__name__}."
    )


def _array(item: Any, *, scalars: bool = False) -> Any:
    if item is None:
        return None
    array = np.asarray(item) if not keras.ops.is_tensor(item) else ops.convert_to_numpy(item)
    if array.dtype.name == "bfloat16":
        array = array.astype("float32")
    if array.dtype.kind not in "fiubUSO" or (array.ndim == 0 and not scalars):
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
            f"The arrays of `{name}` must have as many samples each. Received: {sorted(counts)}. {_AS_IT_IS}"
        )
    return counts.pop()


def call_on(model: keras.Model, batch: Batch, *, training: bool = False) -> Any:
    """What the model makes of a batch; where it cannot take it, an error that says so."""
    try:
        return model(batch.inputs, training=training)
    except Exception as error:  # whatever a backend or the model's own code raises
        raise ValueError(
            f"The model {model.name!r} cannot be called on {'a probe' if batch.probe else 'this data'}: "
            f"{said_by(error)}" + (" Pass `data`." if batch.probe else "")
        ) from error
