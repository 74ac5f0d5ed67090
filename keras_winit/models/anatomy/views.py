"""Tensors that a model computes from its variables alone: which variables they hold, and on which axes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keras_winit.models.anatomy.contractions import contraction
from keras_winit.models.tracing.trace import Step, Value, number_in

Axes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class View:
    """A variable as a tensor that follows from it holds it.

    Attributes:
        axes: for each axis of the tensor, the axes of the variable that lie on it; () where the tensor
            only repeats it.
        inner: the axes of the variable that another one was summed over with, and their size; () for none.
        inner_size: the product of their sizes.
        scale: what it was multiplied by.
        bent: whether the tensor holds a function of it, such as its exponential.
    """

    axes: Axes
    inner: tuple[int, ...] = ()
    inner_size: int = 1
    scale: float = 1.0
    bent: bool = False


# Functions of each number, or of all, that leave every number at its place.
_BENDING = {
    *("Abs", "Absolute", "Clip", "Exp", "Log", "Power", "Relu", "Sigmoid", "Sign", "Softmax", "Softplus"),
    *("Sqrt", "Square", "Tanh", "Normalize"),
}

# A tensor's views, one for each variable in it; None for a variable that cannot be told any more.
Views = dict[int, tuple[Any, View | None]]


def whole(variable: Any) -> Views:
    """The view of a variable that is the tensor."""
    axes = tuple((axis,) for axis in range(len(variable.shape)))
    return {id(variable): (variable, View(axes))}


def after(step: Step, views: Callable[[Value], Views], *, rows: bool = False) -> Views:
    """The views of what a step puts out, of whose inputs all follow from variables and constants.

    Args:
        step: the step.
        views: gives the views of a value.
        rows: whether it takes rows by numbers of the signal, which are no axes of the variables then.
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
    if step.kind in _BENDING and step.inputs[0] is value:
        return replace(view, bent=True)
    if step.kind in ("Multiply", "TrueDivide", "Divide", "Negative"):
        return _scaled(step, value, view)
    if step.kind in ("Add", "Subtract", "Where", "Maximum", "Minimum"):
        return _broadcast(step, value, view)
    rule = _RULES.get(step.kind)
    if rule is not None and step.inputs[0] is value:
        axes = rule(step, view.axes, value.shape, step.outputs[0].shape)
        return None if axes is None else replace(view, axes=axes)
    if step.kind in ("Concatenate", "Stack"):
        return _joined(step, view)
    return _summed(step, value, view, views)


def _scaled(step: Step, value: Value, view: View) -> View | None:
    if step.kind == "Negative":
        return replace(view, scale=-view.scale)
    factor = number_in(step)
    if factor is not None:
        over = step.kind != "Multiply"
        if over and step.arguments[0] is not value:
            return None
        return replace(view, scale=view.scale / factor if over and factor else view.scale * factor)
    return _broadcast(step, value, view)


def _broadcast(step: Step, value: Value, view: View) -> View | None:
    """As one of two operands, repeated where the other has more axes."""
    rank = len(step.outputs[0].shape)
    return replace(view, axes=((),) * (rank - len(value.shape)) + view.axes)


def _joined(step: Step, view: View) -> View | None:
    if step.kind == "Concatenate":
        return view
    axis = step.operation.axis % len(step.outputs[0].shape)
    return replace(view, axes=(*view.axes[:axis], (), *view.axes[axis:]))


def _summed(step: Step, value: Value, view: View, views: Callable[[Value], Views]) -> View | None:
    """As a factor of a product of variables."""
    sums = contraction(step)
    if sums is None or not all(views(each) for each, _ in sums.operands):
        return None  # times a constant matrix: its axes are not the variable's any more
    labels = next(each for operand, each in sums.operands if operand is value)
    by_label = {
        label: axes for label, axes in zip(labels, view.axes, strict=True) if label is not None and axes
    }
    inner = tuple(axis for label, axes in by_label.items() if label not in sums.output for axis in axes)
    size = math.prod(sums.sizes()[label] for label in by_label if label not in sums.output)
    axes = tuple(by_label.get(label, ()) for label in sums.output)
    return replace(view, axes=axes, inner=view.inner + inner, inner_size=view.inner_size * size)


def _same(_step: Step, axes: Axes, _before: Any, _after: Any) -> Axes | None:
    return axes


def _transpose(step: Step, axes: Axes, _before: Any, _after: Any) -> Axes | None:
    order = step.operation.axes
    return tuple(axes[axis] for axis in (reversed(range(len(axes))) if order is None else order))


def _swapaxes(step: Step, axes: Axes, _before: Any, _after: Any) -> Axes | None:
    moved = list(axes)
    one, two = step.operation.axis1, step.operation.axis2
    moved[one], moved[two] = moved[two], moved[one]
    return tuple(moved)


def _moveaxis(step: Step, axes: Axes, _before: Any, _after: Any) -> Axes | None:
    rank = len(axes)
    source = [axis % rank for axis in step.operation.source]
    order = [axis for axis in range(rank) if axis not in source]
    for place, axis in sorted(zip((each % rank for each in step.operation.destination), source, strict=True)):
        order.insert(place, axis)
    return tuple(axes[axis] for axis in order)


def _reshape(_step: Step, axes: Axes, before: Any, after: Any) -> Axes | None:
    return reshaped(axes, before, after)


def reshaped(axes: Axes, before: Sequence[int], after: Sequence[int]) -> Axes | None:
    """The axes after a reshape: of each run of axes with the same product before and after."""
    result: list[tuple[int, ...]] = []
    left = right = 0
    while left < len(before) or right < len(after):
        first, start = left, right
        left, right = min(left + 1, len(before)), min(right + 1, len(after))
        while math.prod(before[first:left]) != math.prod(after[start:right]):
            if math.prod(before[first:left]) < math.prod(after[start:right]):
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
    if ... in keys:
        place = keys.index(...)
        keys[place : place + 1] = [slice(None)] * (len(before) - named)
    else:
        keys += [slice(None)] * (len(before) - named)
    result: list[tuple[int, ...]] = []
    rest = list(axes)
    for each in keys:
        if each is None:
            result.append(())
        else:
            axis = rest.pop(0)
            if isinstance(each, slice):
                result.append(axis)
    return tuple(result)


def _take(step: Step, axes: Axes, before: Any, after: Any) -> Axes | None:
    """Rows by numbers that the model made by itself, such as those of positions."""
    if step.operation.axis is None:
        return None
    axis = step.operation.axis % len(before)
    more = len(after) - len(before) + 1
    return (*axes[:axis], *[axes[axis]] * more, *axes[axis + 1 :])


def _repeated(_step: Step, axes: Axes, before: Any, after: Any) -> Axes | None:
    return ((),) * (len(after) - len(before)) + axes


_RULES: dict[str, Callable[[Step, Axes, Any, Any], Axes | None]] = {
    **dict.fromkeys(("Cast", "ConvertToTensor", "StopGradient", "Flip", "Split", "Copy", "Slice"), _same),
    **dict.fromkeys(("Reshape", "Squeeze", "ExpandDims", "Ravel"), _reshape),
    **dict.fromkeys(("BroadcastTo", "Tile", "Repeat"), _repeated),
    "Transpose": _transpose,
    "Swapaxes": _swapaxes,
    "Moveaxis": _moveaxis,
    "GetItem": _get_item,
    "Take": _take,
}
