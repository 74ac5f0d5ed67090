"""The initializer of one variable: what its author asked for, how one is fitted to it, and one for a layer.

Keras' defaults and ordinary random draws ask for nothing on purpose; zeros for a kernel, ones, constants,
arrays, functions, draws near zero, random biases and schemes with a purpose do, and so does any draw before a
function of the author's own that no one gain suits.
"""

import math
import re
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_winit.choose import for_activation
from keras_winit.drawing.sampling import TRUNCATED_STD
from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.layer_fans import depthwise_fans
from keras_winit.models.anatomy.slots import ASKED, Slot
from keras_winit.models.running.undo import exact_value
from keras_winit.schemes import Scheme
from keras_winit.schemes.base import arguments_of, remade
from keras_winit.schemes.basic import Constant, Ones, RandomNormal, RandomUniform, TruncatedNormal, Zeros
from keras_winit.schemes.compose import PerGate, Scaled, Summed, Wrapper
from keras_winit.schemes.orthogonal import DeltaOrthogonal, Orthogonal
from keras_winit.schemes.structured import Dirac, Identity
from keras_winit.schemes.variance import Siren, VarianceScaling
from keras_winit.schemes.variance_scheme import VarianceScheme
from keras_winit.support.exact import moments
from keras_winit.support.host import building
from keras_winit.theory.activations import Activation, builtin_names
from keras_winit.theory.fans import Fans
from keras_winit.theory.gains import balanced

_KERAS = keras.initializers
_HALF = ("bfloat16", "float16")


def fit(initializer: Any, slot: Slot, seed: int, *, own: bool = False, asked: bool = False) -> Any:
    """A copy of an initializer with a variable's seed, exact fans and axes.

    The layer's `own` is to draw as the layer would; one `asked` for on purpose had what the model multiplies
    by in view.
    """
    if own:
        if keras.backend.standardize_dtype(slot.variable.dtype) in _HALF:
            initializer = _of_float32(initializer)
        return _with(initializer, seed, None, slot.axes_by_keras)
    initializer = _ours(initializer)
    if isinstance(initializer, DeltaOrthogonal) and slot.transposed:
        raise ValueError(
            f"delta_orthogonal cannot draw {slot.path!r}: the kernel of a transposed convolution has its "
            "outputs before its inputs. Give a mapping that names another scheme for it."
        )
    if isinstance(initializer, (Identity, Dirac)):
        if slot.depthwise:
            return Dirac("depthwise", gain=initializer.gain)
        fitted = _with(initializer, seed, None, slot.axes_by_keras and slot.axes)
    else:
        fitted = _with(initializer, seed, slot.fans, slot.axes)
    if slot.blocks > 1 and isinstance(fitted, Scheme) and fitted.blockwise:
        fitted = PerGate(fitted, gates=slot.blocks, seed=seed)
    if not asked and slot.scale not in (0.0, 1.0) and slot.role in ("kernel", "recurrent", "embedding"):
        return Scaled(fitted, factor=1 / abs(slot.scale), seed=seed)  # what the model multiplies by is undone
    return fitted


def _of_float32(initializer: Any) -> Any:
    """This package's scheme for one of Keras', which draws few different numbers in half precision."""
    if type(initializer) is _KERAS.RandomNormal:
        return RandomNormal(initializer.mean, initializer.stddev)
    if type(initializer) is _KERAS.RandomUniform:
        return RandomUniform(initializer.minval, initializer.maxval)
    if type(initializer) is _KERAS.TruncatedNormal:
        return TruncatedNormal(initializer.mean, initializer.stddev * TRUNCATED_STD)
    return _ours(initializer) if isinstance(initializer, _KERAS.VarianceScaling) else initializer


def _ours(initializer: Any) -> Any:
    """This package's scheme for one of Keras' that cannot be told its fans, axes or gates."""
    if isinstance(initializer, Scheme) or not type(initializer).__module__.startswith("keras."):
        return initializer
    if isinstance(initializer, _KERAS.VarianceScaling):
        config = initializer.get_config()
        axes = {key: config.get(key) for key in ("input_axes", "output_axes")}  # which an older Keras has not
        return VarianceScaling(initializer.scale, initializer.mode, initializer.distribution, **axes)
    if isinstance(initializer, _KERAS.Orthogonal):
        return Orthogonal(initializer.gain)
    return Identity(initializer.gain) if isinstance(initializer, _KERAS.Identity) else initializer


def _with(initializer: Any, seed: int | None, fans: Any, axes: Any) -> Any:
    if not isinstance(initializer, _KERAS.Initializer):
        return initializer  # a function of shape and dtype
    arguments = arguments_of(initializer)
    changed: dict[str, Any] = {}
    if "seed" in arguments and seed is not None:
        changed["seed"] = seed
    if isinstance(initializer, Wrapper):
        changed["initializer"] = _with(_ours(initializer.initializer), None, fans, axes)
    elif "fans" in arguments and fans is not None:
        changed["fans"] = arguments["fans"] or list(fans)
    elif axes is not None and arguments.get("input_axes", ()) is None:
        changed["input_axes"], changed["output_axes"] = axes
    return _changed(initializer, changed)


def _changed(initializer: Any, arguments: dict[str, Any]) -> Any:
    try:
        return remade(initializer, **arguments)
    except TypeError:  # one of the user's own that has no configuration is used as it is
        return initializer


