"""Layers of more than one kernel: cells, gate by gate, and a user's own, operation by operation.

The operations of a user's own layer are done again, one by one, as they were traced: each of its kernels is
then measured where it meets the signal, however many there are.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import layers, ops

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.calibrating.rescaling import TRACED, Normalized, Settle, Target
from keras_winit.models.tracing.opening import BODIES
from keras_winit.models.tracing.trace import Call, Step, Value
from keras_winit.support.exact import Moments, moments
from keras_winit.support.host import is_traced


class RecurrentRescaler:
    """The hook for a recurrent layer: rescales the input kernels of its cells, gate by gate.

    What is measured is the input's share of a gate, over the whole sequence; recurrent kernels,
    which see the state, stay orthogonal.
    """

    def __init__(self, layer: Any, cells: list[tuple[Any, Slot]], target: Target, settle: Settle):
        self._layer = layer
        self._cells = cells
        self._target = target
        self._settle = settle

    def __call__(self, call: Any, sequence: Any, *arguments: Any, **options: Any) -> Any:
        """What the layer answers, by its rescaled kernels."""
        cells, self._cells = self._cells, []
        if cells and is_traced(sequence):
            for _, slot in cells:
                self._settle(slot, [None], None, TRACED)
            cells = []
        signal = sequence
        stack = getattr(self._layer.cell, "cells", [self._layer.cell]) if cells else []
        kernels = {id(cell): slot for cell, slot in cells}
        for index, cell in enumerate(stack):
            if id(cell) in kernels:
                rescale_gates(cell, kernels[id(cell)], signal, self._target, self._settle)
            if index + 1 < len(stack):  # what the next cell of a stack reads
                signal = layers.RNN(cell, return_sequences=True)(signal)
        return call(sequence, *arguments, **options)


class CellRescaler:
    """The hook for a recurrent cell that a model calls by itself, outside of a recurrent layer."""

    def __init__(self, slot: Slot, target: Target, settle: Settle):
        self._pending = [slot]
        self._target = target
        self._settle = settle

    def __call__(self, call: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        """What the cell answers, by its rescaled kernel."""
        if self._pending:
            slot = self._pending.pop()
            if is_traced(inputs):
                self._settle(slot, [None], None, TRACED)
            else:
                rescale_gates(slot.layer, slot, inputs[:, None], self._target, self._settle)
        return call(inputs, *arguments, **options)


def rescale_gates(cell: Any, slot: Slot, signal: Any, target: Target, settle: Settle) -> None:
    """Rescale each gate of a cell's input kernel so that its share of the gate has the target's deviation."""
    gates = list(_gates(cell, slot, signal))
    if all(found.varies for found in gates):
        settle(slot, [found.std for found in gates], [target(slot) / found.std for found in gates], "")
    else:
        still = next(found for found in gates if not found.varies)
        settle(slot, [found.std for found in gates], None, still.why_not)


def _gates(cell: Any, slot: Slot, signal: Any) -> Iterator[Moments]:
    kernel = ops.cast(slot.variable.value, signal.dtype)
    convolving = len(slot.shape) > 2
    if convolving:  # time becomes part of the batch
        signal = ops.reshape(signal, (-1, *signal.shape[2:]))
    for gate in range(slot.blocks):
        size = slot.shape[-1] // slot.blocks
        part = kernel[..., gate * size : (gate + 1) * size]
        yield moments(
            ops.conv(
                signal,
                part,
                strides=cell.strides,
                padding=cell.padding,
                data_format=cell.data_format,
                dilation_rate=cell.dilation_rate,
            )
            if convolving
            else ops.matmul(signal, part)
        )


_NOT_AGAIN = "the operations of its layer could not be done again one by one"


def call_to_replay(anatomy: Anatomy, slots: list[Slot]) -> Call | None:
    """The first call of a layer, if its kernels are all met by operations that can be done again."""
    call = anatomy.trace.first_call(slots[0].layer)
    if call is None or any(step.in_layer or step.kind in BODIES for step in call.steps):
        return None
    straight = all(slot.use is not None and not slot.use.bent for slot in slots)
    met = all(any(step in call.steps for step in anatomy.steps(slot)) for slot in slots)
    return call if straight and met else None


class Replayer:
    """The hook for one such layer: rescales its kernels when it is first called.

    Args:
        call: the call that was traced, with what the pass will call it with.
        anatomy: the model taken apart.
        slots: the kernels.
        target: which deviation each is to give.
        settle: what to tell of each.
        most: the largest factor on each.
        normalized: what divides by the size of a kernel's output at once, or None.
    """

    def __init__(
        self,
        call: Call,
        anatomy: Anatomy,
        *,
        slots: list[Slot],
        target: Target,
        settle: Settle,
        most: Callable[[Slot], float],
        normalized: Callable[[Slot], Normalized | None],
    ) -> None:
        self._call = call
        self._target, self._settle, self._most, self._normalized = target, settle, most, normalized
        self._open = list(slots)
        self._at: dict[int, list[Slot]] = {}
        for slot in slots:
            first = next(step for step in anatomy.steps(slot) if step in call.steps)
            self._at.setdefault(id(first), []).append(slot)

    def __call__(self, call: Any, *arguments: Any, **options: Any) -> Any:
        """What the layer answers, by its rescaled kernels."""
        given = [item for item in keras.tree.flatten((arguments, options)) if keras.ops.is_tensor(item)]
        if self._open and any(map(is_traced, given)):
            self._leave(TRACED)
        elif self._open:
            try:
                self._replay(given)
            except Exception:  # whatever an operation may raise that is given numbers
                self._leave(_NOT_AGAIN)
            self._leave(_NOT_AGAIN)
        return call(*arguments, **options)

    def _leave(self, reason: str) -> None:
        for slot in self._open:
            self._settle(slot, [None], None, reason)
        self._open.clear()

    def _replay(self, given: list[Any]) -> None:
        expected = self._call.inputs
        if [tuple(tensor.shape) for tensor in given] != [value.shape for value in expected]:
            return
        numbers = {id(value): tensor for value, tensor in zip(expected, given, strict=True)}

        def number(item: Any) -> Any:
            if not isinstance(item, Value):
                return item
            return item.variable.value if item.variable is not None else numbers[id(item)]

        for step in self._call.steps:
            arguments = keras.tree.map_structure(number, list(step.arguments))
            options = {key: keras.tree.map_structure(number, item) for key, item in step.options.items()}
            outputs = keras.tree.flatten(_compute(step, arguments, options))
            if id(step) in self._at:
                outputs[0] = self._rescaled(step, outputs[0])
            numbers.update((id(value), out) for value, out in zip(step.outputs, outputs, strict=True))

    def _rescaled(self, step: Step, output: Any) -> Any:
        """What a step puts out by the kernels that give it the target's deviation."""
        slots = self._at[id(step)]
        self._open = [slot for slot in self._open if slot not in slots]
        normalized = self._normalized(slots[0])
        found = moments(output) if normalized is None else normalized.moments(output)
        if normalized is not None and found.varies and found.std**2 <= normalized.most:
            for slot in slots:
                self._settle(slot, [found.std], None, normalized.reason, normalized=True)
            return output
        behind = max(abs(slot.use.behind) if slot.use else 1.0 for slot in slots)
        factor = self._target(slots[0]) / (found.std * behind) if found.varies else 0.0
        wanted, factor = factor, min(factor, *map(self._most, slots))
        if not 0 < factor < float("inf"):
            for slot in slots:
                self._settle(slot, [found.std], None, found.why_not)
            return output
        product = [slot for slot in slots if slot.use is not None and slot.use.product]
        done, then = True, found.std * behind * factor
        for slot in slots:  # of a product of kernels each takes its share
            share = factor ** (1 / len(product)) if slot in product else factor
            done = self._settle(slot, [found.std * behind], [share], "", wanted=wanted, after=then) and done
        return output * keras.ops.cast(factor, output.dtype) if done else output


def _compute(step: Step, arguments: list[Any], options: dict[str, Any]) -> Any:
    """What the operation of a step makes of numbers."""
    operation = step.operation
    if step.kind != "ConvTranspose":
        return operation.call(*arguments, **options)
    # Whose own `call` takes its padding for another argument.
    names = ("strides", "padding", "output_padding", "data_format", "dilation_rate")
    return keras.ops.conv_transpose(*arguments, **{name: getattr(operation, name) for name in names})
