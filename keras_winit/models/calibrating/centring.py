"""What `calibrate` does beside kernels: constant parts of signals, moving statistics."""

import math
import weakref
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

import numpy as np

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.links import Links
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.calibrating.targets import CONSTANT, constant_share, mirrored
from keras_winit.models.running.undo import assign_exactly, exact_value
from keras_winit.schemes.looks_linear import LooksLinearBias
from keras_winit.support.exact import ChannelMoments, Moments, channel_moments, moments
from keras_winit.support.host import host_array, is_traced
from keras_winit.theory import gains
from keras_winit.theory.linearity import linear_place, power

CENTRES = ("auto", "none", "weights", "bias")

# From a share of CONSTANT on networks fail at five to ten layers. GELU, SiLU and Mish, with 0.1 to 0.2, fail
# at 20, their gradients growing by 6 to 7 % a layer. ReLU has as much, but its gradients keep their size,
# E[f′²] = E[f²]; centred, VGG19 diverges unless its gradients are clipped, and 40 convolutions fail.
_DEEP, _CONSTANT_WHEN_DEEP, _GROWTH = 20, 0.1, 1.02


class Centring:
    """Which layers to centre, and how, by what lies between them. What is `left` is as asked for, or kept."""

    def __init__(
        self,
        center: str,
        anatomy: Anatomy,
        *,
        drawn: Mapping[Slot, Any],
        left: Container[Slot],
        target: Callable[[Slot], float],
    ) -> None:
        self.center, self._target, self._drawn = center, target, drawn
        self._biases = {
            id(slot.layer): slot
            for slot in anatomy.slots
            if slot.role == "bias" and not slot.kept and slot not in left
        }
        self._links: Links | None = None
        if center == "none":
            return
        try:
            self._links = Links(anatomy, [slot for slot in anatomy.slots if slot.role == "kernel"])
        except ValueError:
            if center == "weights":
                raise

    def has_bias(self, slot: Slot) -> bool:
        """Whether a layer has a bias that nobody gave."""
        return id(slot.layer) in self._biases

    def may_move(self, slot: Slot) -> bool:
        """Whether a layer has a bias that is drawn, or is to be moved in any case."""
        bias = self._biases.get(id(slot.layer))
        return bias is not None and (self.center == "bias" or (self.center == "auto" and bias in self._drawn))

    def place(self, slot: Slot) -> float | None:
        """The mean that a layer's bias is to give its units, or None."""
        bias = self._biases.get(id(slot.layer))
        if bias is None or self.center not in ("auto", "bias"):
            return None
        moved = self._drawn.get(bias)
        if isinstance(moved, LooksLinearBias):  # where its kernels' twins are read
            return moved.value if self.center == "bias" else None
        own = getattr(slot.layer, "activation", None)
        if self._links is not None:
            own = self._links.activation(slot) or own
        if self.center == "auto" and not self._needs_it(slot, own):
            return None
        try:
            return linear_place(own, self._target(slot))
        except (TypeError, ValueError):  # it joins features, as softmax does
            return 0.0

    def _needs_it(self, slot: Slot, activation: Any) -> bool:
        """Whether a kernel is in a chain whose constant part would grow; twins cancel it themselves."""
        links = self._links
        if links is None or slot not in self._drawn or mirrored(self._drawn[slot]):
            return False
        if not links.goes_on(slot):
            if not links.goes_before(slot):
                return False
            activation = links.reads[slot].signal.activation
        share = constant_share(activation)
        if not _CONSTANT_WHEN_DEEP < share <= CONSTANT:
            return share > CONSTANT
        found = gains.moments(activation)
        return found.derivative_second > _GROWTH * found.second and links.chain(slot).depth >= _DEEP

    def share(self, slot: Slot) -> float:
        """The share of each unit's mean weight without which signals and gradients keep their scale.

        It solves E[f′²] = Var f + (1 − share)²·E[f]², for the activation f that feeds the layer.
        """
        if self.center != "weights" or self._links is None or slot not in self._links.reads:
            return 0.0
        activation = self._links.reads[slot].signal.activation
        if not constant_share(activation):
            return 0.0
        found = gains.moments(activation)
        constant = found.mean**2
        if constant < 1e-12:
            return 0.0
        excess = found.derivative_second - (found.second - constant)
        return min(1.0, max(0.0, 1 - math.sqrt(max(0.0, excess) / constant)))


