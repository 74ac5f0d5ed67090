"""A network, what it learns, and the recipe that was published for its kind."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from published_models.task import LOGITS

NETWORKS: dict[str, "Network"] = {}


def adam() -> Any:
    return keras.optimizers.Adam()


def momentum() -> Any:
    return keras.optimizers.SGD(momentum=0.9)


@dataclass(frozen=True)
class Network:
    """What is trained, and how.

    Attributes:
        build: makes the model.
        data: makes what it reads and what it is to answer.
        recipe: the name of what was published for networks of its kind; None for none.
        optimizer: makes one.
        grid: the learning rates to try first, by their numbers: 0 is 1, −1 is 0.3, −2 is 0.1, and so on.
        loss: by what answers are judged.
        steps, batch: how many batches of how many samples a run has.
        residual: whether it has residual branches.
    """

    build: Callable[[], keras.Model]
    data: Callable[[], tuple[Any, Any]]
    recipe: str | None
    optimizer: Callable[[], Any] = momentum
    grid: range = range(-6, -1)
    loss: Any = LOGITS
    steps: int = 60
    batch: int = 16
    residual: bool = True


def rate_of(number: int) -> float:
    """A learning rate: 1, 0.3, 0.1, 0.03 … for 0, −1, −2, −3 …"""
    return float(f"{(1, 3)[number % 2]}e{number // 2}")


def guess(labels: Any) -> float:
    """The loss of the best constant answer: the entropy of classes, or the mean distance from the median."""
    if labels.dtype.kind == "f":
        return float(np.mean(np.abs(labels - np.median(labels))))
    shares = np.unique(labels, return_counts=True)[1] / labels.size
    return float(-np.sum(shares * np.log(shares)))
