"""Trace a model: call it on tensors without numbers, and write down every operation.

No layer is changed: copies are called, with symbols in the place of variables.
"""

import functools
import textwrap
from collections.abc import Callable
from typing import Any

import keras
from keras import layers, tree

from keras_winit.models.tracing.interception import answering, nothing_left, replaced, stop_tracking
from keras_winit.models.tracing.opening import (
    BODIES,
    VariableSymbol,
    by_zeros,
    fresh,
    is_leaf,
    is_symbol,
    mapped,
    opened,
    required,
    spec_of,
)
from keras_winit.models.tracing.structure import arguments_for, check_built, inside, unbuilt
from keras_winit.models.tracing.trace import Call, Step, Trace, Value, values_in


def trace(model: keras.layers.Layer, data: Any = None) -> Trace:
    """The operations of one call of a model, in order, from which all plans are made.

    Layers that have layers inside, subclassed models and layers of your own are looked into, to the
    operations of `keras.ops` and the variables in their `call`. A call that cannot be looked into, because
    it computes with NumPy, with functions of a backend or by the values of tensors, is one step with the
    reason, and the layers inside of it are traced by themselves. Nothing is computed, and the model is left
    as it is.

    Args:
        model: a built model of any kind, or a built layer.
        data: what it is called with, an array or a nest of arrays, of which only the shapes count; None
            takes the shapes that it was built with.

    Returns:
        A `Trace`; printing it shows a table.

    Raises:
        TypeError, ValueError: for what is no model, and one that is not built.

    Example:

    >>> class Residual(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.w = self.add_weight(name="w", shape=(shape[-1], shape[-1]))
    ...     def call(self, x):
    ...         return x + keras.ops.relu(x @ self.w)
    >>> model = keras.Sequential([keras.Input((8,)), Residual(), keras.layers.Dense(2)])
    >>> [step.kind for step in trace(model).steps]
    ['Matmul', 'Relu', 'Add', 'Dense']
    """
    check_built(model)
    tracer = _Tracer(model)
    with replaced(), nothing_left(model), answering(tracer.answer):
        stop_tracking()
        return tracer.run(data)


class _Unseen(Exception):  # noqa: N818 - never seen by a user
    """Nothing says what a layer puts out."""


