"""How much of what the inputs tell is left at depth: about the labels, and about themselves."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_winit.models.diagnosing.findings import Remedies, Threshold, severity_of
from keras_winit.models.diagnosing.report import Finding
from keras_winit.models.diagnosing.seen import Seen, chosen_rows, named_right, principal, read_off
from keras_winit.models.diagnosing.signals import Signals

SCATTERED = 10.0  # directions that inputs fill which have not collapsed
_HALF, _TELLING = 0.5, 0.7  # of what the labels could be read off the inputs

Limits = Mapping[str, Threshold]


def near_a_line(
    limits: Limits, remedies: Remedies, ranked: list[Seen], *, given: float, last: float, told: float | None
) -> Iterator[Finding]:
    """Whether all inputs come to lie near a line.

    Args:
        limits, remedies: of the diagnosis.
        ranked: the hidden layers whose rank is known, in order.
        given: the rank of the inputs.
        last: that of what the last layers read.
        told: how much of what the labels could be read off the inputs is left; None without labels.
    """
    lasting = _lasting(ranked, last)
    severity = severity_of(limits["one_direction"], lasting[-1], below=True)
    # What lies on a line may lie there as it should: after training.
    if severity is None or (told is not None and told >= _TELLING):
        return
    # Measured in plain chains: few units behind a recurrent layer may lie near a line, and learn.
    if not remedies.plain or (told is not None and told >= _HALF):
        severity = "warning"
    first = _first_below(ranked, lasting, getattr(limits["one_direction"], severity))
    yield Finding(
        "one_direction",
        severity,
        first.path,
        f"All inputs come to lie near a line: their differences, which fill {given:.3g} directions "
        f"in the inputs, fill {first.rank:.3g} here, and {ranked[-1].rank:.3g} at {ranked[-1].path}.",
        {"rank": first.rank or 1.0, "worst": lasting[-1], "input": given},
        remedies.scale,
    )


def places_alike(limits: Limits, remedies: Remedies, ranked: list[Seen], last: float) -> Iterator[Finding]:
    """Whether attention makes all places alike, so that the layers behind it cannot tell them apart.

    Args:
        limits, remedies, ranked, last: as of `near_a_line`.
    """
    start = ranked[0].rank or 1.0
    lasting = [rank / start for rank in _lasting(ranked, last)]
    severity = severity_of(limits["rank_collapse"], lasting[-1], below=True)
    if severity is None or start < SCATTERED:
        return
    first = _first_below(ranked, lasting, getattr(limits["rank_collapse"], severity))
    yield Finding(
        "rank_collapse",
        severity,
        first.path,
        f"All places come to look alike: what differs between them fills {start:.3g} directions at "
        f"{ranked[0].path}, {first.rank:.3g} here, and {ranked[-1].rank:.3g} at {ranked[-1].path}.",
        {"ratio": (first.rank or 1.0) / start, "worst": lasting[-1]},
        remedies.places,
    )


def _lasting(ranked: list[Seen], last: float) -> list[float]:
    """The rank that each layer leaves for good: the largest that is still to come."""
    ranks = [max(layer.rank or 1.0, last) for layer in ranked]
    return list(itertools.accumulate(reversed(ranks), max))[::-1]


def _first_below(ranked: list[Seen], lasting: list[float], bound: float) -> Seen:
    return next(layer for layer, rank in zip(ranked, lasting, strict=True) if rank < bound)


_CLASSES = 0.25  # of the samples: labels that are more different numbers are no classes

_READABLE = 0.3  # how well labels must be read off the inputs, for what is left of it to tell anything
_FEW = 128  # samples, below which it is chance


class Left(NamedTuple):
    """What is left of what the inputs tell.

    Attributes:
        labels: r(features) / r(inputs), with r the share of the way from guessing to certainty that a ridge
            regression of the labels gets to; None without labels, or with such as cannot be read off the
            inputs either.
        given: r(inputs).
        shares: the same as `labels` for each hidden layer, where little is left.
        inputs: the share of the variance along the inputs' first ten principal axes that is read off the last
            features; None where that is not known.
        chance: the standard error of `labels` where nothing is left, √(p/((1 − p)·n)) / r(inputs) for classes
            of which the commonest has a share p of n samples; 0 for numbers.
    """

    labels: float | None = None
    given: float | None = None
    shares: tuple[tuple[str, float], ...] = ()
    inputs: float | None = None
    chance: float = 0.0

    def lost_at(self, bound: float) -> str:
        """The layer from which on less than a share of the labels is left for good."""
        kept = [index for index, (_, share) in enumerate(self.shares) if share >= bound]
        return self.shares[min(kept[-1] + 1 if kept else 0, len(self.shares) - 1)][0]


def what_is_left(seen: Signals, labels: Any) -> Left:
    """What the last hidden features tell of the labels and of the inputs."""
    given = seen.input_sketch
    features = [each for each, _ in seen.features if given is not None and len(each) == len(given)]
    if given is None or len(given) < _FEW or not features:
        return Left()
    axes = principal(given)
    inputs = max(read_off(each, axes) or 0.0 for each in features)
    answers = _answers(labels)
    readable = None if answers is None else _read(given, answers)
    if readable is None or readable < _READABLE:
        return Left(inputs=inputs)
    best = max(_read(each, answers) or 0.0 for each in features)
    hidden = [layer for layer in seen.layers if layer.weighted and not layer.answer]
    shares = tuple(
        (layer.path, (_read(layer.sketch, answers) or 0.0) / readable)
        for layer in (hidden if best < 0.5 * readable else [])
        if layer.sketch is not None
    )
    return Left(best / readable, readable, shares, inputs, _chance(answers) / readable)


def _chance(answers: Any) -> float:
    """The standard error of how well classes are named by guessing, as a share of the way to certainty."""
    if answers.ndim > 1:
        return 0.0
    commonest = float(np.max(np.unique(answers, return_counts=True)[1])) / len(answers)
    return math.sqrt(commonest / ((1 - commonest) * len(answers)))


def _answers(labels: Any) -> Any:
    """What is to be read, as classes (integers) or numbers (a matrix); None for what is neither."""
    if not hasattr(labels, "shape") or labels.ndim not in (1, 2) or len(labels) < _FEW:
        return None
    labels = labels[chosen_rows(len(labels))]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        one_hot = np.all((labels == 0) | (labels == 1)) and np.all(labels.sum(axis=1) == 1)
        return labels.argmax(axis=1) if one_hot else labels.astype("float64")
    whole = np.all(labels == np.round(labels))
    few = len(np.unique(labels)) <= _CLASSES * len(labels)
    return labels.astype("int64") if whole and few else labels.astype("float64")[:, None]


def _read(sketch: Any, answers: Any) -> float | None:
    if len(sketch) != len(answers):
        return None
    return named_right(sketch, answers) if answers.ndim == 1 else read_off(sketch, answers)
