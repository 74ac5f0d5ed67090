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
STATISTICS = _ROLES["statistic"]
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names}

# Where the attribute that holds the initializer is not the variable's name with _initializer.
_INITIALIZERS = {
    "recurrent_kernel": "recurrent_initializer",
    "depthwise_kernel": "depthwise_initializer",
    "pointwise_kernel": "pointwise_initializer",
    "reverse_embeddings": "embeddings_initializer",
}
_ATTENTION = (layers.MultiHeadAttention, layers.GroupQueryAttention)


ADAPTER = "a low-rank adapter"  # why LoRA's factors are kept, unless a rule names them
# Where an initializer that this package records in a layer keeps what the layer was asked for before.
ASKED = "_winit_asked"


@dataclass(frozen=True, eq=False)
class Slot:
    """One variable of a model.

    Attributes:
        variable: the Keras variable.
        layer: the layer that owns it.
        parents: the layers around that one, from the model inwards.
        place: where it is in the model, with automatic names counted in the model: the same in
            every process, and not changed by layers with names of their own.
        role: kernel, recurrent, embedding, bias, norm, gain, statistic or other.
        blocks: how many independent matrices stand side by side on the last axis: gates, groups.
        axes: input and output axes, where the shape does not tell; else None.
        fans: the exact fans, or None for what has none.
        attribute: the name of the layer's attribute that holds the initializer, or None.
        kept: why it must not be drawn, or None.
        use: what the model computes with it, where its layer is not Keras' own; None where that is not seen.
        fresh: knows the initial values that layers give.
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
    use: Use | None
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
        """The initializer that the layer was given, or else gives it when it is made; None if unknown."""
        if self.attribute:
            given = getattr(self.layer, self.attribute)
            # A layer of the user's own may keep the string that it was given.
            return given if callable(given) else keras.initializers.get(given)
        return self.fresh.initializer(self.variable, self.layer, self.parents)

    @property
    def asked(self) -> Any:
        """What the layer's author asked for: not what this package recorded there when it drew."""
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
        """Whether it is of a layer of the user's own, and nothing is known of what it is for."""
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
        result = [(self.layer, self.attribute)] if self.attribute else []
        # An attention layer keeps one initializer for all its projections: that of the query.
        if self.attribute and self.attention is not None and self.layer.name == "query":
            prefix = "_" if isinstance(self.attention, layers.MultiHeadAttention) else ""
            result.append((self.attention, prefix + self.attribute))
        return result


def slots_of(model: keras.layers.Layer, uses: Uses) -> list[Slot]:
    """Every variable of a built model, once, in the order of its layers.

    Args:
        model: the model.
        uses: what it computes with its variables.
    """
    fresh = FreshValues()
    return [
        _slot(variable, layer, parents, place, part=_part(variable, layer, uses), fresh=fresh)
        for variable, layer, parents, place in owners(model)
    ]


class _Part(NamedTuple):
    """What a variable is for in its layer."""

    role: str
    fans: Fans | None = None
    blocks: int = 1
    axes: tuple[list[int], list[int]] | None = None
    use: Use | None = None


def _slot(
    variable: Any, layer: Any, parents: tuple[Any, ...], place: str, *, part: _Part, fresh: FreshValues
) -> Slot:
    attribute = _INITIALIZERS.get(variable.name, f"{variable.name}_initializer")
    if isinstance(layer, DEPTHWISE) and variable.name == "kernel":
        attribute = "depthwise_initializer"
    return Slot(
        variable=variable,
        layer=layer,
        parents=parents,
        place=place,
        role=part.role,
        blocks=part.blocks,
        axes=part.axes,
        fans=part.fans,
        attribute=attribute if hasattr(layer, attribute) else None,
        kept=_reason_to_keep(variable, layer, part.role),
        use=part.use,
        fresh=fresh,
    )


def _part(variable: Any, layer: Any, uses: Uses) -> _Part:
    """By its name in a layer of Keras; elsewhere by a rule for the layer, or by what is computed with it."""
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
    return _Part(role, fans, _blocks(layer, role), _axes(layer, variable, role))


def _blocks(layer: Any, role: str) -> int:
    if role not in ("kernel", "recurrent"):
        return 1
    return int(layer.groups) if isinstance(layer, CONVOLUTIONS) else max(1, len(gates(layer)))


def _axes(layer: Any, variable: Any, role: str) -> tuple[list[int], list[int]] | None:
    if role != "kernel":
        return None
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