class _Tracer:
    """One call of a model."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._steps: list[Step] = []
        self._around: list[Any] = []
        self._values: dict[int, tuple[Any, Value]] = {}  # by tensors, which are kept alive
        self._symbols: dict[int, VariableSymbol] = {}
        self._made: list[Call] = []
        self._specs: dict[Any, Any] = {}  # what layers put out for shapes
        self._calls: dict[int, Callable[..., Any]] = {}  # of layers that are looked into

    def run(self, data: Any) -> Trace:
        """Trace the model and what its call did not reach."""
        inputs, outputs, reason = self._whole(self._model, data)
        reason = reason or next((s.opaque for s in self._steps if s.operation is self._model), None)
        count, seen = len(self._steps), set[int]()
        # What is inside a layer that could not be looked into, each for itself.
        while missing := [s.operation for s in self._steps if s.opaque and id(s.operation) not in seen]:
            for layer in missing:
                seen.add(id(layer))
                self._around = [self._model] if layer is self._model else [self._model, layer]
                for child in inside(layer):
                    if id(child) not in seen and child.variables:
                        self._whole(child)
        self._uncalled(seen)
        for step in self._steps:
            for value in dict.fromkeys(step.inputs):
                value.readers.append(step)
        return Trace(
            self._model.name, self._steps, inputs, outputs, reason=reason, count=count, calls=self._made
        )

    def _whole(self, layer: Any, data: Any = None) -> tuple[tuple[Value, ...], tuple[Value, ...], str | None]:
        """Call a layer on symbols: its inputs and outputs, or the reason why there are none."""
        reason = "its inputs are not known"
        for arguments, options in arguments_for(layer, data):
            given = _each(self._symbolic, arguments, options)
            inputs = self._values_of(given)
            for value in inputs:
                value.source = "input"
            try:
                return inputs, self._values_of(self.answer(layer, *given)), None
            except _Unseen as error:
                reason = str(error)
        self._note(layer, (), {}, (), opaque=reason)
        return (), (), reason

    def _uncalled(self, seen: set[int]) -> None:
        """Trace for itself what the model's call did not reach."""
        reached = set(seen)
        for step in self._steps:
            called = step.operation._flatten_layers() if step.in_layer else ()
            reached.update(map(id, (*step.around, *called)))

        def go(layer: Any) -> None:
            # What a sequential model runs as.
            functional = getattr(layer, "_functional", None) if isinstance(layer, keras.Sequential) else None
            for child in inside(layer):
                if id(child) in reached or child is functional:
                    self._around.append(child)
                    go(child)
                    self._around.pop()
                elif id(child) not in seen and child.variables:
                    seen.add(id(child))
                    self._whole(child)

        self._around = [self._model]
        go(self._model)

    def answer(self, operation: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """What a layer or an operation of `keras.ops` puts out, as symbols."""
        if not isinstance(operation, layers.Layer):
            return self._operation(operation, arguments, options)
        arguments, options = _each(self._symbolic, arguments, options)
        for place, name, value in required(type(operation).call):
            if place >= len(arguments):
                options.setdefault(name, value)
        recurrent = isinstance(operation, layers.RNN)
        if not (recurrent or is_leaf(operation)):
            return self._opened(operation, arguments, options)
        outputs = self._leaf(operation, arguments, options)
        if recurrent:
            self._cells(operation, arguments)
        return outputs

    def _operation(self, operation: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        body = BODIES.get(type(operation).__name__)
        if body is not None:
            outputs, results = body(operation, *_each(self._symbolic, arguments, {})[0], **options)
            return self._note(operation, (results,), {}, outputs)
        try:
            given = ((item,) if isinstance(item, slice) else item for item in arguments)  # as Keras has it
            outputs = operation.compute_output_spec(*given, **options)
        except Exception:  # Keras' rule for einsum fails on some letters; the backend knows
            with answering(None):
                outputs = keras.Operation.compute_output_spec(operation, *arguments, **options)
        return self._note(operation, arguments, options, outputs)

    def _leaf(self, layer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        key = (id(layer), repr(mapped(_shape_and_dtype, (arguments, options))))
        if key not in self._specs:
            try:
                self._specs[key] = spec_of(layer, arguments, options)
            except Exception as error:  # whatever a layer's code may raise
                self._specs[key] = self._spec_otherwise(layer, arguments, options, _said(error))
        return self._note(layer, arguments, options, self._specs[key])

    def _opened(self, layer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        start, made, depth = len(self._steps), len(self._made), len(self._around)
        self._around.append(layer)
        try:
            if id(layer) not in self._calls:
                self._calls[id(layer)] = opened(layer, self._symbol)
            outputs = self._calls[id(layer)](*arguments, **options)
            inputs = tuple(values_in(_each(self._as_value, arguments, options)))
            self._made.append(Call(layer, inputs, tuple(self._steps[start:])))
            return outputs
        except Exception as error:  # whatever a layer's code may raise
            del self._steps[start:], self._made[made:]
            reason = _said(error)
        finally:
            del self._around[depth:]
        outputs = self._spec_otherwise(layer, arguments, options, reason)
        return self._note(layer, arguments, options, outputs, opaque=reason)

    def _cells(self, layer: Any, arguments: tuple[Any, ...]) -> None:
        """One step of a recurrent layer's cells, if they are the user's own."""
        cells = list(getattr(layer.cell, "cells", [layer.cell]))
        if all(map(is_leaf, cells)):
            return
        self._around.append(layer)
        signal = arguments[0][:, 0]
        for cell in cells:
            states = []
            for size in [cell.state_size] if isinstance(cell.state_size, int) else cell.state_size:
                shape = (size,) if isinstance(size, int) else size
                states.append(keras.KerasTensor((signal.shape[0], *shape)))
                self._value(states[-1]).source = "state"
            try:
                signal = self.answer(cell, (signal, states), {})[0]
            except _Unseen as error:
                self._note(cell, (signal,), {}, (), opaque=str(error))
                break
        self._around.pop()

    def _spec_otherwise(self, layer: Any, arguments: Any, options: Any, reason: str) -> Any:
        """What a layer puts out, by the backend's tracing or for real zeros."""
        if unbuilt(layer):
            raise _Unseen(f"{layer.name}: it is not built")
        for attempt in (layer.compute_output_spec, functools.partial(by_zeros, layer)):
            try:
                with answering(None):
                    found = attempt(*arguments, **options)
                return mapped(fresh, found)
            except Exception:
                continue
        raise _Unseen(f"{layer.name}: {reason}")

    def _note(
        self, operation: Any, arguments: Any, options: Any, outputs: Any, opaque: str | None = None
    ) -> Any:
        """Write down a step; its outputs, as new symbols."""
        outputs = mapped(self._unseen, outputs)
        given = _each(self._as_value, arguments, options)
        found = self._values_of(outputs)
        step = Step(operation, tuple(self._around), *given, tuple(values_in(given)), found, opaque)
        for value in found:
            value.step, value.source = step, "step"
        self._steps.append(step)
        return outputs

    def _unseen(self, item: Any) -> Any:
        """A symbol that no step has put out yet."""
        return item if is_symbol(item) and id(item) not in self._values else fresh(item)

    def _as_value(self, item: Any) -> Any:
        item = self._symbol(item) if isinstance(item, keras.Variable) else item
        return self._value(item) if is_symbol(item) else item

    def _values_of(self, nest: Any) -> tuple[Value, ...]:
        flat = [nest] if is_symbol(nest) else tree.flatten(nest)
        return tuple(self._value(tensor) for tensor in flat if is_symbol(tensor))

    def _value(self, tensor: Any) -> Value:
        if id(tensor) not in self._values:
            self._values[id(tensor)] = tensor, Value(tuple(tensor.shape), tensor.dtype, "constant")
        return self._values[id(tensor)][1]

    def _symbol(self, variable: Any) -> VariableSymbol:
        if id(variable) not in self._symbols:
            self._symbols[id(variable)] = VariableSymbol(variable)
            value = self._value(self._symbols[id(variable)])
            value.variable, value.source = variable, "variable"
        return self._symbols[id(variable)]

    def _symbolic(self, item: Any) -> Any:
        """A symbol for a tensor or variable; all else as it is."""
        item = self._symbol(item) if isinstance(item, keras.Variable) else item
        return item if is_symbol(item) else fresh(item)


def _each(function: Callable[[Any], Any], arguments: Any, options: Any) -> tuple[Any, dict[str, Any]]:
    """Arguments and options with a function of each leaf."""
    return (
        tuple(mapped(function, item) for item in arguments),
        {key: mapped(function, item) for key, item in options.items()},
    )


def _shape_and_dtype(item: Any) -> Any:
    return (item.shape, item.dtype) if is_symbol(item) else item


def _said(error: BaseException) -> str:
    """The innermost reason of an error, in one line."""
    if isinstance(error, _Unseen):
        return str(error)
    said = [type(error).__name__, *str(error).strip().splitlines()[:1]]
    return textwrap.shorten(": ".join(said), 160, placeholder=" …")
