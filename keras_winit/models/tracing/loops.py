"""The bodies of loops and branches of `keras.ops`, each run once on symbols.

A body takes the operation and what it is called with, and returns what the operation puts out and what
the body did, as symbols.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import tree


def _first(elements: Any) -> Any:
    return tree.map_structure(lambda tensor: tensor[0], elements)


def _stacked(count: int, results: Any) -> Any:
    return tree.map_structure(lambda each: keras.KerasTensor((count, *each.shape), each.dtype), results)


def _length(elements: Any) -> int:
    return int(tree.flatten(elements)[0].shape[0])


def _map(_operation: Any, function: Any, elements: Any) -> tuple[Any, Any]:
    results = function(_first(elements))
    return _stacked(_length(elements), results), results


def _vectorized_map(operation: Any, elements: Any) -> tuple[Any, Any]:
    return _map(operation, operation.function, elements)


def _scan(
    operation: Any, function: Any, init: Any, elements: Any = None, length: Any = None
) -> tuple[Any, Any]:
    count = length or operation.length if elements is None else _length(elements)  # as Keras 3.10 has it
    carry, results = function(init, None if elements is None else _first(elements))
    return (carry, _stacked(count, results)), (carry, results)


def _associative_scan(_operation: Any, function: Any, elements: Any, *_: Any) -> tuple[Any, Any]:
    return elements, function(elements, elements)


def _while_loop(operation: Any, variables: Any) -> tuple[Any, Any]:
    results = operation.body(*variables)
    return variables, results


def _fori_loop(operation: Any, initial: Any) -> tuple[Any, Any]:
    return initial, operation.body_fun(operation.lower, initial)


def _cond(_operation: Any, _condition: Any, true: Any, false: Any) -> tuple[Any, Any]:
    results = true()
    return results, (results, false())


def _switch(_operation: Any, _index: Any, branches: Any, *operands: Any) -> tuple[Any, Any]:
    results = [branch(*operands) for branch in branches]
    return results[0], results


BODIES: dict[str, Callable[..., tuple[Any, Any]]] = {
    "Map": _map,
    "VectorizedMap": _vectorized_map,
    "Scan": _scan,
    "AssociativeScan": _associative_scan,
    "WhileLoop": _while_loop,
    "ForiLoop": _fori_loop,
    "Cond": _cond,
    "Switch": _switch,
}
