"""The loss that is asked for, and what guessing would cost by it."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

_CROSSENTROPIES = ("categorical_crossentropy", "sparse_categorical_crossentropy", "binary_crossentropy")


def loss_function(model: keras.Model, loss: Any) -> Callable[[Any, Any], Any]:
    """The scalar loss of (labels, outputs): the one given, else the compiled one.

    Raises:
        TypeError, ValueError: for what is no loss, or a model that has none.
    """
    if loss is None:
        if not getattr(model, "compiled", False) or not model.loss:
            raise ValueError(
                "Labels need a loss, and the model is not compiled with one. "
                'Pass `loss`, such as "sparse_categorical_crossentropy".'
            )
        return lambda labels, outputs: model.compute_loss(y=labels, y_pred=outputs)
    try:
        found = keras.losses.get(loss)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`loss` must be a name, a function or a keras.losses.Loss. Received: {loss!r}."
        ) from error
    if not callable(found):
        raise TypeError(f"`loss` must be a name, a function or a keras.losses.Loss. Received: {loss!r}.")
    return lambda labels, outputs: ops.mean(found(labels, outputs))


def loss_of_guessing(model: keras.Model, loss: Any, labels: Any) -> float | None:
    """The loss of the best constant answer, for crossentropies and squared and absolute errors; else None."""
    loss = loss if loss is not None else getattr(model, "loss", None)
    if labels is None or not hasattr(labels, "shape") or not loss:
        return None
    name = _name_of(loss)
    answers = labels.astype("float64")
    if name in _CROSSENTROPIES:
        return _entropy(name, answers)
    if name in ("mean_squared_error", "mse"):
        return float(np.mean(np.var(answers, axis=0)))
    if name in ("mean_absolute_error", "mae"):
        return float(np.mean(np.abs(answers - np.median(answers, axis=0))))
    return None


def _name_of(loss: Any) -> str:
    try:
        found = keras.losses.get(loss)
    except (ValueError, TypeError):
        return ""
    inner = getattr(found, "fn", found)  # a Loss of Keras wraps a function
    return str(getattr(inner, "__name__", ""))


def _entropy(name: str, answers: Any) -> float:
    if name == "sparse_categorical_crossentropy":
        _, counts = np.unique(answers, return_counts=True)
        shares = counts / counts.sum()
    elif name == "categorical_crossentropy":
        shares = answers.reshape(-1, answers.shape[-1]).mean(axis=0)
    else:
        share = answers.mean(axis=0)
        return float(np.mean(_surprise(share) + _surprise(1 - share)))
    return float(np.sum(_surprise(shares)))


def _surprise(shares: Any) -> Any:
    return -shares * np.log(np.clip(shares, 1e-12, 1))
