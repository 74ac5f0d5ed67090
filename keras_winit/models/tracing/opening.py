"""Look into a layer or a loop: run its code on symbols."""

import collections
import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops, tree

from keras_winit.models.tracing.kinds import SAME_SHAPE
from keras_winit.models.tracing.structure import inside
from keras_winit.theory.fans import einsum_labels


class VariableSymbol(keras.KerasTensor):
    """A symbol in the place of a variable."""

    def __init__(self, variable: Any) -> None:
        dtype = keras.backend.standardize_dtype(variable.dtype)
        super().__init__(tuple(variable.shape), dtype, name=variable.name)
        self.path, self.trainable = variable.path, variable.trainable

    @property
    def value(self) -> "VariableSymbol":
        """Itself."""
        return self

    def assign(self, value: Any) -> Any:
        """A trace changes no variable."""
        return value

    assign_add = assign_sub = assign


def mapped(function: Callable[[Any], Any], nest: Any) -> Any:
    """A nest with a function of each leaf, fast for a single one."""
    if nest is None or isinstance(nest, (keras.KerasTensor, bool, int, float, str)):
        return function(nest)
    return tree.map_structure(function, nest)


def is_symbol(item: Any) -> bool:
    """Whether it is a tensor without numbers."""
    return isinstance(item, keras.KerasTensor)


def fresh(item: Any) -> Any:
    """A new symbol like a tensor or symbol; all else as it is."""
    if is_symbol(item) or ops.is_tensor(item) or isinstance(item, np.ndarray):
        dtype = keras.backend.standardize_dtype(item.dtype)
        return keras.KerasTensor(tuple(item.shape), dtype, name="_")  # else Keras makes one
    return item


def _first(elements: Any) -> Any:
    return tree.map_structure(lambda tensor: tensor[0], elements)


def _stacked(count: int, results: Any) -> Any:
    return tree.map_structure(lambda each: keras.KerasTensor((count, *each.shape), each.dtype), results)


def _length(elements: Any) -> int:
    return int(tree.flatten(elements)[0].shape[0])


def _map(_operation: Any, function: Any, elements: Any) -> tuple[Any, Any]:
    results = function(_first(elements))
    return _stacked(_length(elements), results), results


def _scan(
    operation: Any, function: Any, init: Any, elements: Any = None, length: Any = None
) -> tuple[Any, Any]:
    count = length or operation.length if elements is None else _length(elements)  # as Keras 3.10 has it
    carry, results = function(init, None if elements is None else _first(elements))
    return (carry, _stacked(count, results)), (carry, results)


def _cond(_operation: Any, _condition: Any, true: Any, false: Any) -> tuple[Any, Any]:
    results = true()
    return results, (results, false())


def _switch(_operation: Any, _index: Any, branches: Any, *operands: Any) -> tuple[Any, Any]:
    results = [branch(*operands) for branch in branches]
    return results[0], results


# For an operation and what it is given: what it puts out, and what its body does, as symbols.
BODIES: dict[str, Callable[..., tuple[Any, Any]]] = {
    "Map": _map,
    "VectorizedMap": lambda operation, elements: _map(operation, operation.function, elements),
    "Scan": _scan,
    "AssociativeScan": lambda _operation, function, elements, *_: (elements, function(elements, elements)),
    "WhileLoop": lambda operation, variables: (variables, operation.body(*variables)),
    "ForiLoop": lambda operation, initial: (initial, operation.body_fun(operation.lower, initial)),
    "Cond": _cond,
    "Switch": _switch,
}


# Most attributes are of these classes.
_NUMBERS_AND_NAMES = {type(None), bool, int, float, str}
# Packages whose objects are not copied.
_OTHERS = {"builtins", "keras", "tensorflow", "jax", "jaxlib", "torch", "numpy", "threading", "types", "enum"}


def is_leaf(layer: Any) -> bool:
    """Whether a layer is one of Keras' own, with no layers inside."""
    return not isinstance(layer, (keras.Model, layers.Lambda)) and is_keras_call(layer) and not inside(layer)


def is_keras_call(layer: Any) -> bool:
    """Whether what a layer computes is written in Keras."""
    return str(type(layer).call.__module__).startswith("keras.")


