"""What `calibrate` aims at: each kernel's output, and the model's answers."""

import math
from collections.abc import Callable, Container, Mapping
from typing import Any

import keras
import numpy as np

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.branches import shares
from keras_winit.models.anatomy.following import Depths, OutputKernel, activation_after, answers
from keras_winit.models.anatomy.passing import activation_of, moves
from keras_winit.models.anatomy.slots import Slot
from keras_winit.schemes.compose import Wrapper
from keras_winit.schemes.looks_linear import LooksLinear
from keras_winit.support.host import host_array
from keras_winit.support.losses import (
    CROSSENTROPIES,
    check_finite,
    check_is_known,
    check_labels,
    loss_name,
    losses_by_output,
    takes_logits,
)
from keras_winit.theory.gains import balanced, moments

_MEDIANS = ("mean_absolute_error", "mae", "mean_absolute_percentage_error", "mape")
_MEANS = (
    *("mean_squared_error", "mse", "mean_squared_logarithmic_error", "msle", "huber", "huber_loss"),
    *("log_cosh", "logcosh", "poisson"),
)
_EDGE = 1e-3  # how near an answer may start to the ends of what its activation puts out


def _logit(share: Any) -> Any:
    return np.log(share / (1 - share))


# What an activation makes its output of, by its name.
_INVERSES: dict[str, Callable[[Any], Any]] = {
    "linear": lambda value: value,
    "sigmoid": lambda value: _logit(np.clip(value, _EDGE, 1 - _EDGE)),
    "softmax": lambda value: np.log(np.clip(value, _EDGE, None)),
    "tanh": lambda value: np.arctanh(np.clip(value, _EDGE - 1, 1 - _EDGE)),
    "relu": lambda value: np.maximum(value, _EDGE),
    "softplus": lambda value: np.log(np.expm1(np.maximum(value, _EDGE))),
    "exponential": lambda value: np.log(np.maximum(value, _EDGE)),
}


class Answers:
    """The kernels that put out a model's answers, and where each is to start.

    Args:
        anatomy: the model taken apart.
        left: kernels that are as they were asked for, or kept.
        labels: what the outputs are compared with, an array for each; or None.
        loss: by what; None for the model's compiled one.
        strict: whether the labels were given for this, and have to suit the outputs.

    Raises:
        ValueError: for labels that do not, for an unknown loss, and for labels that are not finite.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        left: Container[Slot],
        labels: Any = None,
        loss: Any = None,
        *,
        strict: bool = False,
    ) -> None:
        self._anatomy = anatomy
        known = labels is not None
        found = answers(anatomy, loss, hidden=known)
        self._kernels = {each.slot: each for each in found if each.slot not in left}
        count = len(anatomy.trace.outputs)
        given = keras.tree.flatten(labels) if known else []
        self._labels = given if len(given) == count else [None] * count
        self._losses = losses_by_output(anatomy.model, loss, count)
        if strict and count:
            _check(given, self._losses, count)
            check_labels(anatomy.model, loss, labels, anatomy.trace.outputs)

    def __contains__(self, slot: object) -> bool:
        return slot in self._kernels

    def std(self, slot: Slot) -> float:
        """The deviation that an answer is to start with, before its activation."""
        kernel = self._kernels[slot]
        labels, name = self._labels[kernel.output], loss_name(self._losses[kernel.output])
        if labels is None or name not in (*_MEDIANS, *_MEANS) or self._activation(kernel) != "linear":
            return kernel.std
        spread = math.sqrt(np.mean(np.var(np.asarray(labels, "float64"), axis=0)))
        return kernel.std * spread if spread > 0 else kernel.std

    def place(self, slot: Slot) -> Any:
        """Where an answer's mean is to be, before its activation: a number, or one for each unit."""
        kernel = self._kernels[slot]
        labels, loss = self._labels[kernel.output], self._losses[kernel.output]
        if labels is None or loss is None or not all(map(_only_moves, kernel.between)):
            return 0.0
        answer = _best_constant(loss_name(loss), host_array(labels), kernel.units)
        inverse = _INVERSES.get(self._activation(kernel))
        if answer is None or inverse is None:
            return 0.0
        if loss_name(loss) in CROSSENTROPIES and takes_logits(loss):
            inverse = _INVERSES["sigmoid" if CROSSENTROPIES[loss_name(loss)] == "yes" else "softmax"]
        place = inverse(answer)
        return float(place) if np.ndim(place) == 0 else place

    def _activation(self, kernel: OutputKernel) -> str:
        found = activation_after(self._anatomy, kernel.slot)[0]
        return "" if found is None else found.name


