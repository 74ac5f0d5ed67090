"""Tell a batch normalization how large its input is, so that it answers alike in training and after."""

from typing import Any

from keras import ops

from keras_winit.models.running.moments import moments
from keras_winit.models.running.undo import assign_exactly, exact_value
from keras_winit.support.host import is_traced


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
        self._pending = True

    def __call__(self, call: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        """What the layer answers, by the moving variance that it is to have."""
        if self._pending and not is_traced(inputs):
            self._pending = False
            self._measure(inputs)
        return call(inputs, *arguments, **options)

    def _measure(self, inputs: Any) -> None:
        layer = self._layer
        before, epsilon = ops.cast(exact_value(self.variable), "float32"), layer.epsilon
        normalized = ops.batch_normalization(
            ops.cast(inputs, "float32"),
            ops.cast(exact_value(layer.moving_mean), "float32"),
            before,
            axis=layer.axis,
            epsilon=epsilon,
        )
        found = moments(normalized)
        value = (before + epsilon) * found.std**2 - epsilon if found.varies else before
        if found.varies and float(ops.min(value)) > 0:
            self.value = value
            assign_exactly(self.variable, value)
