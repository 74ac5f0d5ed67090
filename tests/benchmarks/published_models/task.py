"""What a published model is trained on, and how: the model, its data, its batches."""

from collections.abc import Callable
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Any

import keras
import numpy as np
from keras import ops

TASKS: dict[str, Callable[[], "Task"]] = {}


@dataclass
class Task:
    """A model and what it learns.

    Attributes:
        build: makes the model, compiled with the optimizer and learning rate of its source.
        x, y: all that there is to learn from.
        steps, batch: how many batches of how many samples.
    """

    build: Callable[[], keras.Model]
    x: Any
    y: Any
    steps: int = 150
    batch: int = 32

    def part(self, index: Any) -> tuple[Any, Any]:
        """Some of the samples."""
        return keras.tree.map_structure(lambda each: each[index], (self.x, self.y))

    def train(self, model: keras.Model, seed: int) -> list[float]:
        """The loss of each step."""
        rng = np.random.default_rng(seed)
        count = len(keras.tree.flatten(self.x)[0])
        losses = []
        for _ in range(self.steps):
            x, y = self.part(rng.choice(count, self.batch, replace=False))
            losses.append(float(model.train_on_batch(x, y, return_dict=True)["loss"]))
        return losses


def published(function: Callable[[], Task]) -> Callable[[], Task]:
    """Register a task under the name of the function that makes it."""
    TASKS[function.__name__] = function
    return function


def compiled(model: keras.Model, optimizer: Any, loss: Any) -> keras.Model:
    """The model, ready to train."""
    model.compile(optimizer, loss, jit_compile=False)
    return model


LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def images(size: int = 16) -> tuple[Any, Any]:
    """Handwritten digits of 0 to 1, enlarged, and which they are."""
    from sklearn.datasets import load_digits

    found = load_digits()
    small = (found.images / 16).astype("float32")
    times = size // 8
    return np.kron(small, np.ones((1, times, times), "float32"))[..., None], found.target.astype("int32")


def waves(count: int, length: int, noise: float = 0.1) -> Any:
    """Sines of different frequencies and phases."""
    rng = np.random.default_rng(0)
    time = np.arange(length)
    clean = np.sin(rng.uniform(0.1, 0.6, (count, 1)) * time + rng.uniform(0, 6, (count, 1)))
    return (clean + rng.normal(0, noise, clean.shape)).astype("float32")[..., None]


def sentences(count: int, length: int, words: int) -> tuple[Any, Any]:
    """Words by Zipf's law, and whether those of a sentence are kind on the whole."""
    rng = np.random.default_rng(0)
    x = rng.zipf(1.3, (count, length)).clip(max=words - 1).astype("int32")
    kindness = rng.normal(size=words)
    kindness[:5] = 0
    return x, (kindness[x].sum(1) > 0).astype("float32")[:, None]


def characters(length: int) -> tuple[Any, Any, int]:
    """Pieces of the text that ships with Python, each with the character that follows."""
    text = (topics["assignment"] + topics["class"] + topics["import"]).lower()[:12000]
    letters = sorted(set(text))
    codes = np.array([letters.index(each) for each in text], "int32")
    starts = np.arange(0, len(codes) - length - 1, 3)
    whole = codes[starts[:, None] + np.arange(length + 1)]
    return whole[:, :-1], whole[:, 1:], len(letters)


def positions(length: int) -> Any:
    """0, 1, 2 … as a tensor with an axis for samples."""
    return ops.expand_dims(ops.arange(length), 0)
