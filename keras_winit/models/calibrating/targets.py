"""How large each kernel's output is to be: what `calibrate` aims at."""

import math
from typing import Any

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.following import activation_after
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.calibrating.answers import Answers
from keras_winit.theory.balance import balanced


class Targets:
    """The deviation that each kernel's output is to have before its activation.

    Args:
        anatomy: the model taken apart.
        std: the deviation for most.
        answers: the kernels that put out the model's answers.
    """

    def __init__(self, anatomy: Anatomy, std: float, answers: Answers) -> None:
        self._anatomy, self._std, self._answers = anatomy, std, answers
        self._found: dict[Slot, float] = {}

    def __call__(self, slot: Slot) -> float:
        """The deviation for one kernel."""
        if slot not in self._found:
            self._found[slot] = self._of(slot)
        return self._found[slot]

    def _of(self, slot: Slot) -> float:
        if slot in self._answers:
            return self._answers.std(slot)
        return self._std * _of_steep(activation_after(self._anatomy, slot)[0])


def _of_steep(activation: Any) -> float:
    """The deviation at which an activation keeps both signals and gradients; one for most."""
    try:
        found = balanced(activation)
    except (TypeError, ValueError):  # one that joins features, or is not finite
        return 1.0
    return 1.0 if found.variance is None else math.sqrt(found.variance)
