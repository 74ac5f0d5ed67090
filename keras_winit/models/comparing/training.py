"""A few steps of training, by the model's own step, and the loss of each."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_winit.models.comparing.batches import Batches
from keras_winit.models.running.labels import check_labels, trains_as_keras
from keras_winit.support.checks import did_you_mean, said_by


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
