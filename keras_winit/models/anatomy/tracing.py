"""Trace a model: call it on tensors without numbers, and write down every operation.

This is the only file that knows how Keras calls layers and operations on symbolic tensors. It leaves
nothing behind: no layer is changed, for what is called is a copy of each layer that has symbols in the
place of its variables; and what Keras keeps for a thread is put back.
"""

import collections
import contextlib
import functools
import inspect
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
from keras import layers, ops, tree
from keras.src.backend.common import global_state  # which Keras does not export

from keras_winit.models.anatomy.inputs import arguments_for
from keras_winit.models.anatomy.kinds import SAME_SHAPE
from keras_winit.models.anatomy.loops import BODIES
from keras_winit.models.anatomy.ownership import check_built, is_unbuilt
from keras_winit.models.anatomy.trace import Step, Trace, Value, values_in
from keras_winit.theory.einsum import einsum_labels

_NOT_BUILT = "it is not built"


def trace(model: keras.layers.Layer, data: Any = None) -> Trace:
    """The operations that one call of a model consists of, in order: what all that is planned goes by.

    Layers that have layers inside, subclassed models and layers of your own are looked into, to the
    operations of `keras.ops` and the variables in their `call`. What cannot be, for it computes with NumPy,
    with functions of a backend or by the values of tensors, is one step with the reason, and what is inside
    of it is traced for itself. Nothing is computed, and the model is left as it is.

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
    with _patched(), nothing_left(model), _untracked(), tracer.active():
        return tracer.run(data)


class _Unseen(Exception):  # noqa: N818 - never seen by a user
    """What a layer puts out cannot be told."""


class _Symbol(keras.KerasTensor):
    """A symbol in the place of a variable: like it for all that does not need numbers."""

    def __init__(self, variable: Any) -> None:
        dtype = keras.backend.standardize_dtype(variable.dtype)
        super().__init__(tuple(variable.shape), dtype, name=variable.name)
        self.path, self.trainable = variable.path, variable.trainable

    @property
    def value(self) -> "_Symbol":
        """Itself: Keras' variables have their tensor here."""
        return self

    def assign(self, value: Any) -> Any:
        """Nothing: a trace changes no variable."""
        return value

    assign_add = assign_sub = assign


