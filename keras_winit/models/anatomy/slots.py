"""A model's variables in order, each with its layer, place, role and fans.

This is the only file that knows what Keras' layers call their attributes.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from keras_winit.models.anatomy.kinds import CONVOLUTIONS, DEPTHWISE, TRANSPOSED
from keras_winit.models.anatomy.layer_fans import CONV_LSTM_CELL, einsum_axes, layer_fans, owned
from keras_winit.support.checks import Shape
from keras_winit.theory.fans import Fans

# What a variable is for, by its name; everything else is "other".
_ROLES = {
    "kernel": ("kernel", "depthwise_kernel", "pointwise_kernel"),
    "recurrent": ("recurrent_kernel",),
    "embedding": ("embeddings", "reverse_embeddings"),
    "bias": ("bias",),
    "norm": ("gamma", "beta"),
    "statistic": (
        "moving_mean",
        "moving_variance",
        "moving_stddev",
        "renorm_mean",
        "renorm_stddev",
        "vector_u",
    ),
}
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names}

# Where the attribute that holds the initializer is not the variable's name with _initializer.
_INITIALIZERS = {
    "recurrent_kernel": "recurrent_initializer",
    "depthwise_kernel": "depthwise_initializer",
    "pointwise_kernel": "pointwise_initializer",
    "reverse_embeddings": "embeddings_initializer",
}
_ATTENTION = (layers.MultiHeadAttention, layers.GroupQueryAttention)
CELLS = (layers.SimpleRNNCell, layers.LSTMCell, layers.GRUCell, CONV_LSTM_CELL)
_GATED = (layers.LSTMCell, CONV_LSTM_CELL)

# Initial values that Keras writes into its layers' code instead of an attribute.
_WRITTEN_IN_CODE = {
    (layers.RMSNormalization, "scale"): "ones",
    (layers.SpectralNormalization, "vector_u"): keras.initializers.TruncatedNormal(stddev=0.02),
    (layers.BatchNormalization, "moving_stddev"): "ones",
    (layers.BatchNormalization, "renorm_mean"): "zeros",
    (layers.BatchNormalization, "renorm_stddev"): "ones",
    (layers.AdditiveAttention, "scale"): "glorot_uniform",
    (layers.Attention, "scale"): "ones",
    (layers.Attention, "concat_score_weight"): "ones",
}


@dataclass(frozen=True, eq=False)
class Slot:
    """One variable of a model.

    Attributes:
        variable: the Keras variable.
        layer: the layer that owns it.
        parents: the layers around that one, from the model inwards.
        place: where it is in the model, with automatic names counted in the model: the same in
            every process, and not changed by layers with names of their own.
        role: kernel, recurrent, embedding, bias, norm, statistic or other.
        blocks: how many independent matrices stand side by side on the last axis: gates, groups.
        axes: input and output axes, where the shape does not tell; else None.
        fans: the exact fans, or None for what has none.
        attribute: the name of the layer's attribute that holds the initializer, or None.
        kept: why it must not be drawn, or None.
    """

    variable: Any
    layer: Any
    parents: tuple[Any, ...]
    place: str
    role: str
    blocks: int
    axes: tuple[list[int], list[int]] | None
    fans: Fans | None
    attribute: str | None
    kept: str | None

    @property
    def path(self) -> str:
        """The path that Keras gives the variable."""
        return str(self.variable.path)

    @property
    def shape(self) -> Shape:
        """The variable's shape."""
        return tuple(int(size) for size in self.variable.shape)

    @property
    def configured(self) -> Any:
        """The initializer that the layer itself was given, or what Keras' code says; None if unknown."""
        if self.attribute:
            given = getattr(self.layer, self.attribute)
            # A layer of the user's own may keep the string that it was given.
            return given if callable(given) else keras.initializers.get(given)
        for (kind, name), initializer in _WRITTEN_IN_CODE.items():
            if isinstance(self.layer, kind) and self.variable.name == name:
                return keras.initializers.get(initializer)
        return None

    @property
    def transposed(self) -> bool:
        """Whether the kernel is (spatial…, outputs, inputs)."""
        return self.role == "kernel" and isinstance(self.layer, TRANSPOSED)

    @property
    def axes_by_keras(self) -> tuple[list[int], list[int]] | None:
        """The axes that Keras gives this layer's own initializer, or None."""
        if self.role == "kernel" and isinstance(self.layer, layers.EinsumDense):
            return einsum_axes(self.layer, by_keras=True)
        return None

    @property
    def depthwise(self) -> bool:
        """Whether each input channel has a kernel of its own."""
        return self.variable.name == "depthwise_kernel" or isinstance(self.layer, DEPTHWISE)

    @property
    def attention(self) -> Any:
        """The attention layer that this projection belongs to, or None."""
        return next((parent for parent in reversed(self.parents) if isinstance(parent, _ATTENTION)), None)

    @property
    def forget_bias(self) -> bool:
        """Whether Keras sets the forget gate of this bias to one."""
        return self.role == "bias" and bool(getattr(self.layer, "unit_forget_bias", False))

    def recorders(self) -> list[tuple[Any, str]]:
        """The attributes, as (owner, name), that a saved model keeps the initializer in."""
        result = [(self.layer, self.attribute)] if self.attribute else []
        # An attention layer keeps one initializer for all its projections: that of the query.
        if self.attribute and self.attention is not None and self.layer.name == "query":
            prefix = "_" if isinstance(self.attention, layers.MultiHeadAttention) else ""
            result.append((self.attention, prefix + self.attribute))
        return result


