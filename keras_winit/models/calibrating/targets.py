"""How large each kernel's output is to be: what `calibrate` aims at."""

import math
from collections.abc import Mapping
from typing import Any

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.branches import shares
from keras_winit.models.anatomy.depth import Depths
from keras_winit.models.anatomy.following import activation_after
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.calibrating.answers import Answers
from keras_winit.schemes.compose import Wrapper
from keras_winit.schemes.looks_linear import LooksLinear
from keras_winit.theory.balance import balanced
from keras_winit.theory.gains import moments

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