def opened(layer: Any, symbol: Callable[[Any], Any]) -> Callable[..., Any]:
    """The `call` of a layer as written, on symbols in the place of its variables."""
    if isinstance(layer, layers.TimeDistributed):
        return _over_time(layer)
    if isinstance(layer, keras.Sequential) and type(layer).call is keras.Sequential.call:
        layer = getattr(layer, "_functional", None) or layer
    twin = object.__new__(type(layer))
    # What Keras wraps around methods of an instance is bound to the layer itself.
    own = {name: item for name, item in vars(layer).items() if name not in ("call", "build", "quantize")}
    vars(twin).update({name: _with_symbols(item, symbol) for name, item in own.items()})
    if hasattr(layer, "_convert_inputs_to_tensors"):
        vars(twin)["_convert_inputs_to_tensors"] = list
    vars(twin)["add_loss"] = lambda _loss: None  # which takes no symbols
    call: Callable[..., Any] = type(layer).call.__get__(twin)
    return call


def _with_symbols(item: Any, symbol: Callable[[Any], Any], depth: int = 4) -> Any:
    """An attribute, its containers copied, with symbols in the place of variables."""
    if type(item) in _NUMBERS_AND_NAMES:
        return item
    if isinstance(item, keras.Variable):
        return symbol(item)
    if not depth:
        return item

    def inner(each: Any) -> Any:
        return _with_symbols(each, symbol, depth - 1)

    if isinstance(item, dict):  # one with a default for what is missing keeps it
        copy = dict(item) if type(item).__module__.startswith("keras.") else item.copy()
        copy.update((key, inner(each)) for key, each in item.items())
        return copy
    if isinstance(item, list):
        return [inner(each) for each in item]
    if isinstance(item, set):
        return set(item)
    if isinstance(item, tuple):
        each_one = [inner(each) for each in item]
        kind = item.__class__  # TensorFlow wraps it, and says so only by its type
        return kind._make(each_one) if hasattr(kind, "_make") else tuple(each_one)
    if isinstance(item, collections.deque):
        return collections.deque((inner(each) for each in item), item.maxlen)
    foreign = str(type(item).__module__).partition(".")[0] in _OTHERS
    if foreign or not hasattr(item, "__dict__") or callable(item):
        return item
    try:  # a user's own object, in which the call may leave something
        copy = object.__new__(type(item))
        vars(copy).update({name: inner(each) for name, each in vars(item).items()})
        return copy
    except Exception:  # of a class that cannot be made so
        return item


@functools.lru_cache(maxsize=1024)
def required(call: Any) -> tuple[tuple[int, str, Any], ...]:
    """What Keras gives where there is no default, as (place, name, value): training, and masks."""
    try:
        parameters = list(inspect.signature(call).parameters.values())[1:]
    except (TypeError, ValueError):
        return ()
    return tuple(
        (place, each.name, False if each.name == "training" else None)
        for place, each in enumerate(parameters)
        if each.default is each.empty and (each.name == "training" or each.name.endswith("mask"))
    )


def _over_time(layer: Any) -> Callable[..., Any]:
    """The call of a `TimeDistributed` layer: steps of time as more samples."""

    def call(inputs: Any, **_options: Any) -> Any:
        samples, steps, *rest = inputs.shape
        each = layer.layer(ops.reshape(inputs, (samples * steps, *rest)))
        return ops.reshape(each, (samples, steps, *each.shape[1:]))

    return call


def spec_of(layer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What a layer of Keras puts out."""
    if isinstance(layer, SAME_SHAPE) and len(arguments) == 1 and is_symbol(arguments[0]):
        return keras.KerasTensor(arguments[0].shape, layer.compute_dtype, name="_")
    if isinstance(layer, layers.EinsumDense):  # which says the sizes that it was built with
        shapes = arguments[0].shape, tuple(layer._kernel.shape)
        labels, output = einsum_labels(layer.equation, [len(shape) for shape in shapes])
        sizes = dict(zip((*labels[0], *labels[1]), (*shapes[0], *shapes[1]), strict=True))
        return keras.KerasTensor([sizes[label] for label in output], layer.compute_dtype, name="_")
    return layer.compute_output_spec(*arguments, **options)


def by_zeros(layer: Any, /, *arguments: Any, **options: Any) -> Any:
    """What a layer puts out for real zeros."""

    def zeros(item: Any) -> Any:
        return ops.zeros(item.shape, item.dtype) if is_symbol(item) else item

    positional, named = tree.map_structure(zeros, (list(arguments), options))
    return layer(*positional, **named)
