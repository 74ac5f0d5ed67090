"""Tell a batch normalization how large its input is, so that it answers alike in training and after."""

from typing import Any

import numpy as np
from keras import ops

from keras_winit.models.running.moments import moments
from keras_winit.models.running.undo import assign_exactly, exact_value
from keras_winit.support.host import host_array, is_traced


class MovingVariance:
    """The hook for a batch normalization: one factor on its moving variance gives its output deviation one.

    A kernel before it that is left at its size makes no difference in training, where the batch's
    own variance is divided by. Afterwards it is the moving variance, which starts at one and comes
    near a small kernel's only in some thousand steps.

    Args:
        layer: the `keras.layers.BatchNormalization`.

    Attributes:
        variable: its moving variance.
        value: what that is to be; None until the layer was called, and where nothing can be told.
    """

    def __init__(self, layer: Any) -> None:
        self.variable = layer.moving_variance
        self.value: Any = None
        self._layer = layer
        self._statistics = (layer.moving_mean, layer.moving_variance)
        self._pending = True

    def __call__(self, call: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        """What the layer answers, by the moving variance that it is to have."""
        if self._pending and not is_traced(inputs):
            self._pending = False
            self._measure(inputs)
        return call(inputs, *arguments, **options)

    def _measure(self, inputs: Any) -> None:
        mean, before = (np.array(host_array(exact_value(each)), "float32") for each in self._statistics)
        epsilon = np.float32(self._layer.epsilon)
        signal, scale = inputs, before + epsilon
        if mean.any() or (before != before[0]).any():  # else it is one factor for all channels
            signal = ops.cast(inputs, "float32")
            signal = ops.batch_normalization(signal, mean, before, self._layer.axis, epsilon=epsilon)
            scale = np.ones_like(before)
        found = moments(signal)
        if not found.varies:
            return
        value = (before + epsilon) / scale * np.float32(found.std**2) - epsilon
        if value.min() > 0:
            self.value = value
            assign_exactly(self.variable, value)