def _check(labels: list[Any], losses: list[Any], count: int) -> None:
    """Raise a ValueError for labels and losses that do not suit a model's outputs."""
    if len(labels) != count:
        raise ValueError(
            f"The model has {count} outputs and there are {len(labels)} arrays of labels. Pass as many."
        )
    check_finite("labels", labels)
    for loss in losses:
        check_is_known(loss)


def _only_moves(step: Any) -> bool:
    """Whether a step is an activation, or puts the same numbers elsewhere."""
    return moves(step) or activation_of(step) is not None


def _best_constant(name: str, labels: Any, units: int) -> Any:
    """The constant that a loss likes best: of each unit where the labels tell, else one for all."""
    if CROSSENTROPIES.get(name) == "classes":
        classes = labels.astype("int64").reshape(-1)
        known = classes[(classes >= 0) & (classes < units)]  # what is to be ignored may have any number
        counts = np.bincount(known, minlength=units)
        return (counts + 1) / (counts.sum() + units)
    numbers = np.asarray(labels, "float64")
    if numbers.size % units == 0 and (numbers.shape[-1] == units or numbers.size == len(numbers) * units):
        numbers = numbers.reshape(-1, units)
    else:
        numbers = numbers.reshape(-1, 1)
    if name in CROSSENTROPIES:  # as if there were one more of each kind
        count, kinds = len(numbers), units if CROSSENTROPIES[name] == "shares" else 2
        found = (numbers.sum(axis=0) + 1) / (count + kinds)
    elif name in _MEDIANS:
        found = np.median(numbers, axis=0)
    elif name in _MEANS:
        found = numbers.mean(axis=0)
    else:
        return None
    return found if len(found) == units else found.mean()


# In long chains a deviation of one reaches all layers. Short ones, where that takes no care, learn faster
# from smaller kernels and signals. Measured: tests/benchmarks/published.py.
LONG, SHORT = 1.0, 0.35
# The share of an activation's power that is constant from which even short chains fail with small signals.
# Sigmoid has 0.85, hard_sigmoid 0.9, softplus 0.7. Measured: tests/benchmarks/trainability.py.
CONSTANT = 0.5


class Targets:
    """The deviation that each kernel's output is to have before its activation.

    Args:
        anatomy: the model taken apart.
        std: the deviation for all but answers; None for that of long and short chains.
        answers: the kernels that put out the model's answers.
        drawn: the kernels that are drawn anew, and what from.
    """

    def __init__(
        self, anatomy: Anatomy, std: float | None, answers: Answers, drawn: Mapping[Slot, Any] | None = None
    ) -> None:
        self._anatomy, self._std, self._answers, self._drawn = anatomy, std, answers, drawn or {}
        self._depths, self._shares = anatomy.once(Depths), anatomy.once(shares)
        self._found: dict[Slot, float] = {}

    def __call__(self, slot: Slot) -> float:
        """The deviation for one kernel."""
        if slot not in self._found:
            self._found[slot] = self._of(slot)
        return self._found[slot]

    def is_gentle(self, slot: Slot) -> bool:
        """Whether a signal may stay smaller than its target: a larger kernel would learn more slowly."""
        if self._std is not None or not self._depths.is_short(slot) or self._mirrored(slot):
            return False
        return constant_share(activation_after(self._anatomy, slot)[0]) <= CONSTANT

    def _mirrored(self, slot: Slot) -> LooksLinear | None:
        return mirrored(self._drawn.get(slot)) if self._std is None else None

    def _of(self, slot: Slot) -> float:
        own = self._mirrored(slot)
        if slot in self._answers:
            return min([self._answers.std(slot), *([] if own is None else [own.output_std])])
        steep, share = _of_steep(activation_after(self._anatomy, slot)[0]), self._shares.get(slot, 1.0)
        if self._std is not None:
            return self._std * steep * share
        if own is not None:
            return own.output_std * share
        return min(steep, SHORT if self.is_gentle(slot) else LONG) * share


def mirrored(initializer: Any) -> LooksLinear | None:
    """The `LooksLinear` that an initializer is, wrapped or not."""
    while isinstance(initializer, Wrapper):
        initializer = initializer.initializer
    return initializer if isinstance(initializer, LooksLinear) else None


def constant_share(activation: Any) -> float:
    """The share of an activation's power that is the same for all inputs; zero where none is known."""
    try:
        found = moments(activation)
    except (TypeError, ValueError):  # none seen, one that joins features, or is not finite
        return 0.0
    return found.mean**2 / found.second if found.second > 0 else 0.0


def _of_steep(activation: Any) -> float:
    """The deviation at which an activation keeps both signals and gradients; one for most."""
    try:
        found = balanced(activation)
    except (TypeError, ValueError):  # one that joins features, or is not finite
        return 1.0
    return 1.0 if found.variance is None else math.sqrt(found.variance)
