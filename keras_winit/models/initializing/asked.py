"""What a layer's author asked for on purpose: it is drawn as asked, and not chosen anew.

Keras' defaults, and ordinary random draws, say nothing; zeros for a kernel, ones, constants, arrays,
functions, draws near zero, random biases, and schemes with a purpose do; so does any draw before a function
of the author's own that no one gain suits.
"""

import math
import re
from typing import Any

import keras
import numpy as np

from keras_winit.models.anatomy.slots import ASKED, Slot
from keras_winit.models.initializing.fitting import std_of
from keras_winit.models.running.moments import moments
from keras_winit.models.running.undo import exact_value
from keras_winit.schemes import Scheme
from keras_winit.schemes.basic import Constant, Ones, RandomNormal, RandomUniform, TruncatedNormal, Zeros
from keras_winit.schemes.compose import PerGate, Summed
from keras_winit.schemes.orthogonal import Orthogonal
from keras_winit.schemes.siren import Siren
from keras_winit.schemes.variance import VarianceScaling
from keras_winit.schemes.variance_scheme import VarianceScheme
from keras_winit.theory.activations import Activation, builtin_names
from keras_winit.theory.balance import balanced

_KERAS = keras.initializers
_CONSTANT = (Zeros, Ones, Constant, _KERAS.Zeros, _KERAS.Ones, _KERAS.Constant)
_RANDOM = (RandomUniform, RandomNormal, TruncatedNormal, VarianceScheme)
_KERAS_RANDOM = (
    *(_KERAS.RandomUniform, _KERAS.RandomNormal, _KERAS.TruncatedNormal, _KERAS.VarianceScaling),
)
_ORTHOGONAL = (Orthogonal, _KERAS.Orthogonal)
# A kernel that is as small as this, and puts out less than this share of the power that it reads, is meant
# to start near zero: U(±0.003) at the end of an actor, N(0, 0.001²) of a head. N(0, 0.02²) is not.
_NEAR_ZERO_STD, _NEAR_ZERO = 0.01, 0.01
_SAME = 0.2  # of a size: a weight that was trained has another


def asked_for(slot: Slot, before: Activation | None = None) -> str | None:
    """What a slot's layer asks for on purpose, in words; None for a default or an ordinary draw.

    Args:
        slot: the variable.
        before: the activation that follows it, where one is seen.
    """
    initializer = slot.asked
    while isinstance(initializer, (PerGate, Summed)):
        initializer = initializer.initializer
    if initializer is None or slot.role not in ("kernel", "recurrent", "embedding", "bias"):
        return None
    name = initializer.name if isinstance(initializer, Scheme) else _name(initializer)
    if isinstance(initializer, _CONSTANT):
        return None if _is_default(slot, initializer) else f"the layer asks for {name}"
    if isinstance(initializer, _ORTHOGONAL):
        return None if initializer.gain == 1 else f"the layer asks for {name} times {initializer.gain:g}"
    if not _is_ordinary(initializer):
        return f"the layer asks for {name}"
    if _is_near_zero(initializer, slot):
        return f"the layer asks for {name} near zero"
    if isinstance(initializer, _KERAS.GlorotUniform):  # the default of layers, and of `add_weight`
        return None
    if slot.role == "bias":  # one of this package's is what "torch" has drawn, in a model that was saved
        return None if isinstance(initializer, Scheme) else f"the layer asks for a bias of {name}"
    if slot.role == "kernel" and before is not None and _wants_two_gains(before):
        return f"the layer asks for {name} before {before.name}, which no one gain suits"
    return None


def is_as_asked(slot: Slot) -> bool:
    """Whether a weight that is not drawn still has the size that its layer asks for."""
    std = std_of(slot.asked, slot)
    now = moments(exact_value(slot.variable)).std
    return bool(std) and math.isclose(now, std or 0.0, rel_tol=_SAME)


def remember(record: Any, asked: Any) -> None:
    """Let what is recorded in a layer know what the layer was asked for."""
    if isinstance(record, keras.initializers.Initializer):
        setattr(record, ASKED, asked)


def _name(initializer: Any) -> str:
    name: str = getattr(initializer, "__name__", type(initializer).__name__)
    if isinstance(initializer, _KERAS.Initializer):
        return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    return "a function" if name == "<lambda>" else name


def _is_default(slot: Slot, initializer: Any) -> bool:
    """Zeros are what every bias of Keras is, unless it is told otherwise."""
    ones = isinstance(initializer, (Ones, _KERAS.Ones))
    value = getattr(initializer, "value", 1.0 if ones else 0.0)
    return slot.role == "bias" and not np.any(value)


def _is_ordinary(initializer: Any) -> bool:
    """Whether an initializer draws ordinary random numbers, without a purpose of its own."""
    if isinstance(initializer, Scheme):
        return isinstance(initializer, _RANDOM) and not isinstance(initializer, Siren)
    return isinstance(initializer, _KERAS_RANDOM) and type(initializer).__module__.startswith("keras.")


def _wants_two_gains(activation: Activation) -> bool:
    """Whether it is a function of the author's own that wants one gain forwards and another backwards."""
    if activation.name in builtin_names():
        return False
    try:
        return balanced(activation).apart
    except (TypeError, ValueError):  # it has no gain
        return False


def _is_near_zero(initializer: Any, slot: Slot) -> bool:
    if slot.role not in ("kernel", "recurrent") or slot.fans is None:
        return False
    if isinstance(initializer, (VarianceScaling, _KERAS.VarianceScaling)):
        scale = getattr(initializer, "scale", 1.0)  # the size by Keras' fans may be small on no purpose
        return bool(scale < _NEAR_ZERO)
    std = std_of(initializer, slot) or 0.0
    return std < _NEAR_ZERO_STD and (std * slot.scale) ** 2 * slot.fans.fan_in < _NEAR_ZERO
