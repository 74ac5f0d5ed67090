"""A copy of a model that loads where this package is not installed."""

import inspect
import json
import math
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import initializers, ops, tree

from keras_winit.drawing.sampling import TRUNCATED_STD
from keras_winit.files import without_optimizer_warnings
from keras_winit.models.tracing.structure import concrete, input_struct
from keras_winit.schemes import Scheme, get, names
from keras_winit.schemes.base import arguments_of
from keras_winit.schemes.basic import Constant, Ones, RandomNormal, RandomUniform, TruncatedNormal, Zeros
from keras_winit.schemes.bias import PriorBias
from keras_winit.schemes.compose import PerGate, Scaled, Summed, Wrapper
from keras_winit.schemes.looks_linear import LooksLinearBias
from keras_winit.schemes.orthogonal import DeltaOrthogonal, Orthogonal
from keras_winit.schemes.registry import PACKAGE
from keras_winit.schemes.structured import Sparse
from keras_winit.schemes.variance_scheme import VarianceScheme
from keras_winit.support.printing import progress

# Before 3.15 Keras counts fans by the places of axes.
_TAKES_AXES = "input_axes" in inspect.signature(initializers.VarianceScaling).parameters


def twin(scheme: Scheme) -> Any:
    """The built-in of Keras that draws the same distribution, or the nearest one.

    The nearest is orthogonal for identities and delta kernels, and zeros for biases that differ from output
    to output or are for twins. Before Keras 3.15, whose initializers take no axes, it has none.
    """
    seed = arguments_of(scheme).get("seed")
    if isinstance(seed, dict):  # of a scheme of the user's own
        seed = keras.saving.deserialize_keras_object(seed)
    if isinstance(scheme, Ones):
        return initializers.Ones()
    if isinstance(scheme, (Zeros, LooksLinearBias)):  # which is for kernels that Keras has not
        return initializers.Zeros()
    if isinstance(scheme, (Constant, PriorBias)):
        given = scheme.value if isinstance(scheme, Constant) else scheme.counts or scheme.prior
        one_number = isinstance(given, float)
        return initializers.Constant(float(ops.convert_to_numpy(scheme((1,)))[0]) if one_number else 0.0)
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


def _variance_twin(scheme: VarianceScheme, seed: Any) -> Any:
    if scheme.fans is not None:  # Keras takes no fans, but a deviation says the same
        std = scheme.expected_std((1,))
        if scheme.distribution == "uniform":
            return initializers.RandomUniform(-math.sqrt(3) * std, math.sqrt(3) * std, seed)
        if scheme.distribution == "normal":
            return initializers.RandomNormal(0.0, std, seed)
        return initializers.TruncatedNormal(0.0, std / TRUNCATED_STD, seed)
    axes = {"input_axes": scheme.input_axes, "output_axes": scheme.output_axes} if _TAKES_AXES else {}
    default, given = arguments_of(type(scheme)()), arguments_of(scheme)
    if scheme.name in _SAME and all(given.get(key) == default.get(key) for key in ("negative_slope", "mode")):
        return _SAME[scheme.name](seed=seed, **axes)
    mode = "fan_avg" if scheme.mode == "fan_geo_avg" else scheme.mode
    distribution = "untruncated_normal" if scheme.distribution == "normal" else scheme.distribution
    return initializers.VarianceScaling(scheme.scale, mode, distribution, seed, **axes)


# Keras' classes that draw what ours of the same name draw by default.
_SAME = {
    "glorot_uniform": initializers.GlorotUniform,
    "he_uniform": initializers.HeUniform,
    "lecun_uniform": initializers.LecunUniform,
}


def _wrapper_twin(scheme: Wrapper) -> Any:
    inner = scheme.inner()
    result = twin(inner) if isinstance(inner, Scheme) else inner
    # Equal numbers add up with signs, random ones in variance.
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
    """An initializer of Keras with its deviation multiplied."""
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


_KNOWN = {f"{PACKAGE}>{name}" for name in names(aliases=True)}


