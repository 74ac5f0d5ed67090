"""Checks of arguments: each returns the value in its normal form, or says what is wrong.

Every message names the argument, shows what was received, and says what to pass.
"""

import difflib
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

Shape = tuple[int, ...]


def as_float(name: str, value: Any, *, positive: bool = False, minimum: float | None = None) -> float:
    """A finite float, optionally above zero or at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, np.floating, np.integer)):
        raise TypeError(
            f"`{name}` must be a number. Received: {name}={value!r} of type {type(value).__name__}."
        )
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"`{name}` must be finite. Received: {name}={value!r}.")
    if positive and number <= 0:
        raise ValueError(f"`{name}` must be greater than 0. Received: {name}={value!r}.")
    if minimum is not None and number < minimum:
        raise ValueError(f"`{name}` must be at least {minimum:g}. Received: {name}={value!r}.")
    return number


def as_int(name: str, value: Any, *, minimum: int) -> int:
    """An integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(
            f"`{name}` must be an integer. Received: {name}={value!r} of type {type(value).__name__}."
        )
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}. Received: {name}={value!r}.")
    return int(value)


def as_bool(name: str, value: Any) -> bool:
    """True or False, and nothing that merely counts as one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"`{name}` must be True or False. Received: {name}={value!r}.")
    return bool(value)


def one_of(name: str, value: Any, allowed: Iterable[str]) -> str:
    """One of the allowed strings; the error suggests the nearest."""
    options = tuple(allowed)
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be one of {list(options)}. Received: {name}={value!r}.")
    if value not in options:
        raise ValueError(
            f"`{name}` must be one of {list(options)}. Received: {name}={value!r}."
            + did_you_mean(value, options)
        )
    return value


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """' Did you mean "x" or "y"?' for the nearest options, or an empty string."""
    near = difflib.get_close_matches(word.lower(), list(options), n=2, cutoff=0.6)
    quoted = " or ".join(f'"{option}"' for option in near)
    return f" Did you mean {quoted}?" if near else ""


def as_shape(shape: Any) -> Shape:
    """A tuple of positive integers."""
    if isinstance(shape, (str, bytes)) or not isinstance(shape, (Sequence, Iterable)):
        raise TypeError(
            "`shape` must be a tuple of positive integers. "
            f"Received: shape={shape!r} of type {type(shape).__name__}."
        )
    dims = tuple(shape)
    for dim in dims:
        if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)):
            raise TypeError(
                f"`shape` must hold integers only. Received: shape={dims!r} with {dim!r} in it. "
                "A weight has no unknown dimension: build the layer on a full input shape."
            )
        if dim <= 0:
            raise ValueError(
                f"`shape` must hold positive dimensions only. Received: shape={dims!r} with {dim} in it."
            )
    return tuple(int(dim) for dim in dims)


def as_dtype(dtype: Any) -> str:
    """The standard name of a dtype; None means `keras.config.floatx()`."""
    try:
        return str(keras.backend.standardize_dtype(dtype))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`dtype` must be the name of a dtype, such as 'float32'. Received: dtype={dtype!r}."
        ) from error


def as_axes(name: str, axes: Any) -> list[int] | None:
    """A list of distinct integers, or None."""
    if axes is None:
        return None
    if isinstance(axes, (str, bytes)) or not isinstance(axes, Iterable):
        raise TypeError(f"`{name}` must be a list of integers or None. Received: {name}={axes!r}.")
    result = []
    for axis in axes:
        if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
            raise TypeError(f"`{name}` must hold integers only. Received: {name}={axes!r}.")
        result.append(int(axis))
    if len(set(result)) != len(result):
        raise ValueError(f"`{name}` must not repeat an axis. Received: {name}={axes!r}.")
    return result
