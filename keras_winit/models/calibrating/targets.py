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
_EDGE = 1e-3  # how near an answer may start to the ends of its activation


def _logit(share: Any) -> Any:
    return np.log(share / (1 - share))


# What an activation makes a given output of: its inverse, by its name.
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
        loss: None for the model's compiled one.
        strict: whether an unknown loss, and labels that do not suit the outputs, raise a ValueError.
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
        known, count = labels is not None, len(anatomy.trace.outputs)
        found = answers(anatomy, loss, hidden=known)
        self._kernels = {each.slot: each for each in found if each.slot not in left}
        given = keras.tree.flatten(labels) if known else []
        self._labels = given if len(given) == count else [None] * count
        self._losses = losses_by_output(anatomy.model, loss, count)
        if not strict or not count:
            return
        if len(given) != count:
            raise ValueError(
                f"The model has {count} outputs and there are {len(given)} arrays of labels. Pass as many."
            )
        check_finite("labels", given)
        for each in self._losses:
            check_is_known(each)
        check_labels(anatomy.model, loss, labels, anatomy.trace.outputs)

    def __contains__(self, slot: object) -> bool:
        return slot in self._kernels

    def std(self, slot: Slot) -> float:
        """The deviation that an answer is to have before its activation."""
        kernel = self._kernels[slot]
        labels, name = self._labels[kernel.output], loss_name(self._losses[kernel.output])
        if labels is None or name not in (*_MEDIANS, *_MEANS) or self._activation(kernel) != "linear":
            return kernel.std
        spread = math.sqrt(np.mean(np.var(np.asarray(labels, "float64"), axis=0)))
        return kernel.std * spread if spread > 0 else kernel.std

    def place(self, slot: Slot) -> Any:
        """The mean that an answer is to have before its activation: a number, or one for each unit."""
        kernel = self._kernels[slot]
        labels, loss = self._labels[kernel.output], self._losses[kernel.output]
        if labels is None or loss is None:
            return 0.0
        if not all(moves(step) or activation_of(step) is not None for step in kernel.between):
            return 0.0
        name = loss_name(loss)
        answer = _best_constant(name, host_array(labels), kernel.units)
        inverse = _INVERSES.get(self._activation(kernel))
        if answer is None or inverse is None:
            return 0.0
        if name in CROSSENTROPIES and takes_logits(loss):
            inverse = _INVERSES["sigmoid" if CROSSENTROPIES[name] == "yes" else "softmax"]
        place = inverse(answer)
        return float(place) if np.ndim(place) == 0 else place

    def _activation(self, kernel: OutputKernel) -> str:
        found = activation_after(self._anatomy, kernel.slot)[0]
        return "" if found is None else found.name


def _best_constant(name: str, labels: Any, units: int) -> Any:
    """A loss's best constant: of each unit where the labels tell, else one for all."""
    if CROSSENTROPIES.get(name) == "classes":
        classes = labels.astype("int64").reshape(-1)
        known = classes[(classes >= 0) & (classes < units)]  # what is ignored may have any number
        counts = np.bincount(known, minlength=units)
        return (counts + 1) / (counts.sum() + units)
    numbers = np.asarray(labels, "float64")
    by_unit = numbers.shape[-1] == units or numbers.size == len(numbers) * units
    numbers = numbers.reshape(-1, units if by_unit else 1)
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


# In long chains a deviation of one reaches all layers. Short ones learn faster from smaller kernels and
# signals. Measured: tests/benchmarks/published.py.
LONG, SHORT = 1.0, 0.35
# From this constant share of an activation's power on, short chains too fail with small signals. Sigmoid has
# 0.85, hard_sigmoid 0.9, softplus 0.7. Measured: tests/benchmarks/trainability.py.
CONSTANT = 0.5


class Targets:
    """The deviation that each kernel's output is to have before its activation.

    For all but answers it is `std`, or goes by the length of chains.
    """

    def __init__(
        self, anatomy: Anatomy, std: float | None, answers: Answers, drawn: Mapping[Slot, Any]
    ) -> None:
        self._anatomy, self._std, self._answers, self._drawn = anatomy, std, answers, drawn
        self._depths, self._shares = anatomy.once(Depths), anatomy.once(shares)
        self._found: dict[Slot, float] = {}

    def __call__(self, slot: Slot) -> float:
        if slot not in self._found:
            self._found[slot] = self._of(slot)
        return self._found[slot]

    def is_gentle(self, slot: Slot) -> bool:
        """Whether a signal may stay below its target, as a larger kernel would learn more slowly."""
        if self._std is not None or not self._depths.is_short(slot) or self._mirrored(slot):
            return False
        return constant_share(activation_after(self._anatomy, slot)[0]) <= CONSTANT

    def _mirrored(self, slot: Slot) -> LooksLinear | None:
        return mirrored(self._drawn.get(slot)) if self._std is None else None

    def _of(self, slot: Slot) -> float:
        own = self._mirrored(slot)
        if slot in self._answers:
            std = self._answers.std(slot)
            return std if own is None else min(std, own.output_std)
        balance = _known(balanced, activation_after(self._anatomy, slot)[0])
        # Where an activation keeps both signals and gradients.
        steep = math.sqrt(balance.variance) if balance and balance.variance is not None else 1.0
        share = self._shares.get(slot, 1.0)
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
    """The constant share of an activation's power; zero where none is known."""
    found = _known(moments, activation)
    return float(found.mean**2 / found.second) if found and found.second > 0 else 0.0


def _known(find: Callable[[Any], Any], activation: Any) -> Any:
    try:
        return find(activation)
    except (TypeError, ValueError):  # none is seen, it joins features, or is not finite
        return None
