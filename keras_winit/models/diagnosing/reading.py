"""How much of what the inputs tell about the labels is left at depth."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_winit.models.diagnosing.features import chosen_rows, named_right, read_off
from keras_winit.models.diagnosing.judging import Judge
from keras_winit.models.diagnosing.report import Finding
from keras_winit.models.diagnosing.signals import Signals

_READABLE = 0.3  # how well labels must be read off the inputs, for what is left of it to tell anything
_FEW = 64  # samples, below which it is chance


def findings_of_labels(seen: Signals, labels: Any, judge: Judge) -> Iterator[Finding]:
    """Labels that can be read off the inputs and no longer off the last hidden features.

    What is read is the share r of the way from guessing to certainty that a ridge regression gets to; the
    figure is r(features) / r(inputs).
    """
    answers = _answers(labels)
    if answers is None or seen.input_sketch is None or not seen.features:
        return
    given = _read(seen.input_sketch, answers)
    if given is None or given < _READABLE:
        return
    best = max((_read(each, answers) or 0.0) for each in seen.features) / given
    severity = judge.severity("labels_lost", best, below=True)
    if severity is None:
        return
    if not judge.remedies.plain:  # a pooled or normalized network may yet come to tell them apart
        severity = "warning"
    bound = judge.limits["labels_lost"].warning
    hidden = [
        layer for layer in seen.layers if layer.weighted and not layer.answer and layer.sketch is not None
    ]
    shares = [(_read(layer.sketch, answers) or 0.0) / given for layer in hidden]
    # Where it is lost for good: behind the last layer that still has it.
    kept = [index for index, share in enumerate(shares) if share >= bound]
    first = hidden[min(kept[-1] + 1 if kept else 0, len(hidden) - 1)].path if hidden else "the last features"
    yield Finding(
        "labels_lost",
        severity,
        first,
        f"The labels can be read off the inputs, {given:.0%} of the way from guessing to certainty, and "
        f"hardly any more from here on: {best * given:.0%} off the last hidden features.",
        {"inputs": given, "features": best * given, "ratio": best},
        judge.remedies.scale,
    )


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
    few = len(np.unique(labels)) <= len(labels) / 4
    return labels.astype("int64") if whole and few else labels.astype("float64")[:, None]


def _read(sketch: Any, answers: Any) -> float | None:
    if len(sketch) != len(answers):
        return None
    return named_right(sketch, answers) if answers.ndim == 1 else read_off(sketch, answers)