class _Tracer:
    """Calls one model, and keeps the steps."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._steps: list[Step] = []
        self._around: list[Any] = []
        self._values: dict[int, tuple[Any, Value]] = {}  # of each symbolic tensor, which is kept alive
        self._symbols: dict[int, tuple[Any, _Symbol]] = {}  # of each variable
        self._specs: dict[Any, Any] = {}  # what layers put out for shapes that they have seen
        self._calls: dict[int, Callable[..., Any]] = {}  # of each layer that is looked into

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """In the block this thread's calls of layers and operations come here."""
        before = getattr(_THREAD, "tracer", None)
        _THREAD.tracer = self
        try:
            yield
        finally:
            _THREAD.tracer = before

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        _THREAD.tracer = None
        try:
            yield
        finally:
            _THREAD.tracer = self

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
        return Trace(self._model.name, self._steps, inputs, outputs, reason=reason, count=count)

    def _whole(self, layer: Any, data: Any = None) -> tuple[tuple[Value, ...], tuple[Value, ...], str | None]:
        """Call a layer on symbols of its inputs; what it is given, puts out, and why it could not be."""
        reason = "its inputs are not known"
        for arguments, options in arguments_for(layer, data):
            given = _mapped(self._symbolic, (list(arguments), options))
            inputs = tuple(self._value(tensor) for tensor in tree.flatten(given) if _is_symbol(tensor))
            for value in inputs:
                value.source = "input"
            try:
                found = self.called(layer, tuple(given[0]), given[1])
            except _Unseen as error:
                reason = str(error)
                continue
            outputs = tuple(self._value(tensor) for tensor in tree.flatten(found) if _is_symbol(tensor))
            return inputs, outputs, None
        self._note(layer, (), {}, (), opaque=reason)
        return (), (), reason

    def _parts(self, opaque: Iterable[Any], seen: set[int]) -> None:
        """Trace for itself what is inside of layers that could not be looked into."""
        for layer in opaque:
            seen.add(id(layer))
            self._around = [self._model] if layer is self._model else [self._model, layer]
            for child in layer._flatten_layers(include_self=False, recursive=False):
                if id(child) not in seen and _has_variables(child):
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
                elif id(child) not in seen and _has_variables(child):
                    seen.add(id(child))
                    self._whole(child)

        self._around = [self._model]
        go(self._model)
        self._around = []

    def called(self, layer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """What a layer puts out, as symbols."""
        arguments = tuple(_mapped(self._symbolic, item) for item in arguments)
        options = {key: _mapped(self._symbolic, item) for key, item in options.items()}
        for name, value in _required(type(layer).call)[len(arguments) :]:
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
            outputs, results = body(operation, *arguments, **options)
            return self._note(operation, (results,), {}, outputs)
        try:
            outputs = operation.compute_output_spec(*arguments, **options)
        except Exception:  # Keras' rule for einsum fails on some letters; the backend knows
            with self._paused():
                outputs = keras.Operation.compute_output_spec(operation, *arguments, **options)
        return self._note(operation, arguments, options, outputs)

    def _leaf(self, layer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        nest = (arguments, options)
        key = (id(layer), repr(_mapped(_shape_and_dtype, nest)))
        if key not in self._specs:
            try:
                found = _spec_of(layer, arguments, options)
            except Exception as error:  # whatever a layer's code may raise
                found = self._spec_otherwise(layer, arguments, options, _said(error))
            self._specs[key] = found
        return self._note(layer, arguments, options, self._specs[key])

    def _opened(self, layer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        start, depth = len(self._steps), len(self._around)
        self._around.append(layer)
        try:
            if id(layer) not in self._calls:
                self._calls[id(layer)] = self._call_of(layer)
            return self._calls[id(layer)](*arguments, **options)
        except Exception as error:  # whatever a layer's code may raise
            del self._steps[start:]
            reason = _said(error)
        finally:
            del self._around[depth:]
        outputs = self._spec_otherwise(layer, arguments, options, reason)
        return self._note(layer, arguments, options, outputs, opaque=reason)

    def _call_of(self, layer: Any) -> Callable[..., Any]:
        """The `call` of a layer as written, with symbols in the place of its variables."""
        if isinstance(layer, layers.TimeDistributed):
            return _over_time(layer)
        if isinstance(layer, keras.Sequential) and type(layer).call is keras.Sequential.call:
            layer = getattr(layer, "_functional", None) or layer
        twin = object.__new__(type(layer))
        # What Keras wraps around methods of an instance is bound to the layer itself.
        own = {name: item for name, item in vars(layer).items() if name not in ("call", "build", "quantize")}
        vars(twin).update({name: self._with_symbols(item) for name, item in own.items()})
        if hasattr(layer, "_convert_inputs_to_tensors"):
            vars(twin)["_convert_inputs_to_tensors"] = list
        vars(twin)["add_loss"] = lambda _loss: None  # which takes no symbols
        call: Callable[..., Any] = type(layer).call.__get__(twin)
        return call

    def _with_symbols(self, item: Any, depth: int = 4) -> Any:
        """An attribute with symbols in the place of variables, its containers copied."""
        if isinstance(item, keras.Variable):
            return self._symbol(item)
        if not depth:
            return item
        if isinstance(item, dict):
            kind = dict if type(item).__module__.startswith("keras.") else type(item)
            if kind in (dict, keras.tree.__dict__.get("OrderedDict", dict)):
                return {key: self._with_symbols(each, depth - 1) for key, each in item.items()}
            return item
        if isinstance(item, (list, set)):
            copy = [self._with_symbols(each, depth - 1) for each in item]
            return set(item) if isinstance(item, set) else copy
        if type(item) is tuple:
            return tuple(self._with_symbols(each, depth - 1) for each in item)
        return item

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
        for attempt in (_by_backend, _by_zeros):
            try:
                with self._paused():
                    found = attempt(layer, arguments, options)
                return _mapped(_fresh, found)
            except Exception:
                continue
        raise _Unseen(f"{layer.name}: {reason}")

    def _note(
        self, operation: Any, arguments: Any, options: Any, outputs: Any, opaque: str | None = None
    ) -> Any:
        """Write a step down; return its outputs as new symbols."""
        outputs = _mapped(self._unseen, outputs)
        positional = tuple(_mapped(self._as_value, item) for item in arguments)
        named = {key: _mapped(self._as_value, item) for key, item in options.items()}
        inputs = tuple(values_in((positional, named)))
        step = Step(operation, tuple(self._around), positional, named, inputs, (), opaque)
        flat = [outputs] if _is_symbol(outputs) else tree.flatten(outputs)
        found = [self._value(tensor) for tensor in flat if _is_symbol(tensor)]
        for value in found:
            value.step, value.source = step, "step"
        step.outputs = tuple(found)
        self._steps.append(step)
        return outputs

    def _unseen(self, item: Any) -> Any:
        """A symbol that no step has put out yet."""
        return item if _is_symbol(item) and id(item) not in self._values else _fresh(item)

    def _as_value(self, item: Any) -> Any:
        item = self._symbol(item) if isinstance(item, keras.Variable) else item
        return self._value(item) if _is_symbol(item) else item

    def _value(self, tensor: Any) -> Value:
        if id(tensor) not in self._values:
            shape = tuple(tensor.shape)
            self._values[id(tensor)] = tensor, Value(shape, tensor.dtype, "constant")
        return self._values[id(tensor)][1]

    def _symbol(self, variable: Any) -> _Symbol:
        if id(variable) not in self._symbols:
            symbol = _Symbol(variable)
            self._symbols[id(variable)] = variable, symbol
            value = self._value(symbol)
            value.variable, value.source = variable, "variable"
        return self._symbols[id(variable)][1]

    def _symbolic(self, item: Any) -> Any:
        """A symbol for a tensor or variable; all else as it is."""
        if isinstance(item, keras.Variable):
            return self._symbol(item)
        if _is_symbol(item) or not (ops.is_tensor(item) or type(item).__module__ == "numpy"):
            return item
        return _fresh(item) if hasattr(item, "shape") and hasattr(item, "dtype") else item


def is_leaf(layer: Any) -> bool:
    """Whether a layer is one of Keras' own, with no layers inside: a step as it is."""
    if isinstance(layer, (keras.Model, layers.Lambda)) or not is_keras_call(layer):
        return False
    return not layer._flatten_layers(include_self=False, recursive=False)


def is_keras_call(layer: Any) -> bool:
    """Whether what a layer computes is written in Keras."""
    return str(type(layer).call.__module__).startswith("keras.")


def _mapped(function: Callable[[Any], Any], nest: Any) -> Any:
    """A nest with a function of each leaf; quickly for what is none."""
    if nest is None or isinstance(nest, (keras.KerasTensor, bool, int, float, str)):
        return function(nest)
    return tree.map_structure(function, nest)


def _is_symbol(item: Any) -> bool:
    return isinstance(item, keras.KerasTensor)


def _fresh(item: Any) -> Any:
    """A new symbol like a tensor, symbolic or not; all else as it is."""
    if _is_symbol(item) or ops.is_tensor(item) or type(item).__module__ == "numpy":
        # A name keeps Keras from making one.
        return keras.KerasTensor(tuple(item.shape), keras.backend.standardize_dtype(item.dtype), name="_")
    return item


def _shape_and_dtype(item: Any) -> Any:
    return (item.shape, item.dtype) if _is_symbol(item) else item


def _said(error: BaseException) -> str:
    """Why something could not be traced: the innermost reason, on one line."""
    if isinstance(error, _Unseen):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f": {lines[0]}" if lines else ""
    return textwrap.shorten(f"{type(error).__name__}{text}", 160, placeholder=" …")


@functools.lru_cache(maxsize=1024)
def _required(call: Any) -> tuple[tuple[str, Any], ...]:
    """For each parameter of a call what Keras gives that has no default: whether it is training, and masks.

    A parameter that is to be given by the model itself has no name here.
    """
    try:
        parameters = list(inspect.signature(call).parameters.values())[1:]
    except (TypeError, ValueError):
        return ()
    given = [
        each.default is each.empty and (each.name == "training" or each.name.endswith("mask"))
        for each in parameters
    ]
    return tuple(
        (each.name if found else "", False if each.name == "training" else None)
        for each, found in zip(parameters, given, strict=True)
    )


def _over_time(layer: Any) -> Callable[..., Any]:
    """The call of a `TimeDistributed` layer: all steps of time at once, as more samples."""

    def call(inputs: Any, **_options: Any) -> Any:
        samples, steps, *rest = inputs.shape
        each = layer.layer(ops.reshape(inputs, (samples * steps, *rest)))
        return ops.reshape(each, (samples, steps, *each.shape[1:]))

    return call


def _flat_sizes(sizes: Any) -> list[Any]:
    """The shapes of the states of a cell."""
    if isinstance(sizes, int):
        return [sizes]
    return list(sizes)


def _spec_of(layer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What one of Keras' own layers puts out."""
    if isinstance(layer, SAME_SHAPE) and len(arguments) == 1 and _is_symbol(arguments[0]):
        return keras.KerasTensor(arguments[0].shape, layer.compute_dtype, name="_")
    if isinstance(layer, layers.EinsumDense):  # which says the sizes that it was built with
        shapes = arguments[0].shape, tuple(layer._kernel.shape)
        labels, output = einsum_labels(layer.equation, [len(shape) for shape in shapes])
        sizes = dict(zip((*labels[0], *labels[1]), (*shapes[0], *shapes[1]), strict=True))
        return keras.KerasTensor([sizes[label] for label in output], layer.compute_dtype, name="_")
    return layer.compute_output_spec(*arguments, **options)


def _by_backend(layer: Any, arguments: Any, options: Any) -> Any:
    return layer.compute_output_spec(*arguments, **options)


def _by_zeros(layer: Any, arguments: Any, options: Any) -> Any:
    def zeros(item: Any) -> Any:
        return ops.zeros(item.shape, item.dtype) if _is_symbol(item) else item

    return layer(
        *tree.map_structure(zeros, list(arguments)),
        **{key: tree.map_structure(zeros, item) for key, item in options.items()},
    )


def _has_variables(layer: Any) -> bool:
    return bool(layer.variables)


# The tracer of each thread that traces now, and who needs Keras' methods replaced.
_THREAD = threading.local()
_USERS: set[object] = set()
_ORIGINALS: dict[Any, tuple[str, Any]] = {}
_LOCK = threading.RLock()


def _layer_call(original: Any) -> Any:
    def __call__(self: Any, *arguments: Any, **options: Any) -> Any:  # noqa: N807 - in place of it
        tracer = getattr(_THREAD, "tracer", None)
        if tracer is None:
            return original(self, *arguments, **options)
        return tracer.called(self, arguments, options)

    return __call__


def _symbolic_call(original: Any) -> Any:
    def symbolic_call(self: Any, *arguments: Any, **options: Any) -> Any:
        tracer = getattr(_THREAD, "tracer", None)
        if tracer is None:
            return original(self, *arguments, **options)
        return tracer.operation(self, arguments, options)

    return symbolic_call


_REPLACED = ((layers.Layer, "__call__", _layer_call), (keras.Operation, "symbolic_call", _symbolic_call))


@contextlib.contextmanager
def _patched() -> Iterator[None]:
    """In the block calls of layers and operations ask whether their thread traces."""
    user = object()

    def put_back() -> None:
        with _LOCK:
            _USERS.discard(user)
            if not _USERS:
                for kind, (name, original) in _ORIGINALS.items():
                    setattr(kind, name, original)
                _ORIGINALS.clear()

    try:
        with _LOCK:
            _USERS.add(user)
            for kind, name, replacement in _REPLACED:
                if kind not in _ORIGINALS:
                    _ORIGINALS[kind] = name, vars(kind)[name]
                    setattr(kind, name, replacement(vars(kind)[name]))
        yield
    finally:
        try:
            put_back()
        except KeyboardInterrupt:  # from the start
            put_back()
            raise


@contextlib.contextmanager
def _untracked() -> Iterator[None]:
    """In the block Keras does not track what a layer's call sets as attributes."""
    global_state.set_global_attribute("tracking_on", False)
    yield  # `nothing_left` puts it back


@contextlib.contextmanager
def nothing_left(model: Any) -> Iterator[keras.StatelessScope]:
    """What calls and new layers leave in a thread, and in layers, is as before when the block ends.

    In the block variables keep their values, and new ones get none.
    """
    # Automatic names, the scope that variables change in, variables that wait for a value, how errors are
    # shown: Keras keeps it all for each thread apart.
    thread = vars(global_state.GLOBAL_STATE_TRACKER)
    before = dict(thread)
    every = model._flatten_layers()
    layers_before = [
        (vars(each), each._losses, list(each._losses), each._loss_ids, set(each._loss_ids), each.built)
        for each in every
    ]
    uncalled = [vars(each) for each in every if not each._called]

    def put_back() -> None:
        thread.update(before)
        for name in thread.keys() - before.keys():
            del thread[name]
        for attributes, losses, held, ids, known, built in layers_before:
            if len(losses) != len(held):
                losses[:] = held
            if len(ids) != len(known):
                ids.clear()
                ids.update(known)
            if attributes.get("built", built) != built:
                attributes["built"] = built
        for attributes in uncalled:
            attributes["_called"] = False

    try:
        thread["object_name_uids"] = before.get("object_name_uids", collections.defaultdict(int)).copy()
        thread["uninitialized_variables"] = []
        thread["traceback_filtering"] = False
        thread["stateless_scope"] = scope = keras.StatelessScope(initialize_variables=False)
        yield scope
    finally:
        try:
            put_back()
        except KeyboardInterrupt:  # from the start
            put_back()
            raise
