"""What `calibrate` does beside kernels: constant parts of signals, and moving statistics."""

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
            found = gains.moments(activation)
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
            found = gains.moments(self._links.reads[slot].signal.activation)
        except (TypeError, ValueError):
            return 0.0
        constant = found.mean**2
        if constant < 1e-12:
            return 0.0
        excess = found.derivative_second - (found.second - constant)
        return min(1.0, max(0.0, 1 - math.sqrt(max(0.0, excess) / constant)))


# What a batch's own statistics may miss of those that are there, in deviations, before these count as
# wrong: a batch of a hundred samples misses the true ones by about a tenth.
_FITS = 0.2

# In use, where statistics stand still, SiLU, GELU and their like give more than twice the power for twice
# the power: the sample that has most gets ever more of it. What all samples have in common holds them
# together, so from that many on it is left in the signal. Centred, one of 32 samples has 45 % of the power
# behind EfficientNetB1's 46 SiLUs, and the next 32 have 0.5 or 1.4 of the deviation; not centred 0.94
# to 1.01. It trains alike.
_DRIFT, _MANY_DRIFTING = 1.05, 20


def drifts_apart(activation: Any) -> bool:
    """Whether an activation's power grows faster than that of what it is given: d log E[f²]/d log σ² > 1."""
    try:
        first, second = (power(activation, variance, twins=False) for variance in (1.0, 1.1))
    except (TypeError, ValueError):  # it joins features, puts out nothing, or takes other shapes
        return False
    return math.log(second / first) > _DRIFT * math.log(1.1)


class MovingStatistics:
    """The hook for a batch normalization: its moving statistics get the mean and the size of the batch.

    A kernel before it may have any size: in training, where the batch's own statistics are taken,
    that makes no difference. In use it is the moving ones that count, which start at zero and one, and
    by themselves take hundreds or thousands of steps to come near. Here the moving mean becomes the
    batch's, channel by channel, and the moving variance is multiplied by one factor. Of many with an
    activation like SiLU behind them, `let_means_stay` leaves the means.

    Args:
        layer: the `keras.layers.BatchNormalization`.

    Attributes:
        centres: whether the moving mean is set too.
        values: what the moving mean, if it is to change, and the moving variance are to be, as pairs of a
            variable and its value; none until the layer was called, where they were learned and fit,
            and where nothing can be told.
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
        """The moments of a tensor, which are remembered: if the layer reads it, it is measured once."""
        if self._layer.axis not in range(-len(tensor.shape), len(tensor.shape)):
            return moments(tensor)
        found = channel_moments(tensor, self._layer.axis, pooled=self._pooled)
        self._ahead = weakref.ref(tensor), found
        return found.whole

    def __call__(self, call: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        """What the layer answers, by the statistics that it is to have."""
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
        old_mean, old_variance = self._old
        epsilon = self._layer.epsilon
        shift = (mean - old_mean) / np.sqrt(old_variance + epsilon)
        left = 0.0 if self.centres else shift**2  # of the power in use
        ratio = float(np.mean((variance + epsilon) / (old_variance + epsilon) + left))
        if not (math.isfinite(ratio) and np.max(variance) > 0):
            return
        centred = not self.centres or np.mean(shift**2) < _FITS**2
        fits = centred and abs(math.sqrt(ratio) - 1) < _FITS
        if fits and not self.fresh:
            return
        # One factor for all variances: a batch says too little of each channel's own, and what it
        # misses grows from layer to layer.
        variance = np.maximum((old_variance + epsilon) * ratio - epsilon, 0.0)
        pairs = list(zip(self._variables, (mean, variance), strict=True))
        self.values = pairs if self.centres else pairs[1:]
        for variable, value in self.values:
            assign_exactly(variable, value)


def let_means_stay(statistics: Iterable[MovingStatistics], activations: Iterable[Any]) -> None:
    """Leave the moving means where many of the activations would scatter what is centred."""
    found = list(activations)
    if len(found) >= _MANY_DRIFTING and sum(map(drifts_apart, found)) >= _MANY_DRIFTING:
        for each in statistics:
            each.centres = False
