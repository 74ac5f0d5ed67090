"""The names of schemes: registered with Keras under `winit>`, listed, and made into initializers."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import keras

from keras_winit.schemes.base import Scheme
from keras_winit.support.checks import did_you_mean, revived, shown

PACKAGE = "winit"
_SCHEMES: dict[str, type[Scheme]] = {}
_ALIASES: dict[str, str] = {}

# Arguments that many schemes share, put into their docstrings in place of {seed} and so on.
_SHARED = {
    "seed": """seed: None, an integer, or a `keras.random.SeedGenerator`. An integer, and None too,
            gives the same tensor at each call; a generator gives a new one.""",
    "exact": """exact: whether the orthogonal matrix is Haar-distributed at any size, for n³ operations, and
            drawn whole by a `layout`; else a large one is only nearly so: see `Orthogonal`.""",
    "axes": """input_axes, output_axes: the axes of the weight that are summed over, and those that
            are put out, where the shape does not tell; lists of integers, both or neither. Keras'
            `EinsumDense` and attention layers give them by themselves.""",
    "truncated": "truncated: cut the normal at two deviations, its deviation restored, as Keras and JAX do.",
    "fans": """fans: the pair (fan_in, fan_out), positive numbers, in place of the shape's own. A bias
            has no other way to know its layer.""",
}

T = TypeVar("T", bound=type[Scheme])


def register(
    name: str, *, aliases: Sequence[str] = (), formula: str, source: str, listed: bool = True
) -> Callable[[T], T]:
    """Register a scheme under `winit>name`, its class name and its aliases.

    Saved models hold the canonical name; every other resolves to the same class. One that is not `listed` is
    a part of a recipe for whole models, of no use by its name.
    """

    def decorate(cls: T) -> T:
        cls.name, cls.aliases, cls.formula, cls.source = name, tuple(aliases), formula, source
        if not listed:
            keras.saving.register_keras_serializable(PACKAGE, name)(cls)
            return cls
        for key in (*aliases, cls.__name__, name):  # the last one is what serialization writes
            if key in _SCHEMES or _ALIASES.get(key, name) != name:
                raise ValueError(f"The scheme name {key!r} is taken. Received: {cls!r}.")
            keras.saving.register_keras_serializable(PACKAGE, key)(cls)
            _ALIASES[key] = name
        _SCHEMES[name] = cls
        if cls.__doc__:  # python -OO has none
            for key, text in _SHARED.items():
                cls.__doc__ = cls.__doc__.replace("{" + key + "}", text)
        return cls

    return decorate


def names(*, aliases: bool = False) -> tuple[str, ...]:
    """The canonical name of every scheme, in the order of the documentation.

    Args:
        aliases: whether to list the other names too: the published synonyms and the class names.

    Returns:
        A tuple of strings, each of which `get` takes, and any layer after `"winit>"`.

    Example:

    >>> "he_uniform" in names()
    True
    >>> "kaiming_uniform" in names(), "kaiming_uniform" in names(aliases=True)
    (False, True)
    """
    return tuple(_ALIASES if aliases else _SCHEMES)


def scheme_class(name: str) -> type[Scheme]:
    """The class registered under a name or alias, with or without `winit>`.

    Raises:
        ValueError: for an unknown name; the message suggests the nearest.
    """
    key = name.removeprefix(PACKAGE + ">")
    if key not in _ALIASES:
        raise ValueError(
            f"There is no scheme named {shown(name)}.{did_you_mean(key, _ALIASES)} "
            "`keras_winit.names()` lists them all."
        )
    return _SCHEMES[_ALIASES[key]]


def get(identifier: Any, **arguments: Any) -> Any:
    """An initializer from a name, class, configuration or instance.

    Args:
        identifier: the name of a scheme (`"he_uniform"`, `"winit>he_uniform"`, `"HeUniform"`, an
            alias), a scheme class, a config dict, or an initializer, which is returned as it is.
            A name is always one of `names(aliases=True)`; for Keras' own initializers pass
            `keras.initializers.get(name)`.
        **arguments: of the scheme's constructor, with a name or a class only.

    Returns:
        A `keras.initializers.Initializer`.

    Raises:
        ValueError: for an unknown name, with the nearest one.
        TypeError: for an identifier or an argument that does not fit.

    Example:

    >>> get("kaiming_uniform", seed=1)
    HeUniform(seed=1)
    >>> get("he_unifrom")
    Traceback (most recent call last):
    ...
    ValueError: There is no scheme named 'he_unifrom'. Did you mean "he_uniform"...
    """
    if isinstance(identifier, str):
        identifier = scheme_class(identifier)
    if inspect.isclass(identifier) and issubclass(identifier, keras.initializers.Initializer):
        return identifier(**arguments)
    if arguments:
        raise TypeError(
            "Arguments go with a name or a class; a config or an instance has its own. "
            f"Received: identifier={shown(identifier)} with {shown(arguments)}."
        )
    if isinstance(identifier, Mapping):
        result = revived(identifier, keras.initializers.get)
        if isinstance(result, keras.initializers.Initializer):
            return result
    if isinstance(identifier, keras.initializers.Initializer):
        return identifier
    raise TypeError(
        "Pass the name of a scheme, a class, a config or an initializer. "
        f"Received: {shown(identifier)} of type {type(identifier).__name__}."
    )
