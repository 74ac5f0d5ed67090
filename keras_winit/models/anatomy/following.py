"""The activation that follows a layer: its own, or the next one in the model's graph."""

from typing import Any

import keras
from keras import layers

from keras_winit.models.anatomy.kinds import (
    ACTIVATION_LAYERS,
    LINEAR,
    NORMALIZATIONS,
    PROPORTIONAL,
    PROPORTIONAL_OPERATIONS,
    TRANSPARENT,
    TRANSPARENT_OPERATIONS,
)
from keras_winit.models.anatomy.slots import Slot
from keras_winit.theory.activations import Activation, builtin_names, resolve

_NORMALIZING = {kind.call for kind in NORMALIZATIONS}


def graph_of(layer: Any) -> Any:
    """The functional model that a layer is, or runs as, or None."""
    function = getattr(layer, "_functional", None) if isinstance(layer, keras.Sequential) else layer
    return function if isinstance(function, keras.Model) and hasattr(function, "operations") else None


class Graph:
    """Which operation of a model reads another's output, through nested models."""

    def __init__(self, model: keras.layers.Layer) -> None:
        self._readers: dict[int, list[Any]] = {}
        self._after_nested: dict[int, Any] = {}
        self._first: dict[int, list[Any]] = {}
        self._shown: set[int] = set()  # operations whose outputs are not only read by those in `_readers`
        self._calls: dict[int, set[int]] = {}  # the nodes of each operation
        owners: dict[int, tuple[Any, list[Any]]] = {}
        for layer in model._flatten_layers():
            function = graph_of(layer)
            if function is not None:
                self._read(layer, function)
                owners.setdefault(id(function), (function, []))[1].append(layer)
        for function, models in owners.values():
            called = any(id(each) in self._calls for each in (function, *models))
            if not called or len(function.outputs) > 1:
                self._shown.update(id(tensor._keras_history.operation) for tensor in function.outputs)

    def _read(self, model: Any, function: Any) -> None:
        for nodes in function._nodes_by_depth.values():
            for node in nodes:
                self._calls.setdefault(id(node.operation), set()).add(id(node))
                for parent in node.parent_nodes:
                    self._readers.setdefault(id(parent.operation), []).append(node.operation)
        outputs = [tensor._keras_history.operation for tensor in function.outputs]
        inputs = [tensor._keras_history.operation for tensor in function.inputs]
        for place in {id(model): model, id(function): function}.values():
            self._first[id(place)] = inputs
        if len(outputs) == 1:
            self._after_nested[id(outputs[0])] = model

    def activation_after(self, slot: Slot) -> tuple[Activation, str]:
        """The activation that a slot's layer feeds, and how it was found."""
        if slot.variable.name == "depthwise_kernel":  # of a separable convolution
            return resolve(None), "the pointwise kernel follows"
        own = getattr(slot.layer, "activation", None)
        if own is not None and own is not keras.activations.linear:
            return resolve(own), "the layer's own activation"
        return self._search(self._outermost(slot))

    def _outermost(self, slot: Slot) -> Any:
        """The layer that the graph knows: a wrapped layer is called by its wrapper."""
        start = slot.layer
        for parent in reversed(slot.parents):
            if id(start) in self._readers or not isinstance(parent, (layers.Wrapper, layers.RNN)):
                break
            start = parent
        return start

    def normalizations_after(self, slot: Slot) -> list[Any]:
        """The normalizations that read all that a slot's layer puts out, before anything else does.

        In training the scale of its kernel then changes no output. Empty where anything else reads it,
        or a normalization that goes by what it has seen before, as a frozen one does.
        """
        layer, own = slot.layer, getattr(slot.layer, "activation", None)
        if slot.role != "kernel" or type(layer).call not in LINEAR:
            return []
        start = self._outermost(slot)
        wrapped = start is not layer and not isinstance(start, layers.TimeDistributed)
        if wrapped or (own is not None and own is not keras.activations.linear):
            return []
        found: dict[int, Any] = {}
        queue, seen = [start], set()
        while queue:
            operation = queue.pop(0)
            if id(operation) in seen:
                continue
            seen.add(id(operation))
            if isinstance(operation, NORMALIZATIONS):
                if not self._goes_by_what_it_reads(operation):
                    return []
                found[id(operation)] = operation
                continue
            inner = self._first.get(id(operation), [])
            passes = operation is start or inner or isinstance(operation, PROPORTIONAL)
            if not (passes or type(operation).__name__ in PROPORTIONAL_OPERATIONS):
                return []
            after = inner or self._next(operation)
            if not after or (not inner and self._is_shown(operation)):
                return []
            queue += after
        return list(found.values())

    def _goes_by_what_it_reads(self, normalization: Any) -> bool:
        """Whether it is one of Keras' own, called once, that takes the statistics of what it is given."""
        if type(normalization).call not in _NORMALIZING or len(self._calls[id(normalization)]) > 1:
            return False
        batch = isinstance(normalization, layers.BatchNormalization)
        return not batch or (normalization.trainable and not normalization.renorm)

    def _is_shown(self, operation: Any) -> bool:
        """Whether an operation's output is also seen outside of the model."""
        nested = self._after_nested.get(id(operation))
        around = nested is not None and nested is not operation and self._is_shown(nested)
        return id(operation) in self._shown or around

    def is_gate(self, slot: Slot) -> bool:
        """Whether what a slot's layer puts out, between zero and one, multiplies another signal."""
        if self.activation_after(slot)[0].name not in ("sigmoid", "hard_sigmoid"):
            return False
        queue, seen = self._next(self._outermost(slot)), set()
        while queue:
            operation = queue.pop(0)
            if id(operation) in seen:
                continue
            seen.add(id(operation))
            if isinstance(operation, layers.Multiply) or type(operation).__name__ == "Multiply":
                return True
            passes = isinstance(operation, (*TRANSPARENT, *ACTIVATION_LAYERS))
            if passes or type(operation).__name__ in TRANSPARENT_OPERATIONS:
                queue += self._next(operation)
        return False

    def _search(self, start: Any) -> tuple[Activation, str]:
        queue, seen = self._next(start), set()
        while queue:
            operation = queue.pop(0)
            if id(operation) in seen:
                continue
            seen.add(id(operation))
            found = _activation_of(operation)
            if found is not None:
                return found, f"{operation.name} follows"
            if id(operation) in self._first:
                queue = [*self._first[id(operation)], *queue]
            elif isinstance(operation, TRANSPARENT) or type(operation).__name__ in TRANSPARENT_OPERATIONS:
                queue = [*self._next(operation), *queue]
        return resolve(None), "no activation follows"

    def _next(self, operation: Any) -> list[Any]:
        """The readers of an operation's output, or of the nested model's whose output it is."""
        readers = list(self._readers.get(id(operation), []))
        nested = self._after_nested.get(id(operation))
        if nested is not None and nested is not operation:
            readers += self._next(nested)
        return readers


def _activation_of(operation: Any) -> Activation | None:
    """The activation that an operation of the graph is, or None."""
    if isinstance(operation, ACTIVATION_LAYERS):
        return resolve(operation)
    if isinstance(operation, layers.Layer):
        return None
    name = type(operation).__name__.lower()  # an operation of keras.ops, such as Relu
    matches = [known for known in builtin_names() if known.replace("_", "") == name]
    return resolve(matches[0]) if matches else None
