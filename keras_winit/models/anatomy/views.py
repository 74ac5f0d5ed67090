"""Tensors that a model computes from its variables alone: which ones they hold, and on which axes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_winit.models.anatomy.contractions import Contraction, contraction
from keras_winit.models.tracing.trace import Step, Value, number_in

Axes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class View:
    """A variable as a tensor that follows from it holds it."""

    axes: Axes  # for each axis of the tensor those of the variable that lie on it; () where it is repeated
    inner: tuple[int, ...] = ()  # the axes of the variable that another one was summed over with
    inner_size: int = 1  # the product of their sizes
    scale: float = 1.0  # what it was multiplied by
    bent: bool = False  # whether the tensor holds a function of it, such as its exponential


# Functions of each number, or of all, that leave every number at its place.
_BENDING = {
    *("Abs", "Absolute", "Clip", "Exp", "Log", "Power", "Relu", "Sigmoid", "Sign", "Softmax", "Softplus"),
    *("Sqrt", "Square", "Tanh", "Normalize"),
}

_KEEPING = {"Cast", "ConvertToTensor", "StopGradient", "Flip", "Split", "Copy", "Slice"}

# A tensor's views, one for each variable in it; None for a variable that cannot be told any more.
Views = dict[int, tuple[Any, View | None]]


def whole(variable: Any) -> Views:
    """The view of a variable that is the tensor."""
    axes = tuple((axis,) for axis in range(len(variable.shape)))
    return {id(variable): (variable, View(axes))}


def after(step: Step, views: Callable[[Value], Views], *, rows: bool = False) -> Views:
    """The views of what a step of variables and constants puts out.

    With `rows` it takes rows by numbers of the signal, which are no axes of the variables then.
    """
    found: Views = {}
    for value in dict.fromkeys(step.inputs):
        for key, (variable, view) in views(value).items():
            new = None if view is None else _passed(step, value, view, views)
            if rows and new is not None:
                axis, more = step.operation.axis or 0, len(step.outputs[0].shape) - len(value.shape) + 1
                taken = new.axes[:axis] + ((),) * more + new.axes[axis + more :]
                new = replace(new, axes=taken)
            if key in found and found[key][1] is not None and new is not None:
                continue  # the same variable twice, such as a matrix and its transpose
            found[key] = variable, new if key not in found else None
    return found


def _passed(step: Step, value: Value, view: View, views: Callable[[Value], Views]) -> View | None:
    if step.in_layer or not step.outputs:
        return None
    rule = _RULES.get(step.kind) if step.inputs[0] is value else None
    if rule is not None:
        axes = rule(step, view.axes, value.shape, step.outputs[0].shape)
        return None if axes is None else replace(view, axes=axes)
    if step.kind in _BENDING and step.inputs[0] is value:
        return replace(view, bent=True)
    if step.kind in ("Multiply", "TrueDivide", "Divide"):
        return _scaled(step, value, view)
    if step.kind in ("Add", "Subtract", "Where", "Maximum", "Minimum"):
        return _broadcast(step, value, view)
    if step.kind == "Negative":
        return replace(view, scale=-view.scale)
    if step.kind == "Concatenate" or (step.kind in _KEEPING and step.inputs[0] is value):
        return view
    if step.kind == "Stack":
        axis = step.operation.axis % len(step.outputs[0].shape)
        return replace(view, axes=(*view.axes[:axis], (), *view.axes[axis:]))
    return _summed(step, value, view, views)


def _scaled(step: Step, value: Value, view: View) -> View | None:
    factor = number_in(step)
    if factor is None:
        return _broadcast(step, value, view)
    over = step.kind != "Multiply"
    if over and step.arguments[0] is not value:
        return None
    return replace(view, scale=view.scale / factor if over and factor else view.scale * factor)


def _broadcast(step: Step, value: Value, view: View) -> View:
    """As one of two operands, repeated where the other has more axes."""
    return replace(view, axes=_repeated(step, view.axes, value.shape, step.outputs[0].shape))


def _summed(step: Step, value: Value, view: View, views: Callable[[Value], Views]) -> View | None:
    """As a factor of a product of variables."""
    sums = contraction(step)
    if sums is None or not all(views(each) for each, _ in sums.operands):
        return None  # times a constant matrix: its axes are not the variable's any more
    own = by_label(sums, value, view)
    summed = [label for label in own if label not in sums.output]
    inner = tuple(axis for label in summed for axis in own[label])
    size = math.prod(sums.sizes()[label] for label in summed)
    axes = tuple(own.get(label, ()) for label in sums.output)
    return replace(view, axes=axes, inner=view.inner + inner, inner_size=view.inner_size * size)


def by_label(sums: Contraction, value: Value, view: View) -> dict[Any, tuple[int, ...]]:
    """The axes of the variable that lie on each label of an operand."""
    pairs = zip(sums.labels(value), view.axes, strict=True)
    return {label: axes for label, axes in pairs if axes and label is not None}


def _reordered(step: Step, axes: Axes, before: Any, _after: Any) -> Axes | None:
    """By what NumPy makes of an array whose sizes are the numbers of its axes: it holds nothing."""
    if len(axes) != len(before):
        return None
    numbered, operation = np.empty(range(len(axes))), step.operation
    moved = getattr(np, step.kind.lower())(
        numbered, *(getattr(operation, name) for name in _MOVES[step.kind])
    )
    return tuple(axes[axis] for axis in moved.shape)


def _reshape(_step: Step, axes: Axes, before: Any, after: Any) -> Axes | None:
    """The axes by runs with the same product before and after."""
    result: list[tuple[int, ...]] = []
    left = right = 0
    while left < len(before) or right < len(after):
        first, start = left, right
        left, right = min(left + 1, len(before)), min(right + 1, len(after))
        while (one := math.prod(before[first:left])) != (other := math.prod(after[start:right])):
            if one < other:
                left += 1
            else:
                right += 1
        inside = tuple(axis for each in axes[first:left] for axis in each)
        result += [inside if size != 1 or right - start == 1 else () for size in after[start:right]]
    return tuple(result)


def _get_item(step: Step, axes: Axes, before: Any, after: Any) -> Axes | None:
    key = step.arguments[1] if len(step.arguments) > 1 else step.options.get("key")
    keys = list(key) if isinstance(key, tuple) else [key]
    if not all(each is None or each is ... or isinstance(each, (int, slice)) for each in keys):
        return axes if len(keys) == 1 and len(before) == len(after) else None  # rows by number
    named = sum(each is not None and each is not ... for each in keys)
    place = keys.index(...) if ... in keys else len(keys)
    keys[place : place + 1] = [slice(None)] * (len(before) - named)
    result: list[tuple[int, ...]] = []
    rest = iter(axes)
    for each in keys:
        axis = () if each is None else next(rest)
        if not isinstance(each, int):  # an integer takes its axis away
            result.append(axis)
    return tuple(result)


def _take(step: Step, axes: Axes, before: Any, after: Any) -> Axes | None:
    """Rows by numbers that the model made by itself, such as those of positions."""
    if step.operation.axis is None:
        return None
    axis = step.operation.axis % len(before)
    more = len(after) - len(before) + 1
    return (*axes[:axis], *[axes[axis]] * more, *axes[axis + 1 :])


def _repeated(_step: Step, axes: Axes, before: Any, after: Any) -> Axes:
    return ((),) * (len(after) - len(before)) + axes


# The arguments of operations that change the order of axes; NumPy has the same.
_MOVES = {"Transpose": ["axes"], "Swapaxes": ["axis1", "axis2"], "Moveaxis": ["source", "destination"]}
_RULES: dict[str, Callable[[Step, Axes, Any, Any], Axes | None]] = {
    **dict.fromkeys(("Reshape", "Squeeze", "ExpandDims", "Ravel"), _reshape),
    **dict.fromkeys(("BroadcastTo", "Tile", "Repeat"), _repeated),
    **dict.fromkeys(_MOVES, _reordered),
    "GetItem": _get_item,
    "Take": _take,
}
