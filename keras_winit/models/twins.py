"""For each scheme, the initializer of Keras that draws the same distribution, or the nearest one."""

import inspect
import math
from typing import Any

import keras
import numpy as np
from keras import initializers, ops

from keras_winit.drawing.sampling import TRUNCATED_STD
from keras_winit.schemes import Scheme
from keras_winit.schemes.base import arguments_of
from keras_winit.schemes.basic import Constant, Ones, RandomNormal, RandomUniform, TruncatedNormal, Zeros
from keras_winit.schemes.bias import PriorBias
from keras_winit.schemes.compose import PerGate, Scaled, Summed, Wrapper
from keras_winit.schemes.looks_linear import LooksLinearBias
from keras_winit.schemes.orthogonal import DeltaOrthogonal, Orthogonal
from keras_winit.schemes.structured import Sparse
from keras_winit.schemes.variance_scheme import VarianceScheme

# Before 3.15, Keras counts fans by the places of axes alone.
_TAKES_AXES = "input_axes" in inspect.signature(initializers.VarianceScaling).parameters


def twin(scheme: Scheme) -> Any:
    """The built-in of Keras that draws the same distribution, or the nearest one.

    Near, and not the same, are those whose weights depend on each other, and biases that differ from
    output to output or are for twins: orthogonal for identities and delta kernels, zeros for such biases.
    Before Keras 3.15, whose schemes take no axes, so are those with axes of their own.
    """
    seed = arguments_of(scheme).get("seed")
    if isinstance(seed, dict):  # of a scheme of the user's own
        seed = keras.saving.deserialize_keras_object(seed)
    if isinstance(scheme, Ones):
        return initializers.Ones()
    if isinstance(scheme, (Zeros, LooksLinearBias)):  # which is for kernels that Keras has not
        return initializers.Zeros()
    if isinstance(scheme, (Constant, PriorBias)):
        values = np.unique(ops.convert_to_numpy(scheme((1,)))) if _is_one_number(scheme) else [0.0]
        return initializers.Constant(float(values[0]))
    if isinstance(scheme, RandomUniform):
        return initializers.RandomUniform(scheme.minval, scheme.maxval, seed)
    if isinstance(scheme, TruncatedNormal) and scheme.cut == 2:
        return initializers.TruncatedNormal(scheme.mean, scheme.stddev / TRUNCATED_STD, seed)
    if isinstance(scheme, RandomNormal):
        return initializers.RandomNormal(scheme.mean, scheme.stddev, seed)
    if isinstance(scheme, VarianceScheme):
        return _variance_twin(scheme, seed)
    if isinstance(scheme, (Orthogonal, DeltaOrthogonal)):
        return initializers.Orthogonal(scheme.gain, seed)
    if isinstance(scheme, Sparse):
        return initializers.RandomNormal(0.0, scheme.stddev, seed)
    if isinstance(scheme, Wrapper):
        return _wrapper_twin(scheme)
    if scheme.ranks[1] == 2:  # a bias that differs from unit to unit
        return initializers.Zeros()
    return initializers.Orthogonal()


def _is_one_number(scheme: Any) -> bool:
    if isinstance(scheme, Constant):
        return isinstance(scheme.value, float)
    return scheme.counts is None and isinstance(scheme.prior, float)


def _variance_twin(scheme: VarianceScheme, seed: Any) -> Any:
    if scheme.fans is not None:  # Keras takes no fans, but a deviation says the same
        std = scheme.expected_std((1,))
        if scheme.distribution == "uniform":
            return initializers.RandomUniform(-math.sqrt(3) * std, math.sqrt(3) * std, seed)
        if scheme.distribution == "normal":
            return initializers.RandomNormal(0.0, std, seed)
        return initializers.TruncatedNormal(0.0, std / TRUNCATED_STD, seed)
    named = _named_twin(scheme)
    if named is not None:
        return named(seed=seed, **_axes(scheme))
    return initializers.VarianceScaling(
        scheme.scale,
        "fan_avg" if scheme.mode == "fan_geo_avg" else scheme.mode,
        {"normal": "untruncated_normal"}.get(scheme.distribution, scheme.distribution),
        seed,
        **_axes(scheme),
    )


def _axes(scheme: VarianceScheme) -> dict[str, Any]:
    taken = {"input_axes": scheme.input_axes, "output_axes": scheme.output_axes}
    return taken if _TAKES_AXES else {}


def _named_twin(scheme: VarianceScheme) -> Any:
    """Keras' class of the same name, where it draws the same."""
    same = {
        "glorot_uniform": initializers.GlorotUniform,
        "he_uniform": initializers.HeUniform,
        "lecun_uniform": initializers.LecunUniform,
    }
    default, given = arguments_of(type(scheme)()), arguments_of(scheme)
    own = ("negative_slope", "mode")
    return same.get(scheme.name) if all(given.get(key) == default.get(key) for key in own) else None


def _wrapper_twin(scheme: Wrapper) -> Any:
    inner = scheme.inner()
    result = twin(inner) if isinstance(inner, Scheme) else inner
    # Numbers that are all the same add up with their signs, random ones in their variance.
    constant = isinstance(result, (initializers.Ones, initializers.Constant))
    factor = 1.0
    if isinstance(scheme, Scaled):
        factor = scheme.factor if constant else abs(scheme.factor)
    elif isinstance(scheme, PerGate) and scheme.factors:
        factor = math.sqrt(sum(each**2 for each in scheme.factors) / scheme.gates)
    elif isinstance(scheme, Summed):
        factor = scheme.terms if constant else math.sqrt(scheme.terms)
    if factor == 0:
        return initializers.Zeros()
    return result if factor == 1 else _times(result, factor)


def _times(initializer: Any, factor: float) -> Any:
    """One of Keras' own initializers with its deviation multiplied."""
    if isinstance(initializer, initializers.Ones):
        return initializers.Constant(factor)
    config = dict(initializer.get_config())
    if isinstance(initializer, initializers.VarianceScaling):
        return initializers.VarianceScaling(
            initializer.scale * factor**2,
            initializer.mode,
            initializer.distribution,
            **{key: config[key] for key in ("seed", "input_axes", "output_axes") if key in config},
        )
    for key in ("gain", "stddev", "mean", "minval", "maxval", "value"):
        if key in config:
            config[key] *= factor
    return type(initializer).from_config(config)
