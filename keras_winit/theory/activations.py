"""What may be meant by an activation: a name, a function, a layer or a config."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np
from keras import ops

from keras_winit.support.checks import did_you_mean, revived, shown

T = TypeVar("T")


class Activation(NamedTuple):
    """An activation with its name, and the slope below zero of a leaky ReLU."""

    name: str
    function: Callable[[Any], Any]
    negative_slope: float | None = None


@cache
def builtin_names() -> tuple[str, ...]:
    """The activations that this Keras ships, by name and alias."""
    found = {name for name, item in vars(keras.activations).items() if inspect.isfunction(item)}
    return tuple(sorted((found | {"swish", "hard_swish"}) - {"get", "serialize", "deserialize"}))


def resolve(activation: Any) -> Activation:
    """The activation behind a name, a callable, an activation layer, a config, or None.

    Raises:
        TypeError, ValueError: for what is none.
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, str):
        activation = _by_name(activation)
    if isinstance(activation, dict):
        activation = revived(activation)
    if activation is None:
        activation = keras.activations.linear
    if isinstance(activation, keras.layers.Layer):
        return _of_layer(activation)
    if not callable(activation) or inspect.isclass(activation):
        raise TypeError(
            "An activation is a name, a callable, an activation layer or None. "
            f"Received: {shown(activation)} of type {type(activation).__name__}."
        )
    if activation is keras.activations.threshold:
        raise ValueError(
            "`threshold` is no activation without its two arguments. Pass a callable that has them, "
            "such as `lambda x: keras.activations.threshold(x, 0.5, 0.0)`."
        )
    name = getattr(activation, "__name__", type(activation).__name__)
    slope = None
    if activation is keras.activations.leaky_relu:
        slope = inspect.signature(activation).parameters["negative_slope"].default
    return Activation(name, activation, slope)


def _by_name(name: str) -> Callable[[Any], Any]:
    custom = keras.saving.get_registered_object(name)
    try:
        function: Callable[[Any], Any] = custom or keras.activations.get(name)
        return function
    except ValueError as error:
        raise ValueError(
            f"There is no activation named {shown(name)}.{did_you_mean(name, builtin_names())} "
            "Pass a callable for one of your own."
        ) from error


def _of_layer(layer: keras.layers.Layer) -> Activation:
    """The activation that a layer applies to each element."""
    layers = keras.layers
    if isinstance(layer, layers.Activation):
        return resolve(layer.activation)
    if isinstance(layer, layers.PReLU):
        slope = _prelu_slope(layer)
        return Activation("prelu", lambda x: ops.leaky_relu(x, slope), slope)
    if isinstance(layer, layers.LeakyReLU):
        return Activation("leaky_relu", layer.call, float(layer.negative_slope))
    if isinstance(layer, layers.ReLU):
        return Activation("relu", layer.call, float(layer.negative_slope) or None)
    if isinstance(layer, layers.ELU):
        return Activation("elu", layer.call)
    if isinstance(layer, layers.Softmax):
        return Activation("softmax", layer.call)
    if hasattr(layer, "activation") or any(len(w.shape) > 1 for w in layer.weights):
        raise TypeError(
            f"The layer {layer.name!r} of type {type(layer).__name__} is no activation layer. "
            "Pass its `activation`, or use `for_layer(layer)`."
        )
    # A layer of the user's own. An unbuilt one stays so: a twin of it is built.
    own = layer if layer.built else type(layer).from_config(layer.get_config())
    return Activation(type(layer).__name__, own)


def _prelu_slope(layer: keras.layers.PReLU) -> float:
    """The one slope with the same second moment as a PReLU's."""
    slopes = layer.alpha if layer.built else layer.alpha_initializer((1, 64), dtype="float32")
    return float(np.sqrt(np.mean(np.square(ops.convert_to_numpy(slopes).astype("float64")))))


def remembered(compute: Callable[..., T], activation: Activation, *arguments: Any) -> T:
    """What is computed of an activation, once, but for a layer of the user's own, which may change."""
    key = _key(activation)
    if key is None:
        return compute(activation, *arguments)
    asked = (compute, key, *arguments)
    if asked not in _KNOWN:
        while len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.pop(next(iter(_KNOWN)), None)
        _KNOWN[asked] = compute(activation, *arguments)
    found: T = _KNOWN[asked]
    return found


_KNOWN: dict[Any, Any] = {}
_MOST_KNOWN = 512


def _key(activation: Activation) -> Any:
    """What tells an activation from others; None for what may change."""
    function = activation.function
    if isinstance(function, keras.layers.Layer):
        return None
    if activation.name == "prelu":
        return activation.name, activation.negative_slope
    layer = getattr(function, "__self__", None)
    if isinstance(layer, keras.layers.Layer) and type(layer).__module__.startswith("keras."):
        # The `call` of a layer of Keras is the same for equal arguments.
        config = {key: value for key, value in layer.get_config().items() if key != "name"}
        return type(layer), repr(config)
    try:
        hash(activation)
    except TypeError:
        return None
    return activation
