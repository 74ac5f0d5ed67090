"""A copy of a model that loads where this package is not installed."""

import json
import math
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import initializers, ops

from keras_winit.sampling import TRUNCATED_STD
from keras_winit.schemes import Scheme
from keras_winit.schemes.base import PACKAGE
from keras_winit.schemes.basic import Constant, Ones, RandomNormal, RandomUniform, TruncatedNormal, Zeros
from keras_winit.schemes.bias import PriorBias
from keras_winit.schemes.compose import Scaled, Summed, Wrapper
from keras_winit.schemes.orthogonal import DeltaOrthogonal, Orthogonal
from keras_winit.schemes.structured import Sparse
from keras_winit.schemes.variance import VarianceScheme


def portable(model: keras.Model) -> keras.Model:
    """A copy of the model, with Keras' own initializers, that loads without this package.

    Each scheme in the configuration becomes the built-in that draws the same numbers' distribution,
    or the nearest where there is none; weights, compile state and optimizer state are the same, and
    so are the outputs. What a file records of its initializers is all that changes.

    Args:
        model: a built model that Keras can save and load: functional, sequential, or subclassed with
            a `get_config` (its own classes are then still needed to load it).

    Returns:
        A new `keras.Model`; save it with `model.save("model.keras")`.

    Raises:
        TypeError, ValueError: for what is no model, an unbuilt one, or one without a configuration.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(3, kernel_initializer="winit>he_uniform")]
    ... )
    >>> type(portable(model).layers[0].kernel_initializer).__module__.split(".")[0]
    'keras'
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a Keras model. Received: {model!r} of type {type(model).__name__}.")
    if not model.built:
        raise ValueError(f"The model {model.name!r} is not built. Call it on data, or `build`, first.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        own_classes = {
            type(layer).__name__: type(layer)
            for layer in model._flatten_layers()
            if not type(layer).__module__.startswith("keras.")
        }
        try:
            model.save(path)
            _rewrite(path)
            copy = keras.models.load_model(path, custom_objects=own_classes, safe_mode=False)
        except (TypeError, ValueError, NotImplementedError, KeyError, AttributeError) as error:
            raise ValueError(
                f"The model {model.name!r} cannot be made portable: Keras cannot rebuild it from a "
                f"configuration. Give its classes a `get_config`. Keras said: {error}"
            ) from error
    _check_same(model, copy)
    return copy


def _rewrite(path: Path) -> None:
    """Replace the schemes in the configuration inside a `.keras` file."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = _replace(json.loads(members["config.json"]))
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _replace(config: Any) -> Any:
    if isinstance(config, list):
        return [_replace(item) for item in config]
    if not isinstance(config, dict):
        return config
    name = config.get("registered_name") or config.get("class_name")
    if isinstance(name, str) and name.startswith(f"{PACKAGE}>") and "config" in config:
        scheme = keras.saving.deserialize_keras_object(config)
        return keras.saving.serialize_keras_object(twin(scheme))
    return {key: _replace(value) for key, value in config.items()}


def twin(scheme: Scheme) -> Any:
    """The built-in of Keras that draws the same distribution, or the nearest one.

    Near, and not the same, are those whose weights depend on each other, and biases that differ from
    output to output: orthogonal for identities and delta kernels, zeros for such biases.
    """
    seed = scheme.get_config().get("seed")
    if isinstance(seed, dict):
        seed = keras.saving.deserialize_keras_object(seed)
    if isinstance(scheme, Ones):
        return initializers.Ones()
    if isinstance(scheme, Zeros):
        return initializers.Zeros()
    if isinstance(scheme, (Constant, PriorBias)):
        values = np.unique(ops.convert_to_numpy(scheme((1,)))) if _is_one_number(scheme) else [0.0]
        return initializers.Constant(float(values[0]))
    if isinstance(scheme, RandomUniform):
        return initializers.RandomUniform(scheme.minval, scheme.maxval, seed)
    if isinstance(scheme, TruncatedNormal):
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
        return named(seed=seed, input_axes=scheme.input_axes, output_axes=scheme.output_axes)
    return initializers.VarianceScaling(
        scheme.scale,
        "fan_avg" if scheme.mode == "fan_geo_avg" else scheme.mode,
        {"normal": "untruncated_normal"}.get(scheme.distribution, scheme.distribution),
        seed,
        scheme.input_axes,
        scheme.output_axes,
    )


def _named_twin(scheme: VarianceScheme) -> Any:
    """Keras' class of the same name, where it draws the same."""
    same = {
        "glorot_uniform": initializers.GlorotUniform,
        "he_uniform": initializers.HeUniform,
        "lecun_uniform": initializers.LecunUniform,
    }
    default = type(scheme)().get_config()
    given = scheme.get_config()
    own = ("negative_slope", "mode")
    return same.get(scheme.name) if all(given.get(key) == default.get(key) for key in own) else None


def _wrapper_twin(scheme: Wrapper) -> Any:
    inner = scheme.inner()
    result = twin(inner) if isinstance(inner, Scheme) else inner
    factor = 1.0
    if isinstance(scheme, Scaled):
        factor = abs(scheme.factor)
    elif isinstance(scheme, Summed):
        factor = math.sqrt(scheme.terms)
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
            *(config[key] for key in ("seed", "input_axes", "output_axes")),
        )
    for key in ("gain", "stddev", "mean", "minval", "maxval", "value"):
        if key in config:
            config[key] *= factor
    return type(initializer).from_config(config)


def _check_same(model: keras.Model, copy: keras.Model) -> None:
    """The weights, and where the inputs are known, the outputs, are equal."""
    weights, copies = model.get_weights(), copy.get_weights()
    same = len(weights) == len(copies) and all(map(_equal, weights, copies))
    if same and getattr(model, "inputs", None):
        function = getattr(model, "_functional", model)  # what a Sequential model runs as
        probe = keras.tree.map_structure(_probe, function._inputs_struct)
        outputs = [keras.tree.flatten(each(probe, training=False)) for each in (model, copy)]
        same = all(
            np.allclose(_numbers(one), _numbers(other), equal_nan=True)
            for one, other in zip(*outputs, strict=True)
        )
    if not same:
        raise ValueError(
            f"The model {model.name!r} cannot be made portable: its copy does not compute the same. "
            "Something in it is not in its configuration."
        )


def _numbers(tensor: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))


def _probe(tensor: Any) -> Any:
    shape = tuple(2 if size is None else size for size in tensor.shape)
    if not keras.backend.is_float_dtype(tensor.dtype):
        return ops.zeros(shape, dtype=tensor.dtype)
    values = np.random.default_rng(0).normal(size=shape)
    return ops.convert_to_tensor(values, dtype=tensor.dtype)


def _equal(one: Any, other: Any) -> bool:
    return one.shape == other.shape and bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))
