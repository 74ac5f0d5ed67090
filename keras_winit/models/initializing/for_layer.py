"""The initializer for a layer's kernel, from the layer's own activation and fans."""

from typing import Any

from keras import layers

from keras_winit.choose import for_activation
from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.layer_fans import depthwise_fans
from keras_winit.schemes import Scheme
from keras_winit.schemes.base import remade
from keras_winit.theory.fans import Fans


def for_layer(
    layer: Any, *, distribution: str | None = None, method: str = "published", seed: Any = None
) -> Scheme:
    """The initializer for a layer's kernel: by its own activation, and with its exact fans.

    The fans are exact where the layer is built and has one kernel, and for a depthwise convolution
    before it is built too. Elsewhere they follow, as for any initializer, from the weight's shape.

    Args:
        layer: a Keras layer, such as `Dense` or `Conv2D`, or a wrapper of one; without an activation
            it is taken as linear.
        distribution: "uniform" or "normal"; None for what `recommend` takes.
        method: "published" or "exact", as in `recommend`.
        seed: None, an integer, or a `keras.random.SeedGenerator`.

    Returns:
        A scheme for the layer's `kernel_initializer`.

    Raises:
        TypeError, ValueError: for what is no layer, and as `recommend`.

    Example:

    >>> import keras
    >>> for_layer(keras.layers.Dense(3, activation="relu"))
    HeUniform()
    >>> for_layer(keras.layers.DepthwiseConv2D(3, activation="relu"))
    HeUniform(fans=(9, 9))
    """
    if not isinstance(layer, layers.Layer):
        raise TypeError(
            f"`layer` must be a Keras layer. Received: {layer!r} of type {type(layer).__name__}. "
            "Use `for_activation` for the name of an activation."
        )
    inner = layer
    while isinstance(inner, layers.Wrapper):
        inner = inner.layer
    activation = getattr(inner, "activation", None)
    scheme = for_activation(activation, distribution=distribution, method=method, seed=seed)
    fans = _fans(layer, inner)
    if fans is None:
        return scheme
    fitted: Scheme = remade(scheme, fans=list(fans))
    return fitted


def _fans(layer: Any, inner: Any) -> Fans | None:
    if isinstance(inner, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)):
        return depthwise_fans(inner, (*inner.kernel_size, 1, inner.depth_multiplier))
    if not layer.built:
        return None
    kernels = [slot.fans for slot in Anatomy(layer).slots if slot.role in ("kernel", "embedding")]
    return kernels[0] if len(set(kernels)) == 1 else None
