"""A few steps of training from each start: the same batches in the same order, and their losses."""

import itertools
import math
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
    """What each step is trained on: (inputs, labels, sample weights), as numpy arrays.

    Attributes:
        held: all there is; of arrays one item, of a data set one for each batch that was read.
        steps: how many steps there are.
        size: the samples of a batch of arrays; None for a data set, which has batches of its own.
        count: how many samples there are; 0 for a data set.
        seed: the root seed, of the order of the samples too.
    """

    held: list[Any]
    steps: int
    size: int | None
    count: int
    seed: int

    def __iter__(self) -> Iterator[tuple[Any, Any, Any]]:
        """Each step's batch, as tensors of the backend, as `fit` hands them on."""
        for batch in itertools.islice(self._arrays(), self.steps):
            yield tree.map_structure(
                lambda each: None if each is None else ops.convert_to_tensor(each), batch
            )

    def _arrays(self) -> Iterator[Any]:
        return itertools.cycle(self.held) if self.size is None else self._drawn(self.size)

    def _drawn(self, size: int) -> Iterator[Any]:
        rng = np.random.default_rng(fold(self.seed, "batches"))
        while True:
            order = rng.permutation(self.count)
            for start in range(0, self.count - size + 1, size):
                yield self._part(order[start : start + size])

    def _part(self, index: Any) -> Any:
        return tree.map_structure(lambda each: None if each is None else each[index], self.held[0])

    def sample(self, most: int) -> tuple[Any, Any, int | None]:
        """Inputs and labels for one pass, and how many samples of them to use; None for all."""
        if self.size is None:
            inputs, labels, _ = self.held[0]
            return inputs, labels, None
        return *self.held[0][:2], most

    def __str__(self) -> str:
        return "a batch of the data set" if self.size is None else f"{self.size} samples"


def batches_of(
    model: keras.Model, data: Any, labels: Any, *, steps: int, batch_size: int | None, seed: int
) -> Batches:
    """The batches of so many steps.

    Of arrays: all samples in an order that the seed draws, then again in another; a rest that fills no batch
    is left out. Of a data set: its first batches, held in memory; from the start where there are fewer.

    Raises:
        TypeError, ValueError: for data that is empty, of no known kind, or of lengths that differ.
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
        held = [tree.map_structure(_array, batch) for batch in itertools.islice(batches_in(data), steps)]
        if not held:
            raise ValueError("`data` is empty: it has no batches.")
        for inputs, _, _ in held:
            check_finite("data", inputs)
        return Batches(held, steps, None, 0, seed)
    inputs, answers = (tree.map_structure(_array, nest) for nest in (data, labels))
    count = _samples(inputs, answers)
    check_finite("data", inputs)
    size = _size(model, batch_size, count)
    return Batches([(inputs, answers, None)], steps, size, count, seed)


def _samples(inputs: Any, answers: Any) -> int:
    """How many samples there are."""
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


def _size(model: keras.Model, asked: int | None, count: int) -> int:
    """How many samples a batch has."""
    fixed = fixed_samples(model)
    if fixed is not None and asked not in (None, fixed):
        raise ValueError(f"The model takes {fixed} samples at a time. Received: batch_size={asked}.")
    size = fixed or asked or min(_BATCH, count)
    if size > count:
        raise ValueError(f"A batch of {size} samples needs as many at least. Received: {count} samples.")
    return size


def _array(item: Any) -> Any:
    """An array of numpy; wide floats become those of Keras, as `fit` has them."""
    if item is None:
        return None
    array = ops.convert_to_numpy(item) if ops.is_tensor(item) else np.asarray(item)
    if array.dtype == object:
        raise TypeError(
            "`data` and `labels` must be arrays of samples, nests of them, or a data set of batches. "
            f"Received: {shown(item)} of type {type(item).__name__}."
        )
    return array.astype(keras.config.floatx()) if array.dtype == "float64" else array


def warm_up(model: keras.Model, batches: Batches, monitor: str) -> None:
    """One step, which compiles and builds what the first step of a model does, so that all starts are alike.

    Raises:
        ValueError: where the model cannot be trained on the batches, or has no such loss.
    """
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
    """The loss of each step, up to the first that is not finite, and which step that is, if there is one.

    Raises:
        ValueError: where the model cannot be trained on a batch.
    """
    losses: list[float] = []
    for step, (inputs, labels, weights) in enumerate(batches, start=1):
        logs = _step(model, inputs, labels, weights)
        loss = float(np.mean(np.asarray(logs[monitor], "float64")))
        advance()
        if not math.isfinite(loss):
            for _ in range(batches.steps - step):
                advance()
            return losses, step
        losses.append(loss)
    return losses, None


def _check_labels(model: keras.Model, inputs: Any, labels: Any) -> None:
    """Raise a ValueError for labels that the model's loss cannot compare with what it puts out."""
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
