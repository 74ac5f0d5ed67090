"""A few steps of training, on the same batches from each start, and their losses."""

import itertools
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_winit.drawing.seeds import fold
from keras_winit.models.running.batch import batches_in, fixed_samples, is_data_set
from keras_winit.support.checks import as_int, did_you_mean, said_by, shown
from keras_winit.support.losses import check_finite, check_labels, trains_as_keras

_BATCH = 32


@dataclass(frozen=True)
class Batches:
    """What each step is trained on: (inputs, labels, sample weights), as tensors, as `fit` hands them on."""

    held: list[Any]  # of numpy: of arrays one item, of a data set one for each batch that was read
    steps: int
    size: int | None  # the samples of a batch; None for a data set, which has batches of its own
    count: int  # all samples; 0 for a data set
    seed: int

    def __iter__(self) -> Iterator[tuple[Any, Any, Any]]:
        arrays = itertools.cycle(self.held) if self.size is None else self._drawn(self.size)
        for batch in itertools.islice(arrays, self.steps):
            yield _of_each(ops.convert_to_tensor, batch)

    def _drawn(self, size: int) -> Iterator[Any]:
        rng = np.random.default_rng(fold(self.seed, "batches"))
        while True:
            order = rng.permutation(self.count)
            for start in range(0, self.count - size + 1, size):
                yield _of_each(operator.itemgetter(order[start : start + size]), self.held[0])

    def sample(self, most: int) -> tuple[Any, Any, int | None]:
        """Inputs and labels for one pass, and how many samples to use; None for all."""
        inputs, labels, _ = self.held[0]
        return inputs, labels, None if self.size is None else most

    def __str__(self) -> str:
        return "a batch of the data set" if self.size is None else f"{self.size} samples"


def _of_each(change: Callable[[Any], Any], nest: Any) -> Any:
    """The nest of what becomes of each array; None stays."""
    return tree.map_structure(lambda each: None if each is None else change(each), nest)


def batches_of(
    model: keras.Model, data: Any, labels: Any, *, steps: int, batch_size: int | None, seed: int
) -> Batches:
    """The batches of so many steps.

    Of arrays: all samples in an order that the seed draws, then in another, without a rest that fills no
    batch. Of a data set: its first, taken again where there are fewer.
    """
    if batch_size is not None:
        batch_size = as_int("batch_size", batch_size, minimum=1)
    if is_data_set(data):
        if labels is not None:
            raise ValueError("The data brings labels of its own. Pass `labels` with arrays only.")
        if batch_size is not None:
            raise ValueError(
                "A data set has batches of its own. Pass `batch_size` with arrays only. "
                f"Received: batch_size={batch_size}."
            )
        held = [_of_each(_array, batch) for batch in itertools.islice(batches_in(data), steps)]
        if not held:
            raise ValueError("`data` is empty: it has no batches.")
        for inputs, _, _ in held:
            check_finite("data", inputs)
        return Batches(held, steps, None, 0, seed)
    inputs, answers = (_of_each(_array, nest) for nest in (data, labels))
    count = _samples(inputs, answers)
    check_finite("data", inputs)
    fixed = fixed_samples(model)
    if fixed is not None and batch_size not in (None, fixed):
        raise ValueError(f"The model takes {fixed} samples at a time. Received: batch_size={batch_size}.")
    size = fixed or batch_size or min(_BATCH, count)
    if size > count:
        raise ValueError(f"A batch of {size} samples needs as many at least. Received: {count} samples.")
    return Batches([(inputs, answers, None)], steps, size, count, seed)


def _samples(inputs: Any, answers: Any) -> int:
    counts = []
    for nest in (inputs, answers):
        arrays = [array for array in tree.flatten(nest) if array is not None]
        if any(array.ndim == 0 for array in arrays):
            raise TypeError("`data` and `labels` must be arrays of samples. Received: a single number.")
        counts.append({len(array) for array in arrays})
    if len(counts[0] | counts[1]) > 1:
        raise ValueError(
            "The arrays of `data` and `labels` must have as many samples each. Received: "
            f"{sorted(counts[0])} and {sorted(counts[1])}. Pass a data set that yields batches of "
            "(data, labels) where a sample is not a row of each."
        )
    count = max(counts[0], default=0)
    if not count:
        raise ValueError("`data` is empty: it has no samples.")
    return count


def _array(item: Any) -> Any:
    """An array of numpy, wide floats as Keras' own, as `fit` has them."""
    array = ops.convert_to_numpy(item) if ops.is_tensor(item) else np.asarray(item)
    if array.dtype == object:
        raise TypeError(
            "`data` and `labels` must be arrays of samples, nests of them, or a data set of batches. "
            f"Received: {shown(item)} of type {type(item).__name__}."
        )
    return array.astype(keras.config.floatx()) if array.dtype == "float64" else array


def warm_up(model: keras.Model, batches: Batches, monitor: str) -> None:
    """One step, which compiles and builds what a model's first step does, so that all starts are alike."""
    inputs, labels, weights = next(iter(batches))
    _check_labels(model, inputs, batches.held[0][1])
    logs = _step(model, inputs, labels, weights)
    names = list(logs) if isinstance(logs, dict) else []
    if monitor not in names:
        raise ValueError(
            f"`monitor` must be one of the losses that the model's `train_step` returns, {names}. "
            f"Received: monitor={monitor!r}.{did_you_mean(monitor, names)}"
        )


def train(
    model: keras.Model, batches: Batches, monitor: str, advance: Callable[[], None]
) -> tuple[list[float], int | None]:
    """The loss of each step, up to the first that is not finite, and which step that is, if any."""
    losses: list[float] = []
    for step, (inputs, labels, weights) in enumerate(batches, start=1):
        logs = _step(model, inputs, labels, weights)
        loss = float(np.mean(np.asarray(logs[monitor], "float64")))
        if not math.isfinite(loss):
            return losses, step
        losses.append(loss)
        advance()
    return losses, None


def _check_labels(model: keras.Model, inputs: Any, labels: Any) -> None:
    """Raise a ValueError for labels that the model's loss cannot take."""
    if not trains_as_keras(model) or (labels is None and not model.loss):
        return
    if labels is None:
        raise ValueError(
            f"The model {model.name!r} is compiled with a loss, which compares its outputs with labels. "
            "Pass `labels`, or a data set that yields (data, labels)."
        )
    try:
        with keras.StatelessScope():  # recurrent layers may keep a state
            outputs = keras.tree.flatten(model(inputs, training=False))
    except Exception:  # what is wrong with it says the step
        return
    check_labels(model, None, labels, outputs)


def _step(model: keras.Model, inputs: Any, labels: Any, weights: Any) -> Any:
    try:
        model.reset_metrics()  # before 3.15, Keras puts out the mean of all batches so far
        return model.train_on_batch(inputs, labels, sample_weight=weights, return_dict=True)
    except Exception as error:  # whatever a backend or the model's own code raises
        raise ValueError(
            f"The model {model.name!r} cannot be trained on this data: {said_by(error)}"
        ) from error
