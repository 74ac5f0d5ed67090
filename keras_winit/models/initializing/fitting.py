"""An initializer fitted to one variable of a model: its seed, its exact fans, its axes, its gates."""

import math
from typing import Any

import keras

from keras_winit.drawing.sampling import TRUNCATED_STD
from keras_winit.models.anatomy.slots import Slot
from keras_winit.schemes import Scheme
from keras_winit.schemes.base import arguments_of, remade
from keras_winit.schemes.basic import RandomNormal, RandomUniform, TruncatedNormal
from keras_winit.schemes.compose import PerGate, Scaled, Wrapper
from keras_winit.schemes.orthogonal import DeltaOrthogonal, Orthogonal
from keras_winit.schemes.structured import Dirac, Identity
from keras_winit.schemes.variance import VarianceScaling
from keras_winit.support.building import building

_HALF = ("bfloat16", "float16")


def fit(initializer: Any, slot: Slot, seed: int, *, own: bool = False, asked: bool = False) -> Any:
    """A copy of an initializer with the slot's seed, exact fans and axes.

    Args:
        initializer: a scheme, an initializer of Keras, or a function of shape and dtype.
        slot: the variable that it is for.
        seed: the seed of that variable.
        own: whether it is the layer's own initializer, which is to draw as the layer would.
        asked: whether the layer's author asked for it on purpose, what the model multiplies by in view.
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
    """This package's scheme for one of Keras' own, which draws few different numbers in half precision."""
    own = keras.initializers
    if type(initializer) is own.RandomNormal:
        return RandomNormal(initializer.mean, initializer.stddev)
    if type(initializer) is own.RandomUniform:
        return RandomUniform(initializer.minval, initializer.maxval)
    if type(initializer) is own.TruncatedNormal:
        return TruncatedNormal(initializer.mean, initializer.stddev * TRUNCATED_STD)
    return _ours(initializer) if isinstance(initializer, own.VarianceScaling) else initializer


def _ours(initializer: Any) -> Any:
    """This package's scheme for one of Keras' own that cannot be told its fans, axes or gates."""
    own = keras.initializers
    if isinstance(initializer, Scheme) or not type(initializer).__module__.startswith("keras."):
        return initializer
    if isinstance(initializer, own.VarianceScaling):
        config = initializer.get_config()
        axes = {key: config.get(key) for key in ("input_axes", "output_axes")}  # which an older Keras has not
        return VarianceScaling(initializer.scale, initializer.mode, initializer.distribution, **axes)
    if isinstance(initializer, own.Orthogonal):
        return Orthogonal(initializer.gain)
    return Identity(initializer.gain) if isinstance(initializer, own.Identity) else initializer


def _with(initializer: Any, seed: int | None, fans: Any, axes: Any) -> Any:
    if not isinstance(initializer, keras.initializers.Initializer):
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
    try:
        return remade(initializer, **changed)
    except TypeError:  # one of the user's own that has no configuration is used as it is
        return initializer


def without_place(initializer: Any) -> Any:
    """An initializer for all projections of an attention layer: no one's fans, axes or seed."""
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    places = arguments_of(initializer).keys() & {"seed", "fans", "input_axes", "output_axes"}
    changed = dict.fromkeys(places)
    if isinstance(initializer, Wrapper):
        changed["initializer"] = without_place(initializer.initializer)
    try:
        return remade(initializer, **changed)
    except TypeError:
        return initializer


def expected_std(slot: Slot) -> float | None:
    """The deviation that a variable's own initializer gives it, by theory; None where none is known."""
    return std_of(slot.configured, slot)


def std_of(initializer: Any, slot: Slot) -> float | None:
    """The deviation that an initializer gives a slot's variable, by theory; None where none is known."""
    own = keras.initializers
    if isinstance(initializer, own.RandomUniform):
        return float(initializer.maxval - initializer.minval) / math.sqrt(12)
    if isinstance(initializer, own.TruncatedNormal):
        return float(initializer.stddev) * TRUNCATED_STD
    if isinstance(initializer, own.RandomNormal):
        return float(initializer.stddev)
    if initializer is None or isinstance(initializer, type):
        return None
    scheme = _with(_ours(initializer), None, None, slot.axes_by_keras)
    with building(slot.layer):
        return scheme.expected_std(slot.shape) if isinstance(scheme, Scheme) else None
