"""A batch of data, or a probe, and the call of a model on it."""

import contextlib
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops, tree

from keras_winit.drawing.seeds import fold
from keras_winit.models.running.watching import Hook, intercepted
from keras_winit.models.tracing.structure import SAMPLES, concrete, input_struct, inside, specs_of
from keras_winit.support.checks import as_int, said_by
from keras_winit.support.losses import check_finite


def is_data_set(data: Any) -> bool:
    """Whether data comes in batches: a tf.data.Dataset, a PyDataset, a DataLoader, a generator."""
    plain = hasattr(data, "shape") or isinstance(data, (dict, list, tuple, str, bytes))
    return isinstance(data, keras.utils.PyDataset) or (hasattr(data, "__iter__") and not plain)


def batches_in(data: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Each batch of a data set, as inputs, labels or None, and sample weights or None."""
    if isinstance(data, keras.utils.PyDataset):  # it may have no end, and no `__iter__`
        indices = itertools.count() if data.num_batches is None else range(data.num_batches)
        data = map(data.__getitem__, indices)
    return map(_triple, data)  # no generator of ours, which would close the user's when it ends


def _triple(batch: Any) -> tuple[Any, Any, Any]:
    # A DataLoader collates a pair to a list.
    found: tuple[Any, Any, Any] = keras.utils.unpack_x_y_sample_weight(
        tuple(batch) if isinstance(batch, list) else batch
    )
    return found


_MANY = 2**20  # above the integers of a probe, which an Embedding folds into its vocabulary
_NO_PROBE = "No probe can be made for the model {!r}: {}. Pass `data`."


def probe_for(model: keras.Model, seed: int) -> Any:
    """Random arrays as a model takes them; a ValueError where it does not say, or takes no numbers."""
    counter = itertools.count()
    samples = fixed_samples(model) or SAMPLES

    def draw(spec: Any) -> Any:
        shape = concrete((samples, *spec.shape[1:]), samples)
        rng = np.random.default_rng([fold(seed, "probe"), next(counter)])
        if spec.dtype is None or keras.backend.is_float_dtype(spec.dtype):
            return rng.standard_normal(shape, "float32")
        if spec.dtype == "bool":
            return np.ones(shape, "bool")
        if "int" not in spec.dtype:
            raise ValueError(_NO_PROBE.format(model.name, f"it takes {spec.dtype}"))
        return rng.integers(1, _MANY, shape).astype(spec.dtype)

    try:
        specs = specs_of(model)
    except ValueError as error:
        raise ValueError(_NO_PROBE.format(model.name, error)) from error
    return tree.map_structure(draw, specs)


def fixed_samples(model: keras.Model) -> int | None:
    """How many samples a model takes at a time, if no other number."""
    struct = input_struct(model)
    tensors = [] if struct is None else tree.flatten(struct)
    return next((size for tensor in tensors for size in tensor.shape[:1] if size is not None), None)


@contextlib.contextmanager
def handed_on(model: keras.Model) -> Iterator[None]:
    """In the block a probe reaches the first weights unscaled: it stands for what data has become there.

    An Embedding folds it into its vocabulary.
    """
    reached: list[Any] = []
    hooks: dict[Any, Hook] = {}
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Embedding):
            hooks[layer] = partial(_fold_into_vocabulary, layer, reached)
        elif isinstance(layer, (layers.Rescaling, layers.Normalization)):
            hooks[layer] = partial(_hand_on, layer, reached)
        elif layer.trainable_weights and not inside(layer):
            hooks[layer] = partial(_note, reached)
    with intercepted(hooks):
        yield


def _fold_into_vocabulary(
    layer: Any, reached: list[Any], call: Any, /, inputs: Any, *arguments: Any, **options: Any
) -> Any:
    reached.append(layer)
    if not options.get("reverse") and not (arguments and arguments[0]):
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(inputs.dtype)):
            inputs = ops.abs(ops.cast(inputs, "float32")) * 1009
        inputs = ops.mod(ops.cast(inputs, "int32"), layer.input_dim)
    return call(inputs, *arguments, **options)


def _hand_on(
    layer: Any, reached: list[Any], call: Any, /, inputs: Any, *arguments: Any, **options: Any
) -> Any:
    return call(inputs, *arguments, **options) if reached else ops.cast(inputs, layer.compute_dtype)


def _note(reached: list[Any], call: Any, /, *arguments: Any, **options: Any) -> Any:
    reached.append(call)
    return call(*arguments, **options)


MOST_SAMPLES = 256  # of an array
_AS_IT_IS = "Pass `samples=None` to hand a batch on as it is, as a model on graphs takes it."


class Batch(NamedTuple):
    """What a model is called on, labels or None, the number of samples, and whether it is a probe."""

    inputs: Any
    labels: Any
    samples: int
    probe: bool

    def __str__(self) -> str:
        return f"{self.samples} samples of {'a standard normal probe' if self.probe else 'the data'}"


def batch_for(
    model: keras.Model, data: Any, labels: Any = None, *, seed: int = 0, samples: Any = MOST_SAMPLES
) -> Batch:
    """The first batch of the data, arrays or a data set, checked; without data, a probe.

    Args:
        samples: the most that are used; None leaves the batch as it is, its arrays of any lengths.

    Raises:
        TypeError, ValueError: for data that is empty, not finite or of no known kind; for no probe.
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
        answered = count if answers is None else _samples(answers, "labels")
        if answered != count:
            raise ValueError(
                f"`data` and `labels` must have the same number of samples. Received: {count} and "
                f"{answered}. {_AS_IT_IS}"
            )
        most = fixed_samples(model) or samples
        if count > most:  # spread over all, which may be sorted by class
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
    """Inputs, and labels or None, of the first batch; arrays are one."""
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
    array = ops.convert_to_numpy(item) if ops.is_tensor(item) else np.asarray(item)
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
    """What the model makes of a batch; a ValueError where it cannot take it."""
    try:
        return model(batch.inputs, training=training)
    except Exception as error:  # whatever the model's own code raises
        raise ValueError(
            f"The model {model.name!r} cannot be called on {'a probe' if batch.probe else 'this data'}: "
            f"{said_by(error)}" + (" Pass `data`." if batch.probe else "")
        ) from error