def without_place(initializer: Any) -> Any:
    """A copy without fans, axes or seed, for all projections of attention."""
    if not isinstance(initializer, _KERAS.Initializer):
        return initializer
    places = arguments_of(initializer).keys() & {"seed", "fans", "input_axes", "output_axes"}
    changed = dict.fromkeys(places)
    if isinstance(initializer, Wrapper):
        changed["initializer"] = without_place(initializer.initializer)
    return _changed(initializer, changed)


def expected_std(slot: Slot) -> float | None:
    """As `std_of`, for the initializer that the layer holds."""
    return std_of(slot.configured, slot)


def std_of(initializer: Any, slot: Slot) -> float | None:
    """The deviation that an initializer gives a variable, by theory; None where none is known."""
    if isinstance(initializer, _KERAS.RandomUniform):
        return float(initializer.maxval - initializer.minval) / math.sqrt(12)
    if isinstance(initializer, _KERAS.TruncatedNormal):
        return float(initializer.stddev) * TRUNCATED_STD
    if isinstance(initializer, _KERAS.RandomNormal):
        return float(initializer.stddev)
    if initializer is None or isinstance(initializer, type):
        return None
    scheme = _with(_ours(initializer), None, None, slot.axes_by_keras)
    with building(slot.layer):
        return scheme.expected_std(slot.shape) if isinstance(scheme, Scheme) else None


_CONSTANT = (Zeros, Ones, Constant, _KERAS.Zeros, _KERAS.Ones, _KERAS.Constant)
_RANDOM = (RandomUniform, RandomNormal, TruncatedNormal, VarianceScheme)
_KERAS_RANDOM = (_KERAS.RandomUniform, _KERAS.RandomNormal, _KERAS.TruncatedNormal, _KERAS.VarianceScaling)
# A kernel so small, which puts out less than this share of the power that it reads, is meant to start near
# zero: U(±0.003) at the end of an actor, N(0, 0.001²) of a head. N(0, 0.02²) is not.
_NEAR_ZERO_STD, _NEAR_ZERO = 0.01, 0.01
_SAME = 0.2  # of a size: a weight that was trained has another


def asked_for(slot: Slot, before: Activation | None = None) -> str | None:
    """What a layer asks for on purpose, in words; None for a default or an ordinary draw.

    `before` is the activation that follows the variable, where one is seen.
    """
    initializer = slot.asked
    while isinstance(initializer, (PerGate, Summed)):
        initializer = initializer.initializer
    if initializer is None or slot.role not in ("kernel", "recurrent", "embedding", "bias"):
        return None
    name = initializer.name if isinstance(initializer, Scheme) else _name(initializer)
    said = f"the layer asks for {name}"
    if isinstance(initializer, _CONSTANT):
        value = getattr(initializer, "value", isinstance(initializer, (Ones, _KERAS.Ones)))
        zeros = slot.role == "bias" and not np.any(value)  # Keras' default
        return None if zeros else said
    if isinstance(initializer, (Orthogonal, _KERAS.Orthogonal)):
        return None if initializer.gain == 1 else f"{said} times {initializer.gain:g}"
    if not _is_ordinary(initializer):
        return said
    if _is_near_zero(initializer, slot):
        return f"{said} near zero"
    if isinstance(initializer, _KERAS.GlorotUniform):  # the default of layers, and of `add_weight`
        return None
    if slot.role == "bias":  # one of this package's is what "torch" has drawn, in a model that was saved
        return None if isinstance(initializer, Scheme) else f"the layer asks for a bias of {name}"
    if slot.role == "kernel" and before is not None and _wants_two_gains(before):
        return f"{said} before {before.name}, which no one gain suits"
    return None


def is_as_asked(slot: Slot) -> bool:
    """Whether a weight still has the size that its layer asks for."""
    std = std_of(slot.asked, slot) or 0.0
    return std != 0 and math.isclose(moments(exact_value(slot.variable)).std, std, rel_tol=_SAME)


def remember(record: Any, asked: Any) -> None:
    """Keep in what is recorded what the layer was asked for."""
    if isinstance(record, _KERAS.Initializer):
        setattr(record, ASKED, asked)


def _name(initializer: Any) -> str:
    name: str = getattr(initializer, "__name__", type(initializer).__name__)
    if isinstance(initializer, _KERAS.Initializer):
        return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    return "a function" if name == "<lambda>" else name


def _is_ordinary(initializer: Any) -> bool:
    """Whether an initializer draws random numbers without a purpose."""
    if isinstance(initializer, Scheme):
        return isinstance(initializer, _RANDOM) and not isinstance(initializer, Siren)
    return isinstance(initializer, _KERAS_RANDOM) and type(initializer).__module__.startswith("keras.")


def _wants_two_gains(activation: Activation) -> bool:
    """Whether a user's function wants one gain forwards and another backwards."""
    try:
        return activation.name not in builtin_names() and balanced(activation).apart
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
    scheme: Scheme = for_activation(activation, distribution=distribution, method=method, seed=seed)
    fans = _fans(layer, inner)
    if fans is not None:
        scheme = remade(scheme, fans=list(fans))
    return scheme


def _fans(layer: Any, inner: Any) -> Fans | None:
    if isinstance(inner, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)):
        return depthwise_fans(inner, (*inner.kernel_size, 1, inner.depth_multiplier))
    if not layer.built:
        return None
    kernels = [slot.fans for slot in Anatomy(layer).slots if slot.role in ("kernel", "embedding")]
    return kernels[0] if len(set(kernels)) == 1 else None
