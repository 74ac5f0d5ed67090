"""The fans that a weight really has in its layer, measured by what the layer computes.

Keras takes fans from a shape alone, which is wrong where the shape does not tell: depthwise and
transposed convolutions, strides, embeddings, and recurrent kernels that hold several gates.
"""

import math
import re
import sys
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import keras
from keras import layers

from keras_winit.support.checks import did_you_mean, shown
from keras_winit.theory.fans import Fans, compute_fans

# Keras does not export the cell of a convolutional LSTM; making a layer to ask it takes too long.
CONV_LSTM_CELL = sys.modules[layers.ConvLSTM1D.__bases__[0].__module__].ConvLSTMCell

Rule = Callable[[Any, Any], Fans | None]

# Variables that are drawn, or added, beside the kernel named here.
_BESIDE = {"bias": ("kernel", "pointwise_kernel")}


@singledispatch
def _rule(_layer: Any, _variable: Any) -> Fans | None:
    """No rule: the shape has to do."""
    return None


def layer_fans(layer: keras.layers.Layer, variable: Any = "kernel") -> Fans:
    """The exact fans of a layer's weight: inputs per output element, outputs per input element.

    With k the product of the kernel's spatial sizes, s that of the strides, g the groups and c the
    input channels: a convolution has (k·c/g, k·filters/(g·s)), a depthwise one (k, k·multiplier/s),
    a transposed one (k·c/s, k·filters), an embedding (1, dim), each gate of a recurrent layer
    (inputs, units), and a bias the fans of its layer's kernel. Borders are ignored.

    Args:
        layer: a built Keras layer. A wrapper, a recurrent layer or an attention layer answers for
            the layers inside it.
        variable: one of the layer's variables, or its name, such as "kernel" or "query/kernel".

    Returns:
        `Fans`. Where no rule is known for the layer they follow from the shape, and `note` says so.

    Raises:
        TypeError, ValueError: for what is no layer, an unbuilt one, or a variable that it does not
            have.

    A rule for a layer of your own, which its subclasses inherit, returns `Fans`, or None to leave a
    variable to its shape:

    >>> class Mixer(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.kernel = self.add_weight(name="kernel", shape=(shape[1], shape[1]))
    ...     def call(self, x):
    ...         return keras.ops.einsum("bij,ik->bkj", x, self.kernel)
    >>> @layer_fans.register(Mixer)
    ... def _(layer, variable):
    ...     return Fans(layer.kernel.shape[0], layer.kernel.shape[1])

    Example:

    >>> layer = keras.layers.DepthwiseConv2D(3)
    >>> layer.build((None, 8, 8, 32))
    >>> layer_fans(layer)
    Fans(fan_in=9, fan_out=9)
    """
    if not isinstance(layer, layers.Layer):
        raise TypeError(f"`layer` must be a Keras layer. Received: {layer!r} of type {type(layer).__name__}.")
    owner, found = _locate(layer, variable)
    beside = _BESIDE.get(found.name)
    if beside:
        kernels = [own for own in owned(owner) if own.name in beside]
        found = kernels[0] if kernels else found
    fans = _rule(owner, found)
    if fans is not None:
        return fans
    shape = compute_fans(found.shape)
    return Fans(*shape, note=f"from the shape: no rule for {type(owner).__name__}")


layer_fans.register = _rule.register  # type: ignore[attr-defined]


def owned(layer: keras.layers.Layer) -> list[Any]:
    """A layer's own variables, without those of the layers inside it and of random generators."""
    inner = {
        id(variable) for other in layer._flatten_layers(include_self=False) for variable in other.variables
    }
    seeds = {id(generator.state) for generator in getattr(layer, "_seed_generators", ())}
    return [own for own in layer.variables if id(own) not in inner and id(own) not in seeds]


