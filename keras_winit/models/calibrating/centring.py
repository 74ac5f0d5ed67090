"""What is to become of the constant part of a layer's signal, before and after its activation."""

import math
from collections.abc import Callable, Container, Mapping
from typing import Any

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.links import Links
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.calibrating.targets import CONSTANT, constant_share, mirrored
from keras_winit.schemes.looks_linear import LooksLinearBias
from keras_winit.theory.gains import moments
from keras_winit.theory.linearity import linear_place

CENTRES = ("auto", "none", "weights", "bias")

# From a share of CONSTANT on, "auto" centres: such networks fail from five to ten layers on.
# GELU, SiLU and Mish have 0.1 to 0.2, and fail from 20 layers on. So much has ReLU too; but its gradients
# keep their size, E[f′²] = E[f²], where those of the others grow by 6 to 7 % a layer. Centred, a ReLU
# network is no better off: VGG19 diverges unless its gradients are clipped, and 40 convolutions fail.
_DEEP, _CONSTANT_WHEN_DEEP, _GROWTH = 20, 0.1, 1.02


class Centring:
    """Which layers to centre, and how, by what lies between them.

    Args:
        center: one of CENTRES.
        anatomy: the model taken apart.
        drawn: those of its variables that are drawn anew, and what from.
        left: those that are as they were asked for, or kept.
        target: which deviation a kernel's output is to have.
    """

    def __init__(
        self,
        center: str,
        anatomy: Anatomy,
        *,
        drawn: Mapping[Slot, Any],
        left: Container[Slot],
        target: Callable[[Slot], float],
    ) -> None:
        slots = anatomy.slots
        kernels = [slot for slot in slots if slot.role == "kernel"]
        self._biases = {
            id(slot.layer): slot
            for slot in slots
            if slot.role == "bias" and not slot.kept and slot not in left
        }
        self.center, self._target, self._drawn = center, target, drawn
        self._links: Links | None = None
        if center == "none":
            return
        try:
            self._links = Links(anatomy, kernels)
        except ValueError:
            if center == "weights":
                raise

    def has_bias(self, slot: Slot) -> bool:
        """Whether a layer has a bias that nobody gave."""
        return id(slot.layer) in self._biases

    def may_move(self, slot: Slot) -> bool:
        """Whether a layer has a bias that nobody gave, and that is drawn, or to be moved in any case."""
        bias = self._biases.get(id(slot.layer))
        return bias is not None and (self.center == "bias" or (self.center == "auto" and bias in self._drawn))

    def place(self, slot: Slot) -> float | None:
        """The mean that a layer's bias is to give its units, or None."""
        links = self._links
        if id(slot.layer) not in self._biases or self.center not in ("auto", "bias"):
            return None
        moved = self._drawn.get(self._biases[id(slot.layer)])
        if isinstance(moved, LooksLinearBias):  # where its kernels' twins are read
            return moved.value if self.center == "bias" else None
        own = getattr(slot.layer, "activation", None)
        if links is not None:
            own = links.activation(slot) or own
        if self.center == "auto" and not self._needs_it(slot, own):
            return None
        try:
            return linear_place(own, self._target(slot))
        except (TypeError, ValueError):  # one that joins features, as softmax does
            return 0.0

    def _needs_it(self, slot: Slot, activation: Any) -> bool:
        """Whether a kernel is in a chain whose constant part would grow; twins cancel it by themselves."""
        links = self._links
        if links is None or slot not in self._drawn or mirrored(self._drawn[slot]):
            return False
        if not links.goes_on(slot):
            if not links.goes_before(slot):
                return False
            activation = links.reads[slot].signal.activation
        try:
            found = moments(activation)
        except (TypeError, ValueError):
            return False
        share = constant_share(activation)
        grows = found.derivative_second > _GROWTH * found.second
        return share > CONSTANT or (
            share > _CONSTANT_WHEN_DEEP and grows and links.chain(slot).depth >= _DEEP
        )

    def share(self, slot: Slot) -> float:
        """The share of each unit's mean weight to take away, so that signals and gradients keep their scale.

        It solves E[f′²] = Var f + (1 − share)²·E[f]², for the activation f that feeds the layer.
        """
        if self.center != "weights" or self._links is None or slot not in self._links.reads:
            return 0.0
        try:
            found = moments(self._links.reads[slot].signal.activation)
        except (TypeError, ValueError):
            return 0.0
        constant = found.mean**2
        if constant < 1e-12:
            return 0.0
        excess = found.derivative_second - (found.second - constant)
        return min(1.0, max(0.0, 1 - math.sqrt(max(0.0, excess) / constant)))
