"""A model's variables in order, each with its layer, place, role and fans.

What Keras' own layers call their variables tells what these are for. What a variable of any other layer
is for follows from what the model computes with it.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
from keras import layers

from keras_winit.models.anatomy import contractions
from keras_winit.models.anatomy.fresh import FreshValues
from keras_winit.models.anatomy.layer_fans import (
    einsum_axes,
    fans_by_rule,
    fans_of_shape,
    has_rule,
    is_known,
)
from keras_winit.models.anatomy.uses import Use, Uses
from keras_winit.models.tracing.kinds import CONVOLUTIONS, DEPTHWISE, TRANSPOSED
from keras_winit.models.tracing.opening import is_keras_call
from keras_winit.models.tracing.structure import owners
from keras_winit.support.checks import Shape
from keras_winit.theory.fans import Fans, gates

# What a variable is for, by its name; else "other".
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
STATISTICS = _ROLES["statistic"]
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names}

# Where the attribute that holds the initializer is not the variable's name with _initializer.
_INITIALIZERS = {
    **{f"{each}_kernel": f"{each}_initializer" for each in ("recurrent", "depthwise", "pointwise")},
    "reverse_embeddings": "embeddings_initializer",
}
_ATTENTION = (layers.MultiHeadAttention, layers.GroupQueryAttention)


ADAPTER = "a low-rank adapter"  # why LoRA's factors are kept, unless a rule names them
# Where an initializer that this package records in a layer keeps what the layer was asked for before.
ASKED = "_winit_asked"


@dataclass(frozen=True, eq=False)
class Slot:
    """One variable of a model, and all that is known of it.

    `place` is where it is in the model, automatic names counted within the model: the same in every process,
    and not changed by layers with names of their own.
    """

    variable: Any
    layer: Any
    parents: tuple[Any, ...]  # the layers around its own, from the model inwards
    place: str
    role: str  # kernel, recurrent, embedding, bias, norm, gain, statistic or other
    blocks: int  # how many independent matrices stand side by side on the last axis: gates, groups
    axes: tuple[list[int], list[int]] | None  # of inputs and outputs, where the shape does not tell
    fans: Fans | None  # None for what has none
    attribute: str | None  # the name of the layer's attribute that holds the initializer
    kept: str | None  # why it must not be drawn
    use: Use | None  # where its layer is not Keras' own, and that is seen
    fresh: FreshValues

    @property
    def path(self) -> str:
        """The path that Keras gives the variable."""
        return str(self.variable.path)

    @functools.cached_property
    def shape(self) -> Shape:
        """The variable's shape."""
        return tuple(int(size) for size in self.variable.shape)

    @property
    def configured(self) -> Any:
        """The initializer that the layer was given, or else gives it when made; None if unknown."""
        if not self.attribute:
            return self.fresh.initializer(self.variable, self.layer, self.parents)
        given = getattr(self.layer, self.attribute)
        # A layer of the user's own may keep the string that it was given.
        return given if callable(given) else keras.initializers.get(given)

    @property
    def asked(self) -> Any:
        """What the layer's author asked for, not what this package recorded when it drew."""
        configured = self.configured
        return getattr(configured, ASKED, configured)

    @property
    def transposed(self) -> bool:
        """Whether the kernel is (spatial…, outputs, inputs)."""
        kind = self.use.step.kind if self.use else ""
        return kind == "ConvTranspose" or (self.role == "kernel" and isinstance(self.layer, TRANSPOSED))

    @property
    def axes_by_keras(self) -> tuple[list[int], list[int]] | None:
        """The axes that Keras gives this layer's own initializer, or None."""
        if self.role == "kernel" and isinstance(self.layer, layers.EinsumDense):
            return einsum_axes(self.layer, by_keras=True)
        return None

    @property
    def depthwise(self) -> bool:
        """Whether each input channel has a kernel of its own."""
        if self.use is not None:
            return self.axes is not None and self.axes == contractions.depthwise_axes(len(self.shape))
        return self.variable.name == "depthwise_kernel" or isinstance(self.layer, DEPTHWISE)

    @property
    def scale(self) -> float:
        """The constant that the model multiplies it by before it meets the signal."""
        return self.use.scale if self.use is not None else 1.0

    @property
    def unseen(self) -> bool:
        """Whether it is of a layer of the user's own, and not known what for."""
        return self.role == "other" and self.use is None and not is_keras_call(self.layer)

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
        if not self.attribute:
            return []
        result = [(self.layer, self.attribute)]
        # An attention layer keeps one initializer for all its projections: that of the query.
        if self.attention is not None and self.layer.name == "query":
            prefix = "_" if isinstance(self.attention, layers.MultiHeadAttention) else ""
            result.append((self.attention, prefix + self.attribute))
        return result