def slots(model: keras.layers.Layer) -> list[Slot]:
    """Every variable of a built model, once, in the order of its layers."""
    if not isinstance(model, layers.Layer):
        raise TypeError(f"`model` must be a Keras model. Received: {model!r} of type {type(model).__name__}.")
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} has no weights to work on yet: it is not built. "
            "Call the model on data, or `model.build(input_shape)`, first."
        )
    result, seen = [], set()
    for layer, parents, chain in _walk(model, (), (), set()):
        names: Counter[str] = Counter()
        for variable in owned(layer):
            if id(variable) in seen:
                continue
            seen.add(id(variable))
            names[variable.name] += 1
            count = f"_{names[variable.name]}" if names[variable.name] > 1 else ""
            result.append(_slot(variable, layer, parents, "/".join([*chain, variable.name + count])))
    return result


def children(layer: keras.layers.Layer) -> list[Any]:
    """The layers directly inside a layer, in the order in which it was given them."""
    inner = list(layer.layers) if isinstance(layer, keras.Model) else []
    # A model may hold layers beside those of its graph; a Sequential one also holds the functional
    # model that it runs as.
    known = {id(child) for child in (*inner, getattr(layer, "_functional", None))}
    held = layer._flatten_layers(include_self=False, recursive=False)
    return inner + [child for child in held if id(child) not in known]


def _walk(
    layer: Any, parents: tuple[Any, ...], chain: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[Any, tuple[Any, ...], tuple[str, ...]]]:
    """Each layer once, with the layers around it and the names that lead to it."""
    if id(layer) in seen:
        return
    seen.add(id(layer))
    yield layer, parents, chain
    counts: Counter[str] = Counter()
    for child in children(layer):
        name, automatic = _stable_name(child)
        if automatic:
            counts[name] += 1
            name = f"{name}_{counts[name]}"
        yield from _walk(child, (*parents, layer), (*chain, name), seen)


def _stable_name(layer: Any) -> tuple[str, bool]:
    """A layer's name, and whether Keras made it: `dense_37` becomes `dense`, to be counted."""
    kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(layer).__name__).lower()
    if layer.name.replace("_", "") == kind.replace("_", ""):
        return str(layer.name), True  # the class itself may end in a number
    base = re.sub(r"_\d+$", "", layer.name)
    core = re.sub(r"^(forward|backward)_", "", base)  # the halves of a Bidirectional
    automatic = core.replace("_", "") == kind.replace("_", "")
    return (base, True) if automatic else (str(layer.name), False)


def unbuilt(model: keras.layers.Layer) -> tuple[str, ...]:
    """The names of layers that a built model holds but has never called, and which have no weights yet."""
    return tuple(
        layer.name
        for layer in model._flatten_layers()
        if not layer.built and type(layer).build is not layers.Layer.build
    )


def _slot(variable: Any, layer: Any, parents: tuple[Any, ...], place: str) -> Slot:
    role = _ROLE_OF.get(variable.name, "other")
    if role == "other" and isinstance(layer, layers.RMSNormalization):
        role = "norm"
    attribute = _INITIALIZERS.get(variable.name, f"{variable.name}_initializer")
    if isinstance(layer, DEPTHWISE) and variable.name == "kernel":
        attribute = "depthwise_initializer"
    drawn = role in ("kernel", "recurrent", "embedding", "bias")
    return Slot(
        variable=variable,
        layer=layer,
        parents=parents,
        place=place,
        role=role,
        blocks=_blocks(layer, role),
        axes=_axes(layer, variable, role),
        fans=layer_fans(layer, variable) if drawn else None,
        attribute=attribute if hasattr(layer, attribute) else None,
        kept=_reason_to_keep(variable, layer, role),
    )


def _blocks(layer: Any, role: str) -> int:
    if role not in ("kernel", "recurrent"):
        return 1
    if isinstance(layer, _GATED):
        return 4
    if isinstance(layer, layers.GRUCell):
        return 3
    return int(layer.groups) if isinstance(layer, CONVOLUTIONS) else 1


def _axes(layer: Any, variable: Any, role: str) -> tuple[list[int], list[int]] | None:
    rank = len(variable.shape)
    spatial = list(range(rank - 2))
    if role != "kernel":
        return None
    if isinstance(layer, layers.EinsumDense):
        return einsum_axes(layer)
    if isinstance(layer, TRANSPOSED):
        return [rank - 1], [*spatial, rank - 2]
    if isinstance(layer, DEPTHWISE) or variable.name == "depthwise_kernel":
        return spatial, [rank - 1]
    return None


def _reason_to_keep(variable: Any, layer: Any, role: str) -> str | None:
    if getattr(layer, "quantization_mode", None):
        return f"quantized to {layer.quantization_mode}"
    if variable.name.startswith("lora_"):
        return "a low-rank adapter"
    if not keras.backend.is_float_dtype(variable.dtype):
        return f"not of real numbers, but {variable.dtype}"
    if isinstance(layer, layers.Normalization):
        return "learned from data by adapt()"
    if isinstance(layer, layers.STFTSpectrogram):
        return "a fixed transform"
    if not layer.trainable or (role != "statistic" and not variable.trainable):
        return "frozen"
    return None
