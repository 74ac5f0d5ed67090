"""Tell a batch normalization what it reads, so that it answers alike in training and in use."""

import math
from typing import Any

import numpy as np

from keras_winit.models.running.moments import channel_moments
from keras_winit.models.running.undo import assign_exactly, exact_value
from keras_winit.support.host import host_array, is_traced

# What a batch's own statistics may miss of those that are there, in deviations, before these count as
# wrong: a batch of a hundred samples misses the true ones by about a tenth.
_FITS = 0.2


class MovingStatistics:
    """The hook for a batch normalization: its moving statistics get the mean and the size of the batch.

    A kernel before it may have any size: in training, where the batch's own statistics are taken,
    that makes no difference. In use it is the moving ones that count, which start at zero and one, and
    by themselves take hundreds or thousands of steps to come near. Here the moving mean becomes the
    batch's, channel by channel, and the moving variance is multiplied by one factor.

    Args:
        layer: the `keras.layers.BatchNormalization`.

    Attributes:
        values: what the moving mean and the moving variance are to be; None until the layer was
            called, where they were learned and fit, and where nothing can be told.
    """

    def __init__(self, layer: Any) -> None:
        self.variables = (layer.moving_mean, layer.moving_variance)
        self.values: tuple[Any, Any] | None = None
        self._layer = layer
        self._pending = True

    def __call__(self, call: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        """What the layer answers, by the statistics that it is to have."""
        if self._pending and not is_traced(inputs):
            self._pending = False
            self._measure(inputs)
        return call(inputs, *arguments, **options)

    def _measure(self, inputs: Any) -> None:
        mean, variance = channel_moments(inputs, self._layer.axis)
        old_mean, old_variance = (np.asarray(host_array(exact_value(v)), "float64") for v in self.variables)
        epsilon = self._layer.epsilon
        shift = (mean - old_mean) / np.sqrt(old_variance + epsilon)
        ratio = float(np.mean((variance + epsilon) / (old_variance + epsilon)))
        if not (math.isfinite(ratio) and variance.max() > 0):
            return
        fits = np.mean(shift**2) < _FITS**2 and abs(math.sqrt(ratio) - 1) < _FITS
        if fits and (old_mean.any() or np.ptp(old_variance)):  # and are not those that it starts with
            return
        # One factor for all variances: a batch says too little of each channel's own, and what it
        # misses grows from layer to layer.
        self.values = mean, np.maximum((old_variance + epsilon) * ratio - epsilon, 0.0)
        for variable, value in zip(self.variables, self.values, strict=True):
            assign_exactly(variable, value)
