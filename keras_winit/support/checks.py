"""Checks of arguments: each returns the value in its normal form, or raises.

Messages name the argument, show what was received, and say what to pass.
"""

import difflib
import itertools
import math
import numbers
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

Shape = tuple[int, ...]

MOST_DIMENSIONS = 64  # as in numpy
_MOST_ELEMENTS = 2**50  # four pebibytes of float32: more than any machine holds
_MOST_NESTED = 100  # levels of dicts and lists: ten times what a config of ours may need
_LONGEST_WORD = 100  # to look for near ones

# Finite in float32, and when that is rounded to bfloat16.
_LARGEST = {"float32": 3.38e38, "float64": 1.79e308}

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # in Keras' messages
_LONGEST_SAID = 600

_SHOW = reprlib.Repr()
_SHOW.maxlevel = 4
_SHOW.maxtuple = _SHOW.maxlist = _SHOW.maxdict = _SHOW.maxset = _SHOW.maxfrozenset = _SHOW.maxarray = 24
_SHOW.maxstring = _SHOW.maxother = _SHOW.maxlong = 300


def shown(value: Any) -> str:
    """What was received, cut where it is long, deep or holds itself."""
    try:
        return _SHOW.repr(value)
    except Exception:  # an integer of thousands of digits, or a foreign class
        return f"<{type(value).__name__} that cannot be shown>"


def said_by(error: Exception) -> str:
    """The message of another's error, on one line."""
    return " ".join(_COLOURS.sub("", str(error)).split())[:_LONGEST_SAID]


def as_float(name: str, value: Any, *, positive: bool = False, minimum: float | None = None) -> float:
    """A finite float, optionally above zero or at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be a number. Received: {name}={shown(value)} of type {type(value).__name__}."
        )
    try:
        number = float(value)
    except OverflowError:  # an integer that no float holds
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"`{name}` must be finite. Received: {name}={shown(value)}.")
    if positive and number <= 0:
        raise ValueError(f"`{name}` must be greater than 0. Received: {name}={shown(value)}.")
    if minimum is not None and number < minimum:
        raise ValueError(f"`{name}` must be at least {minimum:g}. Received: {name}={shown(value)}.")
    return number


def as_int(name: str, value: Any, *, minimum: int) -> int:
    """An integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(
            f"`{name}` must be an integer. Received: {name}={shown(value)} of type {type(value).__name__}."
        )
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}. Received: {name}={shown(value)}.")
    return int(value)


def as_bool(name: str, value: Any) -> bool:
    """True or False, nothing that counts as one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"`{name}` must be True or False. Received: {name}={shown(value)}.")
    return bool(value)


def one_of(name: str, value: Any, allowed: Iterable[str]) -> str:
    """One of the allowed strings; the error suggests the nearest."""
    options = tuple(allowed)
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be one of {list(options)}. Received: {name}={shown(value)}.")
    if value not in options:
        raise ValueError(
            f"`{name}` must be one of {list(options)}. Received: {name}={shown(value)}."
            + did_you_mean(value, options)
        )
    return value


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """' Did you mean "x" or "y"?' for the nearest options, or ''."""
    if len(word) > _LONGEST_WORD:
        return ""
    near = difflib.get_close_matches(word.lower(), list(options), n=2, cutoff=0.6)
    quoted = " or ".join(f'"{option}"' for option in near)
    return f" Did you mean {quoted}?" if near else ""


def as_shape(shape: Any) -> Shape:
    """A tuple of positive integers."""
    if isinstance(shape, (str, bytes)) or not isinstance(shape, Iterable):
        raise TypeError(
            "`shape` must be a tuple of positive integers. "
            f"Received: shape={shown(shape)} of type {type(shape).__name__}."
        )
    dims = tuple(itertools.islice(shape, MOST_DIMENSIONS + 1))  # an iterator may have no end
    if len(dims) > MOST_DIMENSIONS:
        raise ValueError(f"`shape` must have at most {MOST_DIMENSIONS} dimensions. Received: more of them.")
    for dim in dims:
        if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)):
            raise TypeError(
                f"`shape` must hold integers only. Received: shape={shown(dims)} with {shown(dim)} in it. "
                "A weight has no unknown dimension: build the layer on a full input shape."
            )
        if dim <= 0:
            raise ValueError(
                "`shape` must hold positive dimensions only. "
                f"Received: shape={shown(dims)} with {shown(dim)} in it."
            )
    return tuple(int(dim) for dim in dims)


def check_size(shape: Shape) -> None:
    """See that a tensor of this shape is not larger than any memory."""
    if math.prod(shape) > _MOST_ELEMENTS:
        raise ValueError(
            f"A tensor of this shape would be larger than any memory. Received: shape={shown(shape)}."
        )


def check_fits(name: str, value: Any, dtype: str) -> None:
    """See that no number is infinite in a dtype."""
    if float(np.max(np.abs(value), initial=0)) > _LARGEST.get(dtype, math.inf):
        raise ValueError(
            f"`{name}` is too large for {dtype}, in which it would be infinite. Received: "
            f"{name}={shown(value)}."
        )


def check_nesting(config: Any) -> None:
    """See that dicts and lists are not nested deeper than Python can follow."""
    level: Iterable[Any] = [config]
    for _ in range(_MOST_NESTED + 1):
        inner: dict[int, Any] = {}
        for item in level:
            for each in item.values() if isinstance(item, Mapping) else item:
                if isinstance(each, (Mapping, list, tuple)):
                    inner[id(each)] = each
        level = inner.values()
    if level:
        raise ValueError(
            f"A config must not hold itself, nor be nested more than {_MOST_NESTED} deep. "
            f"Received: {shown(config)}."
        )


def revived(config: Mapping[str, Any], revive: Callable[[Any], Any] | None = None) -> Any:
    """The object that a config of Keras describes; a TypeError or ValueError where there is none."""
    check_nesting(config)
    try:
        return (revive or keras.saving.deserialize_keras_object)(dict(config))
    except (TypeError, ValueError):
        raise
    except Exception as error:  # Keras may raise anything
        raise ValueError(
            f"Keras cannot make an object of this config: {type(error).__name__}: {error}. "
            f"Received: {shown(config)}."
        ) from error


def as_dtype(dtype: Any) -> str:
    """The standard name of a dtype; None means `keras.config.floatx()`."""
    try:
        return str(keras.backend.standardize_dtype(dtype))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`dtype` must be the name of a dtype, such as 'float32'. Received: dtype={shown(dtype)}."
        ) from error


def as_axes(name: str, axes: Any) -> list[int] | None:
    """A list of distinct integers, or None."""
    if axes is None:
        return None
    if isinstance(axes, (str, bytes)) or not isinstance(axes, Iterable):
        raise TypeError(f"`{name}` must be a list of integers or None. Received: {name}={shown(axes)}.")
    axes = list(itertools.islice(axes, MOST_DIMENSIONS + 1))  # an iterator may have no end
    if len(axes) > MOST_DIMENSIONS:
        raise ValueError(f"`{name}` must name at most {MOST_DIMENSIONS} axes. Received: more of them.")
    for axis in axes:
        if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
            raise TypeError(f"`{name}` must hold integers only. Received: {name}={shown(axes)}.")
    result = [int(axis) for axis in axes]
    if len(set(result)) != len(result):
        raise ValueError(f"`{name}` must not repeat an axis. Received: {name}={shown(axes)}.")
    return result
