"""Trace a model: call it on tensors without numbers, and write down every operation.

No layer is changed: what is called is a copy of each that has symbols in the place of its variables.
"""

import textwrap
from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import layers, tree

from keras_winit.models.tracing.interception import answering, nothing_left, replaced, untracked
from keras_winit.models.tracing.opening import (
    BODIES,
    VariableSymbol,
    by_backend,
    by_zeros,
    fresh,
    is_leaf,
    is_symbol,
    mapped,
    opened,
    required,
    spec_of,
)
from keras_winit.models.tracing.structure import arguments_for, check_built, is_unbuilt
from keras_winit.models.tracing.trace import Call, Step, Trace, Value, values_in

_NOT_BUILT = "it is not built"


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
    with replaced(), nothing_left(model), untracked(), answering(tracer):
        return tracer.run(data)


class _Unseen(Exception):  # noqa: N818 - never seen by a user
    """What a layer puts out cannot be told."""


class _Tracer:
    """Calls one model, and keeps the steps."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._steps: list[Step] = []
        self._around: list[Any] = []
        self._values: dict[int, tuple[Any, Value]] = {}  # of each symbolic tensor, which is kept alive
        self._symbols: dict[int, tuple[Any, VariableSymbol]] = {}  # of each variable
        self._made: list[Call] = []
        self._specs: dict[Any, Any] = {}  # what layers put out for shapes that they have seen
        self._calls: dict[int, Callable[..., Any]] = {}  # of each layer that is looked into

    def run(self, data: Any) -> Trace:
        """Trace the model, and then what its call did not reach."""
        inputs, outputs, reason = self._whole(self._model, data)
        reason = reason or next((s.opaque for s in self._steps if s.operation is self._model), None)
        count, seen = len(self._steps), set[int]()
        while missing := [s.operation for s in self._steps if s.opaque and id(s.operation) not in seen]:
            self._parts(missing, seen)
        self._uncalled(seen)
        for step in self._steps:
            for value in dict.fromkeys(step.inputs):
                value.readers.append(step)
        whole = (self._model.name, self._steps, inputs, outputs)
        return Trace(*whole, reason=reason, count=count, calls=self._made)

    def _whole(self, layer: Any, data: Any = None) -> tuple[tuple[Value, ...], tuple[Value, ...], str | None]:
        """Call a layer on symbols of its inputs; what it is given, puts out, and why it could not be."""
        reason = "its inputs are not known"
        for arguments, options in arguments_for(layer, data):
            given = mapped(self._symbolic, (list(arguments), options))
            inputs = tuple(self._value(tensor) for tensor in tree.flatten(given) if is_symbol(tensor))
            for value in inputs:
                value.source = "input"
            try:
                found = self.called(layer, tuple(given[0]), given[1])
            except _Unseen as error:
                reason = str(error)
                continue
            outputs = tuple(self._value(tensor) for tensor in tree.flatten(found) if is_symbol(tensor))
            return inputs, outputs, None
        self._note(layer, (), {}, (), opaque=reason)
        return (), (), reason

    def _parts(self, opaque: Iterable[Any], seen: set[int]) -> None:
        """Trace for itself what is inside of layers that could not be looked into."""
        for layer in opaque:
            seen.add(id(layer))
            self._around = [self._model] if layer is self._model else [self._model, layer]
            for child in layer._flatten_layers(include_self=False, recursive=False):
                if id(child) not in seen and child.variables:
                    self._whole(child)
            self._around = []

    def _uncalled(self, seen: set[int]) -> None:
        """Trace for itself what the call of the model did not reach."""
        reached = {id(layer) for step in self._steps for layer in (*step.around, step.operation)} | seen
        for step in self._steps:
            if step.in_layer:
                reached.update(id(layer) for layer in step.operation._flatten_layers())

        def go(layer: Any) -> None:
            for child in layer._flatten_layers(include_self=False, recursive=False):
                function = isinstance(layer, keras.Sequential) and child is getattr(
                    layer, "_functional", None
                )
                if id(child) in reached or function:
                    self._around.append(child)
                    go(child)
                    self._around.pop()
                elif id(child) not in seen and child.variables:
                    seen.add(id(child))
                    self._whole(child)

        self._around = [self._model]
        go(self._model)
        self._around = []

    def called(self, layer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """What a layer puts out, as symbols."""
        arguments = tuple(mapped(self._symbolic, item) for item in arguments)
        options = {key: mapped(self._symbolic, item) for key, item in options.items()}
        for name, value in required(type(layer).call)[len(arguments) :]:
            if name:
                options.setdefault(name, value)
        if isinstance(layer, layers.RNN):
            outputs = self._leaf(layer, arguments, options)
            self._cells(layer, arguments)
            return outputs
        if is_leaf(layer):
            return self._leaf(layer, arguments, options)
        return self._opened(layer, arguments, options)

    def operation(self, operation: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """What an operation of `keras.ops` puts out, as symbols."""
        body = BODIES.get(type(operation).__name__)
        if body is not None:
            symbols = tuple(mapped(self._symbolic, item) for item in arguments)
            outputs, results = body(operation, *symbols, **options)
            return self._note(operation, (results,), {}, outputs)
        try:
            given = ((item,) if isinstance(item, slice) else item for item in arguments)  # as Keras has it
            outputs = operation.compute_output_spec(*given, **options)
        except Exception:  # Keras' rule for einsum fails on some letters; the backend knows
            with answering(None):
                outputs = keras.Operation.compute_output_spec(operation, *arguments, **options)
        return self._note(operation, arguments, options, outputs)

    def _leaf(self, layer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        nest = (arguments, options)
        key = (id(layer), repr(mapped(_shape_and_dtype, nest)))
        if key not in self._specs:
            try:
                found = spec_of(layer, arguments, options)
            except Exception as error:  # whatever a layer's code may raise
                found = self._spec_otherwise(layer, arguments, options, _said(error))
            self._specs[key] = found
        return self._note(layer, arguments, options, self._specs[key])

    def _opened(self, layer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        start, made, depth = len(self._steps), len(self._made), len(self._around)
        self._around.append(layer)
        try:
            if id(layer) not in self._calls:
                self._calls[id(layer)] = opened(layer, self._symbol)
            outputs = self._calls[id(layer)](*arguments, **options)
            inputs = tuple(values_in(mapped(self._as_value, [list(arguments), options])))
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
        """One step of the cells of a recurrent layer, where they are of the user's own."""
        cells = list(getattr(layer.cell, "cells", [layer.cell]))
        if all(is_leaf(cell) for cell in cells):
            return
        self._around.append(layer)
        signal = arguments[0][:, 0]
        for cell in cells:
            states = [self._state(size, signal.shape[0]) for size in _flat_sizes(cell.state_size)]
            try:
                signal = self.called(cell, (signal, states), {})[0]
            except _Unseen as error:
                self._note(cell, (signal,), {}, (), opaque=str(error))
                break
        self._around.pop()

    def _state(self, size: Any, samples: int) -> Any:
        state = keras.KerasTensor((samples, size) if isinstance(size, int) else (samples, *size))
        self._value(state).source = "state"
        return state

    def _spec_otherwise(self, layer: Any, arguments: Any, options: Any, reason: str) -> Any:
        """What a layer puts out, by the backend's own tracing, or by real zeros."""
        if any(is_unbuilt(each) for each in layer._flatten_layers()):
            raise _Unseen(f"{layer.name}: {_NOT_BUILT}")
        for attempt in (by_backend, by_zeros):
            try:
                with answering(None):
                    found = attempt(layer, arguments, options)
                return mapped(fresh, found)
            except Exception:
                continue
        raise _Unseen(f"{layer.name}: {reason}")

    def _note(
        self, operation: Any, arguments: Any, options: Any, outputs: Any, opaque: str | None = None
    ) -> Any:
        """Write a step down; return its outputs as new symbols."""
        outputs = mapped(self._unseen, outputs)
        positional = tuple(mapped(self._as_value, item) for item in arguments)
        named = {key: mapped(self._as_value, item) for key, item in options.items()}
        inputs = tuple(values_in((positional, named)))
        step = Step(operation, tuple(self._around), positional, named, inputs, (), opaque)
        flat = [outputs] if is_symbol(outputs) else tree.flatten(outputs)
        found = [self._value(tensor) for tensor in flat if is_symbol(tensor)]
        for value in found:
            value.step, value.source = step, "step"
        step.outputs = tuple(found)
        self._steps.append(step)
        return outputs

    def _unseen(self, item: Any) -> Any:
        """A symbol that no step has put out yet."""
        return item if is_symbol(item) and id(item) not in self._values else fresh(item)

    def _as_value(self, item: Any) -> Any:
        item = self._symbol(item) if isinstance(item, keras.Variable) else item
        return self._value(item) if is_symbol(item) else item

    def _value(self, tensor: Any) -> Value:
        if id(tensor) not in self._values:
            shape = tuple(tensor.shape)
            self._values[id(tensor)] = tensor, Value(shape, tensor.dtype, "constant")
        return self._values[id(tensor)][1]

    def _symbol(self, variable: Any) -> VariableSymbol:
        if id(variable) not in self._symbols:
            symbol = VariableSymbol(variable)
            self._symbols[id(variable)] = variable, symbol
            value = self._value(symbol)
            value.variable, value.source = variable, "variable"
        return self._symbols[id(variable)][1]

    def _symbolic(self, item: Any) -> Any:
        """A symbol for a tensor or variable; all else as it is."""
        if isinstance(item, keras.Variable):
            return self._symbol(item)
        return item if is_symbol(item) else fresh(item)


def _shape_and_dtype(item: Any) -> Any:
    return (item.shape, item.dtype) if is_symbol(item) else item


def _said(error: BaseException) -> str:
    """Why something could not be traced: the innermost reason, on one line."""
    if isinstance(error, _Unseen):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f": {lines[0]}" if lines else ""
    return textwrap.shorten(f"{type(error).__name__}{text}", 160, placeholder=" …")


def _flat_sizes(sizes: Any) -> list[Any]:
    """The shapes of the states of a cell."""
    if isinstance(sizes, int):
        return [sizes]
    return list(sizes)