def slots_of(model: keras.layers.Layer, uses: Uses) -> list[Slot]:
    """Every variable of a built model, once, in the order of its layers."""
    fresh, slots = FreshValues(), []
    for variable, layer, parents, place in owners(model):
        part = _part(variable, layer, uses)
        attribute = _INITIALIZERS.get(variable.name, f"{variable.name}_initializer")
        if isinstance(layer, DEPTHWISE) and variable.name == "kernel":
            attribute = "depthwise_initializer"
        held = attribute if hasattr(layer, attribute) else None
        kept = _reason_to_keep(variable, layer, part.role)
        named = {"attribute": held, "kept": kept, "fresh": fresh, **part._asdict()}
        slots.append(Slot(variable, layer, parents, place, **named))
    return slots


class _Part(NamedTuple):
    """What a variable is for."""

    role: str
    fans: Fans | None = None
    blocks: int = 1
    axes: tuple[list[int], list[int]] | None = None
    use: Use | None = None


def _part(variable: Any, layer: Any, uses: Uses) -> _Part:
    """By its name in a layer of Keras; elsewhere by a rule, or by what is computed with it."""
    if is_keras_call(layer):
        return _by_name(variable, layer)
    if has_rule(layer):
        fans = fans_by_rule(layer, variable)
        if fans is not None:
            return _Part(_ROLE_OF.get(variable.name, "kernel"), fans)
    if any(variable is each for each in layer._non_trainable_variables):
        return _Part("statistic")
    use = uses.main(variable)
    if use is not None:
        return _Part(use.role, use.fans, use.gates, use.axes, use)
    return _by_name(variable, layer) if is_known(layer) else _Part("other")


def _by_name(variable: Any, layer: Any) -> _Part:
    role = _ROLE_OF.get(variable.name, "other")
    if role == "other" and isinstance(layer, layers.RMSNormalization):
        role = "norm"
    drawn = role in ("kernel", "recurrent", "embedding", "bias")
    fans = (fans_by_rule(layer, variable) or fans_of_shape(variable, layer)) if drawn else None
    blocks = 1
    if role in ("kernel", "recurrent"):
        blocks = int(layer.groups) if isinstance(layer, CONVOLUTIONS) else max(1, len(gates(layer)))
    return _Part(role, fans, blocks, _axes(layer, variable) if role == "kernel" else None)


def _axes(layer: Any, variable: Any) -> tuple[list[int], list[int]] | None:
    if isinstance(layer, layers.EinsumDense):
        return einsum_axes(layer)
    rank = len(variable.shape)
    if isinstance(layer, TRANSPOSED):
        return contractions.transposed_axes(rank)
    if isinstance(layer, DEPTHWISE) or variable.name == "depthwise_kernel":
        return contractions.depthwise_axes(rank)
    return None


def _reason_to_keep(variable: Any, layer: Any, role: str) -> str | None:
    if getattr(layer, "quantization_mode", None):
        return f"quantized to {layer.quantization_mode}"
    if variable.name.startswith("lora_"):
        return ADAPTER
    if not keras.backend.is_float_dtype(variable.dtype):
        return f"not of real numbers, but {variable.dtype}"
    if isinstance(layer, layers.Normalization):
        return "learned from data by adapt()"
    if isinstance(layer, layers.STFTSpectrogram):
        return "a fixed transform"
    if not layer.trainable or (role != "statistic" and not variable.trainable):
        return "frozen"
    return None
