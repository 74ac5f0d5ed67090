"""Tell a batch normalization what it reads, so that it answers alike in training and in use."""

from typing import Any

import numpy as np

from keras_winit.models.running.moments import channel_moments
from keras_winit.models.running.undo import assign_exactly, exact_value
from keras_winit.support.host import host_array, is_traced

# What a batch's own statistics may miss of those that are there, in deviations, before these count as
# wrong: a batch of a hundred samples misses the true ones by about a tenth.
_FITS = 0.2
# The least variance of a channel, by the mean of all: a channel that is silent in this batch is not to
# be loud in the next.
_LEAST = 0.01


class MovingStatistics:
    """The hook for a batch normalization: its moving mean and variance become those of the batch.

    A kernel before it may have any size: in training, where the batch's own statistics are taken,
    that makes no difference. In use it is the moving ones that count, which start at zero and one, and
    by themselves take hundreds or thousands of steps to come near.

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
        if not (np.isfinite(variance).all() and variance.max() > 0):
            return
        old_mean, old_variance = (np.asarray(host_array(exact_value(v)), "float64") for v in self.variables)
        scale = np.sqrt(old_variance + self._layer.epsilon)
        shift, ratio = (mean - old_mean) / scale, np.sqrt(variance + self._layer.epsilon) / scale
        fits = max(np.mean(shift**2), np.mean((ratio - 1) ** 2)) < _FITS**2
        if fits and (old_mean.any() or np.ptp(old_variance)):  # and are not those that it starts with
            return
        self.values = mean, np.maximum(variance, _LEAST * variance.mean())
        for variable, value in zip(self.variables, self.values, strict=True):
            assign_exactly(variable, value)