def _locate(layer: keras.layers.Layer, variable: Any) -> tuple[Any, Any]:
    """The layer that owns a variable, and the variable."""
    if not layer.built:
        raise ValueError(
            f"The layer {layer.name!r} is not built, so its weights have no shape yet. "
            "Call it on data, or its `build` on an input shape, first."
        )
    pairs = [(owner, own) for owner in layer._flatten_layers() for own in owned(owner)]
    if isinstance(variable, str):
        matches = [pair for pair in pairs if f"/{pair[1].path}".endswith(f"/{variable}")]
        direct = [pair for pair in matches if pair[0] is layer]
        matches = direct or matches
    else:
        matches = [pair for pair in pairs if pair[1] is variable]
    if len(matches) == 1:
        return matches[0]
    paths = [own.path for _, own in pairs]
    if matches:
        raise ValueError(
            f"{variable!r} names {len(matches)} variables of {layer.name!r}: "
            f"{[own.path for _, own in matches]}. Give more of the path, or the variable itself."
        )
    hint = did_you_mean(variable, {own.name for _, own in pairs}) if isinstance(variable, str) else ""
    raise ValueError(
        f"The layer {layer.name!r} has no such variable.{hint} It has {paths}. "
        f"Received: variable={shown(getattr(variable, 'path', variable))}."
    )


@_rule.register(layers.Dense)
def _(_layer: Any, variable: Any) -> Fans | None:
    return Fans(*variable.shape[:2]) if len(variable.shape) == 2 else None


@_rule.register(layers.EinsumDense)
def _(layer: Any, variable: Any) -> Fans | None:
    inputs, outputs = einsum_axes(layer)
    if len(variable.shape) != len(layer._kernel.shape):
        return None
    return compute_fans(variable.shape, inputs, outputs)


def einsum_axes(layer: keras.layers.EinsumDense, *, by_keras: bool = False) -> tuple[list[int], list[int]]:
    """The axes of an einsum kernel that are summed over, and those that only the output has.

    An axis that input, kernel and output share, such as one that counts experts, is neither; Keras
    itself takes it for an output.
    """
    data, kernel, output = re.split(r",|->", layer.equation.replace("...", "").replace(" ", ""))
    inputs = [axis for axis, label in enumerate(kernel) if label not in output]
    outputs = [
        axis for axis, label in enumerate(kernel) if label in output and (by_keras or label not in data)
    ]
    return inputs, outputs


def _convolution(layer: Any, variable: Any) -> Fans | None:
    *spatial, channels, filters = variable.shape  # channels are those of one group already
    taps, steps = math.prod(spatial), math.prod(layer.strides)
    return Fans(taps * channels, taps * filters / (layer.groups * steps))


def depthwise_fans(layer: Any, kernel_size: tuple[int, ...], multiplier: int) -> Fans:
    """The fans of a depthwise kernel, which do not depend on how many channels there are."""
    taps, steps = math.prod(kernel_size), math.prod(_tuple(layer.strides, len(kernel_size)))
    return Fans(taps, taps * multiplier / steps)


def _depthwise(layer: Any, variable: Any) -> Fans | None:
    *spatial, _channels, multiplier = variable.shape
    return depthwise_fans(layer, tuple(spatial), multiplier)


def _separable(layer: Any, variable: Any) -> Fans | None:
    if variable.name == "depthwise_kernel":
        return _depthwise(layer, variable)
    return Fans(*variable.shape[-2:])


def _transposed(layer: Any, variable: Any) -> Fans | None:
    *spatial, filters, channels = variable.shape
    taps, steps = math.prod(spatial), math.prod(layer.strides)
    return Fans(taps * channels / steps, taps * filters)


def _recurrent(gates: int) -> Rule:
    def rule(_layer: Any, variable: Any) -> Fans | None:
        if variable.name not in ("kernel", "recurrent_kernel"):
            return None
        *spatial, inputs, outputs = variable.shape
        taps = math.prod(spatial)
        return Fans(taps * inputs, taps * outputs / gates)

    return rule


def _tuple(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


for _class in (layers.Conv1D, layers.Conv2D, layers.Conv3D):
    _rule.register(_class, _convolution)
for _class in (layers.DepthwiseConv1D, layers.DepthwiseConv2D):
    _rule.register(_class, _depthwise)
for _class in (layers.SeparableConv1D, layers.SeparableConv2D):
    _rule.register(_class, _separable)
for _class in (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose):
    _rule.register(_class, _transposed)
_rule.register(layers.SimpleRNNCell, _recurrent(1))
_rule.register(layers.GRUCell, _recurrent(3))
_rule.register(layers.LSTMCell, _recurrent(4))
_rule.register(CONV_LSTM_CELL, _recurrent(4))


@_rule.register(layers.Embedding)
def _(_layer: Any, variable: Any) -> Fans | None:
    if variable.name == "reverse_embeddings":  # a dense layer onto the vocabulary
        return Fans(*variable.shape)
    return Fans(1, variable.shape[-1])  # one row of it is the output: a one-hot input