# How far, in deviations, right statistics may be from a batch's: of a hundred samples it is about a tenth.
_FITS = 0.2

# In use, where statistics stand still, SiLU, GELU and the like give more than twice the power for twice the
# power: the sample with most gets ever more, unless all have much in common. Centred, one of 32 has 45 % of
# the power behind EfficientNetB1's 46 SiLUs, and the next 32 have 0.5 or 1.4 of the deviation; not centred
# 0.94 to 1.01. It trains alike.
_DRIFT, _MANY_DRIFTING = 1.05, 20


def drifts_apart(activation: Any) -> bool:
    """Whether an activation's power grows faster than its input's: d log E[f²]/d log σ² > 1."""
    try:
        first, second = (power(activation, variance, twins=False) for variance in (1.0, 1.1))
    except (TypeError, ValueError):  # it joins features, puts out nothing, or takes other shapes
        return False
    return math.log(second / first) > _DRIFT * math.log(1.1)


class MovingStatistics:
    """The hook for a batch normalization: its moving statistics get the mean and the size of the batch.

    Training, by the batch's own statistics, does not see the size of the kernel before it. In use the moving
    ones count, which start at zero and one, and take hundreds or thousands of steps to come near.

    Attributes:
        centres: whether the moving mean is set too.
        values: pairs of a variable and its new value, once that is known.
    """

    def __init__(self, layer: Any) -> None:
        self._variables = (layer.moving_mean, layer.moving_variance)
        self.values: list[tuple[Any, Any]] = []
        self.centres = True
        self._old = [np.array(host_array(exact_value(v)), "float64") for v in self._variables]
        self._pooled = not np.ptp(self._old[1])  # then each channel's own variance makes no difference
        self._layer = layer
        self._pending = True
        self._ahead: tuple[Any, ChannelMoments] | None = None

    @property
    def fresh(self) -> bool:
        """Whether they are those that a layer is made with."""
        return not self._old[0].any() and bool(np.all(self._old[1] == 1))

    def measure_ahead(self, tensor: Any) -> Moments:
        """The moments of a tensor, remembered for the case that the layer reads it."""
        if self._layer.axis not in range(-len(tensor.shape), len(tensor.shape)):
            return moments(tensor)
        found = channel_moments(tensor, self._layer.axis, pooled=self._pooled)
        self._ahead = weakref.ref(tensor), found
        return found.whole

    def __call__(self, call: Any, inputs: Any, /, *arguments: Any, **options: Any) -> Any:
        if self._pending and not is_traced(inputs):
            self._pending = False
            self._measure(inputs)
        return call(inputs, *arguments, **options)

    def _measure(self, inputs: Any) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0]() is inputs:
            mean, variance = ahead[1]
        else:
            mean, variance = channel_moments(inputs, self._layer.axis, pooled=self._pooled)
        (old_mean, old_variance), epsilon = self._old, self._layer.epsilon
        shift = (mean - old_mean) / np.sqrt(old_variance + epsilon)
        left = 0.0 if self.centres else shift**2  # of the power in use
        ratio = float(np.mean((variance + epsilon) / (old_variance + epsilon) + left))
        if not (math.isfinite(ratio) and np.max(variance) > 0):
            return
        centred = not self.centres or np.mean(shift**2) < _FITS**2
        if centred and abs(math.sqrt(ratio) - 1) < _FITS and not self.fresh:
            return
        # One factor: a batch says little of each channel's variance, and what it misses grows with depth.
        variance = np.maximum((old_variance + epsilon) * ratio - epsilon, 0.0)
        pairs = list(zip(self._variables, (mean, variance), strict=True))
        self.values = pairs if self.centres else pairs[1:]
        for variable, value in self.values:
            assign_exactly(variable, value)


def let_means_stay(statistics: Iterable[MovingStatistics], activations: list[Any]) -> None:
    """Leave the moving means where many activations would scatter what is centred."""
    if len(activations) >= _MANY_DRIFTING and sum(map(drifts_apart, activations)) >= _MANY_DRIFTING:
        for each in statistics:
            each.centres = False
