"""The fans that a weight really has in its layer, measured by what the layer computes.

Keras takes fans from a shape alone, which is wrong where the shape does not tell: depthwise and
transposed convolutions, strides, embeddings, and recurrent kernels that hold several gates.
"""

import math
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import keras
from keras import layers

from keras_winit.models.anatomy import contractions
from keras_winit.models.anatomy.uses import Uses
from keras_winit.models.tracing.kinds import CONVOLUTIONS, DEPTHWISE, SEPARABLE, TRANSPOSED
from keras_winit.models.tracing.opening import is_keras_call
from keras_winit.models.tracing.structure import owned
from keras_winit.models.tracing.tracer import trace
from keras_winit.support.checks import did_you_mean, shown
from keras_winit.theory.fans import CELLS, Fans, compute_fans, einsum_labels, gates


@singledispatch
def _rule(_layer: Any, _variable: Any) -> Fans | None:
    """No rule: the computation tells, or the shape has to do."""
    return None


def has_rule(layer: Any) -> bool:
    """Whether somebody gave a rule for a layer of the user's own."""
    return is_known(layer) and _rule.dispatch(type(layer)).__module__ != __name__


def is_known(layer: Any) -> bool:
    """Whether a layer is of a class that there is a rule for, or of a subclass."""
    return _rule.dispatch(type(layer)) is not _rule.dispatch(object)


def fans_by_rule(layer: Any, variable: Any) -> Fans | None:
    """The fans of a layer's own variable, of a bias those of the kernel, by the rule for the layer."""
    return _rule(layer, _kernel_beside(variable, layer))


def _kernel_beside(variable: Any, layer: Any) -> Any:
    """The kernel that a bias is added beside, or else the variable itself."""
    if variable.name != "bias":
        return variable
    return next((own for own in owned(layer) if own.name in ("kernel", "pointwise_kernel")), variable)


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
        `Fans`. For a layer of your own they follow from what its `call` computes with the variable, and
        where that cannot be seen, from the shape; `note` says so.

    Raises:
        TypeError, ValueError: for what is no layer, an unbuilt one, or a variable that it does not
            have.

    A layer whose call cannot be seen, for it computes with NumPy or with functions of a backend, can say
    what it is by a rule, which its subclasses inherit. It returns `Fans`, or None to leave a variable to
    its shape:

    >>> class Mixer(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.mix = self.add_weight(shape=(shape[1], shape[1]))
    ...     def call(self, x):
    ...         return my_own_kernel(x, self.mix)
    >>> @layer_fans.register(Mixer)
    ... def _(layer, variable):
    ...     return Fans(*variable.shape)

    Example:

    >>> layer = keras.layers.DepthwiseConv2D(3)
    >>> layer.build((None, 8, 8, 32))
    >>> layer_fans(layer)
    Fans(fan_in=9, fan_out=9)
    """
    if not isinstance(layer, layers.Layer):
        raise TypeError(f"`layer` must be a Keras layer. Received: {layer!r} of type {type(layer).__name__}.")
    owner, found = _locate(layer, variable)
    fans = fans_by_rule(owner, found)
    if fans is None and not is_keras_call(owner):
        use = Uses(trace(layer)).main(found)
        if use is not None and use.fans is not None:
            return Fans(*use.fans, note=f"from the computation: {use.step.kind}")
    return fans_of_shape(found, owner) if fans is None else fans


def fans_of_shape(variable: Any, layer: Any) -> Fans:
    """The fans by the shape of a variable, of a bias by that of the kernel, with a note that says so."""
    shape = compute_fans(_kernel_beside(variable, layer).shape)
    return Fans(*shape, note=f"from the shape: no rule for {type(layer).__name__}")


layer_fans.register = _rule.register  # type: ignore[attr-defined]


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
        matches = [pair for pair in matches if pair[0] is layer] or matches
    else:
        matches = [pair for pair in pairs if pair[1] is variable]
    if len(matches) == 1:
        return matches[0]
    paths = [own.path for _, own in matches or pairs]
    if matches:
        raise ValueError(
            f"{variable!r} names {len(paths)} variables of {layer.name!r}: "
            f"{paths}. Give more of the path, or the variable itself."
        )
    hint = did_you_mean(variable, {own.name for _, own in pairs}) if isinstance(variable, str) else ""
    raise ValueError(
        f"The layer {layer.name!r} has no such variable.{hint} It has {paths}. "
        f"Received: variable={shown(getattr(variable, 'path', variable))}."
    )


@_rule.register(layers.Dense)
def _(_layer: Any, variable: Any) -> Fans | None:
    return Fans(*variable.shape) if len(variable.shape) == 2 else None


@_rule.register(layers.EinsumDense)
def _(layer: Any, variable: Any) -> Fans | None:
    if len(variable.shape) != len(layer._kernel.shape):
        return None
    return compute_fans(tuple(variable.shape), *einsum_axes(layer))


def einsum_axes(layer: keras.layers.EinsumDense, *, by_keras: bool = False) -> tuple[list[int], list[int]]:
    """The axes of an einsum kernel that are summed over, and those that only the output has.

    An axis that input, kernel and output share, such as one of experts, is neither; to Keras it is an output.
    """
    (data, kernel), output = einsum_labels(layer.equation, (len(layer.equation), len(layer._kernel.shape)))
    axes = list(enumerate(kernel))
    inputs = [axis for axis, label in axes if label not in output]
    return inputs, [axis for axis, label in axes if label in output and (by_keras or label not in data)]


def _convolution(layer: Any, variable: Any) -> Fans | None:
    return contractions.plain_fans(variable.shape, layer.strides, layer.groups)


def depthwise_fans(layer: Any, shape: Sequence[int]) -> Fans:
    """The fans of a depthwise kernel, built or not."""
    return contractions.depthwise_fans(shape, layer.strides)


def _depthwise(layer: Any, variable: Any) -> Fans | None:
    return depthwise_fans(layer, variable.shape)


def _separable(layer: Any, variable: Any) -> Fans | None:
    pointwise = variable.name != "depthwise_kernel"
    return Fans(*variable.shape[-2:]) if pointwise else depthwise_fans(layer, variable.shape)


def _transposed(layer: Any, variable: Any) -> Fans | None:
    return contractions.transposed_fans(variable.shape, layer.strides)


def _recurrent(layer: Any, variable: Any) -> Fans | None:
    if variable.name not in ("kernel", "recurrent_kernel"):
        return None
    *spatial, inputs, outputs = variable.shape
    taps = math.prod(spatial)
    return Fans(taps * inputs, taps * outputs / len(gates(layer)))


for _kinds, _of_kind in (
    (CONVOLUTIONS, _convolution),
    (DEPTHWISE, _depthwise),
    (SEPARABLE, _separable),
    (TRANSPOSED, _transposed),
    (CELLS, _recurrent),
):
    for _kind in _kinds:
        _rule.register(_kind, _of_kind)


@_rule.register(layers.Embedding)
def _(_layer: Any, variable: Any) -> Fans | None:
    if variable.name == "reverse_embeddings":  # a dense layer onto the vocabulary
        return Fans(*variable.shape)
    return Fans(1, variable.shape[-1])  # one row of it is the output: a one-hot input
