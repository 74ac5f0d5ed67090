"""How much of what the inputs tell is left at depth."""

import math
from typing import Any, NamedTuple

import numpy as np

from keras_winit.models.diagnosing.seen import chosen_rows, named_right, principal, read_off
from keras_winit.models.diagnosing.signals import Signals

_CLASSES = 0.25  # of the samples: more different labels are no classes
_READABLE = 0.3  # how well labels must be read off the inputs, for what is left to tell anything
_FEW = 128  # samples, below which it is chance


class Left(NamedTuple):
    """What is left of what the inputs tell.

    Attributes:
        labels: r(features) / r(inputs), with r the share of the way from guessing to certainty that a ridge
            regression of the labels gets to; None where that is not known, or small for the inputs too.
        given: r(inputs).
        shares: as `labels` for each hidden layer, where little is left.
        inputs: the share of the variance along the inputs' first ten principal axes that is read off the last
            features, or None.
        chance: the standard error of `labels` where nothing is left, √(p/((1 − p)·n)) / r(inputs) for classes
            of which the commonest has a share p of n samples; 0 for numbers.
    """

    labels: float | None = None
    given: float | None = None
    shares: tuple[tuple[str, float], ...] = ()
    inputs: float | None = None
    chance: float = 0.0

    def lost_at(self, bound: float) -> str:
        """The layer from which on less than `bound` of the labels is left for good."""
        kept = [index for index, (_, share) in enumerate(self.shares) if share >= bound]
        return self.shares[min(kept[-1] + 1 if kept else 0, len(self.shares) - 1)][0]


def what_is_left(seen: Signals, labels: Any) -> Left:
    """What the last hidden features tell of the labels and of the inputs."""
    given = seen.input_sketch
    if given is None or len(given) < _FEW:
        return Left()
    features = [each for each, _ in seen.features if len(each) == len(given)]
    if not features:
        return Left()
    axes = principal(given)
    inputs = max(read_off(each, axes) or 0.0 for each in features)
    answers = _answers(labels)
    readable = 0.0 if answers is None else _read(given, answers)
    if readable < _READABLE:
        return Left(inputs=inputs)
    best = max(_read(each, answers) for each in features)
    hidden = [layer for layer in seen.layers if layer.weighted and not layer.answer]
    shares = tuple(
        (layer.path, _read(layer.sketch, answers) / readable)
        for layer in (hidden if best < 0.5 * readable else [])
        if layer.sketch is not None
    )
    return Left(best / readable, readable, shares, inputs, _chance(answers) / readable)


def _chance(answers: Any) -> float:
    """The standard error of guessing classes, as a share of the way to certainty."""
    if answers.ndim > 1:
        return 0.0
    commonest = float(np.max(np.unique(answers, return_counts=True)[1])) / len(answers)
    return math.sqrt(commonest / ((1 - commonest) * len(answers)))


def _answers(labels: Any) -> Any:
    """Labels as classes (integers) or numbers (a matrix); None for others."""
    if not hasattr(labels, "shape") or labels.ndim not in (1, 2) or len(labels) < _FEW:
        return None
    labels = labels[chosen_rows(len(labels))]
    if labels.ndim == 2 and labels.shape[1] != 1:
        one_hot = np.all((labels == 0) | (labels == 1)) and np.all(labels.sum(axis=1) == 1)
        return labels.argmax(axis=1) if one_hot else labels.astype("float64")
    labels = labels.reshape(len(labels))
    whole = np.all(labels == np.round(labels))
    few = len(np.unique(labels)) <= _CLASSES * len(labels)
    return labels.astype("int64") if whole and few else labels.astype("float64")[:, None]


def _read(sketch: Any, answers: Any) -> float:
    if len(sketch) != len(answers):
        return 0.0
    return (named_right(sketch, answers) if answers.ndim == 1 else read_off(sketch, answers)) or 0.0
