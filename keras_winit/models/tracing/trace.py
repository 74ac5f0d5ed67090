"""The trace of a model: the operations of one call, in order."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from keras import layers, ops, tree

from keras_winit.support.checks import Shape
from keras_winit.support.printing import Printed, Table


@dataclass(eq=False, repr=False)
class Value:
    """A tensor without numbers.

    Attributes:
        source: a "step", an "input", a "variable", the "state" of a recurrent cell, or a "constant" that the
            model made by itself.
        readers: the steps that read it, in order.
    """

    shape: Shape
    dtype: str
    source: str
    step: "Step | None" = None
    variable: Any = None
    readers: list["Step"] = field(default_factory=list)

    def __repr__(self) -> str:
        """One line: readers read others in turn."""
        origin = f"step {self.step.index + 1}" if self.step else getattr(self.variable, "path", self.source)
        return f"<Value {_sizes(self)} of {self.dtype}, from {origin}>"


@dataclass(eq=False, repr=False)
class Step:
    """One operation.

    Attributes:
        operation: a layer of Keras without layers inside, a recurrent layer, an operation of `keras.ops`,
            or a layer that could not be looked into, where `opaque` says why.
        around: the layers around it, from the model inwards.
        arguments, options: what it is called with, a `Value` for each tensor.
        inputs: the values among these.
    """

    operation: Any
    around: tuple[Any, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    opaque: str | None = None
    index: int = 0

    def __repr__(self) -> str:
        return f"<Step {self.index + 1}: {self.place}, puts out {', '.join(map(_sizes, self.outputs))}>"

    @property
    def place(self) -> str:
        """The layers around it, without the model, and its own name."""
        own = self.operation.name if self.in_layer else self.kind.lower()
        return "/".join([*(layer.name for layer in self.around[1:]), own])

    @property
    def kind(self) -> str:
        """The name of its class."""
        return type(self.operation).__name__

    @property
    def described(self) -> str:
        """Its name and kind."""
        return f"{self.operation.name} ({self.kind})"

    @property
    def in_layer(self) -> bool:
        """Whether it is a layer."""
        return isinstance(self.operation, layers.Layer)

    @property
    def variables(self) -> tuple[Any, ...]:
        """The variables that it uses."""
        if self.in_layer:
            return tuple(self.operation.variables)
        return tuple(value.variable for value in self.inputs if value.variable is not None)


class Call(NamedTuple):
    """One call of a layer, looked into."""

    layer: Any
    inputs: tuple[Value, ...]
    steps: tuple[Step, ...]


class Trace(Printed):
    """The steps of one call of a model.

    What is inside an opaque step is traced for itself where that can be done: its steps follow, and
    read inputs that no step puts out.

    Args:
        name: the name of the model.
        steps: the steps in the order of the call.
        inputs: what the model is given.
        outputs: what it gives back.
        reason: why the model as a whole could not be traced, or None.
        count: how many of the steps are those of the model's own call; the rest is traced for itself.
        calls: the calls of layers that were looked into, in order.

    Example:

    >>> import keras
    >>> from keras_winit import trace
    >>> print(repr(trace(keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)], name="small"))))
    <Trace: 1 steps of 'small'>
    """

    def __init__(
        self,
        name: str,
        steps: Iterable[Step],
        inputs: Iterable[Value],
        outputs: Iterable[Value],
        *,
        reason: str | None = None,
        count: int | None = None,
        calls: Iterable[Call] = (),
    ) -> None:
        self.name = name
        self.steps, self.inputs, self.outputs = tuple(steps), tuple(inputs), tuple(outputs)
        self.reason = reason
        self._count = len(self.steps) if count is None else count
        self._calls = {id(call.layer): call for call in reversed(tuple(calls))}
        self._of: dict[int, list[Step]] = {}
        self._opened: set[int] = set()
        for index, step in enumerate(self.steps):
            step.index = index
            self._of.setdefault(id(step.operation), []).append(step)
            if step.opaque is None:
                self._opened.update(map(id, step.around))

    def of(self, operation: Any) -> list[Step]:
        """The steps of a layer or operation, in order."""
        return self._of.get(id(operation), [])

    def first_call(self, layer: Any) -> Call | None:
        """The first call of a layer that was looked into, or None."""
        return self._calls.get(id(layer))

    def is_open(self, layer: Any) -> bool:
        """Whether a layer's own call was looked into."""
        return id(layer) in self._opened and not any(step.opaque for step in self.of(layer))

    def is_lost(self, value: Value) -> bool:
        """Whether a value's readers are not seen, as it is put out by what is traced for itself."""
        return not value.readers and value.step is not None and value.step.index >= self._count

    def is_output(self, value: Value) -> bool:
        """Whether the model gives a value back."""
        return value in self.outputs

    @property
    def opaque(self) -> tuple[Step, ...]:
        """The steps that could not be looked into."""
        return tuple(step for step in self.steps if step.opaque)

    def _line(self) -> str:
        count = len(self.opaque)
        unseen = f", {count} of them not looked into" if count else ""
        whole = "" if self.reason is None else f"; not traced as a whole: {self.reason}"
        return f"{len(self.steps)} steps of {self.name!r}{unseen}{whole}"

    def to_dict(self) -> dict[str, Any]:
        """The rows of the table as dicts of strings, for JSON."""
        (table,) = self._tables()
        keys = (*table.headings[:-1], "note")
        steps = [dict(zip(keys, row, strict=True)) for row in table.rows]
        return {"name": self.name, "reason": self.reason, "steps": steps}

    def _tables(self) -> list[Table]:
        names: dict[int, str] = {id(value): f"input {index}" for index, value in enumerate(self.inputs)}
        rows = []
        for number, step in enumerate(self.steps, 1):
            for index, value in enumerate(step.outputs):
                names[id(value)] = str(number) + (f".{index}" if index else "")
            ends = "→ output" if any(map(self.is_output, step.outputs)) else ""
            row = (
                str(number),
                "/".join(layer.name for layer in step.around[1:]),
                step.operation.name if step.in_layer else "",
                step.kind,
                ", ".join(dict.fromkeys(_name(value, names) for value in step.inputs)),
                ", ".join(map(_sizes, step.outputs)),
                "; ".join(filter(None, (ends, step.opaque))),
            )
            rows.append(row)
        headings = ("step", "inside", "layer", "operation", "reads", "puts out", "")
        return [Table("Steps", headings, rows)]


def _sizes(value: Value) -> str:
    return "×".join(map(str, value.shape)) or "scalar"


def _name(value: Value, names: dict[int, str]) -> str:
    if value.variable is not None:
        return str(value.variable.path.rsplit("/", 1)[-1])
    return names.get(id(value), value.source)


def number_in(step: Step) -> float | None:
    """The one number, of any kind, that a step is given beside its values."""
    found = []
    for item in step.arguments:
        if isinstance(item, (int, float)):
            found.append(float(item))
        elif (isinstance(item, (np.ndarray, np.generic)) or ops.is_tensor(item)) and len(item.shape) == 0:
            # Keras cannot make an array of one bfloat16 of TensorFlow's.
            found.append(float(ops.convert_to_numpy(ops.cast(item, "float32"))))
    return found[0] if len(found) == 1 else None


def values_in(nest: Any) -> Iterator[Value]:
    """The values in a nest."""
    return (leaf for leaf in tree.flatten(nest) if isinstance(leaf, Value))