def portable(model: keras.Model) -> keras.Model:
    """A copy of the model, with Keras' own initializers, that loads without this package.

    Each scheme in the configuration becomes Keras' initializer of the same distribution, or the nearest
    where there is none. Weights, compile state, optimizer state and outputs are the same; only the
    initializers on record change. Without a portable copy and without this package Keras goes by the name
    of the class: `winit>truncated_normal` loads as Keras' own, and `winit>he_uniform` is an error.

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
    with progress("making it portable", 4) as advance:
        same, copy = _rebuilt(model, advance)
        _check_same(model, same, copy)
        advance()
    return copy


def _rebuilt(model: keras.Model, advance: Callable[[], None]) -> list[Any]:
    """The model from its own file, and from one without our schemes."""
    with tempfile.TemporaryDirectory() as folder:
        path, rewritten = Path(folder) / "model.keras", Path(folder) / "portable.keras"
        try:
            model.save(path)
            _rewrite(path, rewritten)
            own, loaded = _own_objects(model), []
            with without_optimizer_warnings():
                for each in (path, rewritten):
                    advance()
                    loaded.append(keras.models.load_model(each, custom_objects=own, safe_mode=False))
        except Exception as error:  # whatever Keras or the model's own code raises
            raise ValueError(
                f"The model {model.name!r} cannot be made portable: Keras cannot rebuild it from a "
                "configuration. Give its classes a `get_config`, and register them and its functions "
                f"with `keras.saving.register_keras_serializable`. Keras said: {error}"
            ) from error
    advance()
    return loaded


def _own_objects(model: keras.Model) -> dict[str, Any]:
    """The model's classes and functions that are not Keras' own, by name."""
    found: list[Any] = []
    for layer in model._flatten_layers():
        found += [layer, *vars(layer).values()]
    compiled = getattr(model, "_compile_config", None)
    if compiled is not None:
        found += tree.flatten(dict(compiled.config))
    result = {}
    for item in found:
        kind = item if inspect.isfunction(item) or inspect.isclass(item) else type(item)
        serializable = inspect.isfunction(kind) or hasattr(kind, "get_config")
        if serializable and not kind.__module__.startswith(("keras.", "keras_winit.", "builtins")):
            result[kind.__name__] = kind
    return result


def _rewrite(path: Path, rewritten: Path) -> None:
    """Copy a `.keras` file, the schemes in its configuration replaced."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(rewritten, "w") as result:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "config.json":
                text = json.dumps(_replace(json.loads(content), False))
                if f'"{PACKAGE}>' in text:
                    raise ValueError(f"its configuration names {PACKAGE}> where no initializer can be")
                content = text.encode()
            result.writestr(name, content)


def _replace(config: Any, half: bool) -> Any:
    """A configuration with twins for schemes; `half` where weights are of half precision."""
    if isinstance(config, list):
        return [_replace(item, half) for item in config]
    if isinstance(config, str) and config in _KNOWN:
        return _serialized_twin(get(config), half)  # as a user's own layer may keep it
    if not isinstance(config, dict):
        return config
    name = config.get("registered_name") or config.get("class_name")
    if isinstance(name, str) and name.startswith(f"{PACKAGE}>") and "config" in config:
        return _serialized_twin(keras.saving.deserialize_keras_object(config), half)
    policy = config.get("dtype")
    if isinstance(policy, dict):
        policy = policy.get("config", {}).get("name")
    if isinstance(policy, str):
        half = policy in ("bfloat16", "float16")
    return {key: _replace(value, half) for key, value in config.items()}


def _serialized_twin(scheme: Any, half: bool) -> Any:
    found = twin(scheme)
    if half and isinstance(found, initializers.Orthogonal):  # Keras cannot draw it so
        found = initializers.VarianceScaling(found.gain**2, "fan_avg", "untruncated_normal", found.seed)
    return keras.saving.serialize_keras_object(found)


def _check_same(model: keras.Model, same: keras.Model, copy: keras.Model) -> None:
    """See that the copy has the weights of the model, and the outputs of its plain reload, `same`.

    To call the model would move its random and recurrent state.
    """
    adapted = any(getattr(layer, "lora_enabled", False) for layer in model._flatten_layers())
    originals = same if adapted else model  # Keras merges an adapter into the weight it saves
    weights, copies = originals.get_weights(), copy.get_weights()
    equal = len(weights) == len(copies) and all(
        np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        for one, other in zip(weights, copies, strict=True)
    )
    if not equal or (getattr(same, "inputs", None) and not _same_outputs(same, copy)):
        raise ValueError(
            f"The model {model.name!r} cannot be made portable: its copy does not compute the same. "
            "Something in it is not in its configuration, or two of its classes have one name."
        )


def _same_outputs(same: keras.Model, copy: keras.Model) -> bool:
    """Whether both put out the same for random inputs of the first size that they take."""
    for size in (2, 32, 128):  # for what the model leaves open
        probe = tree.map_structure(partial(_probe, size), input_struct(same))
        try:
            expected, again = (_outputs(same, probe) for _ in range(2))
        except Exception:  # too small an input
            continue
        # Of too few steps a backend may compute nothing, and give what lay in memory.
        if all(one.size and np.isfinite(one).all() for one in expected) and _all_close(expected, again):
            return _all_close(expected, _outputs(copy, probe))
    return True  # it takes none of these, but its weights are equal


def _outputs(model: keras.Model, probe: Any) -> list[np.ndarray]:
    outputs = tree.flatten(model(probe, training=False))
    return [np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32"))) for tensor in outputs]


def _all_close(ones: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return all(np.allclose(one, other) for one, other in zip(ones, others, strict=True))


def _probe(size: int, tensor: Any) -> Any:
    shape = concrete(tensor.shape or (None,), 2, size, size)
    if tensor.dtype == "string":
        return ops.convert_to_tensor(np.full(shape, ""))
    if not keras.backend.is_float_dtype(tensor.dtype):
        return ops.zeros(shape, tensor.dtype)
    return ops.convert_to_tensor(np.random.default_rng(0).normal(size=shape), tensor.dtype)
