"""How recurrent layers and cells are rescaled while they are called: input kernels, gate by gate."""

from collections.abc import Iterator
from typing import Any

from keras import layers, ops

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.calibrating.rescaling import TRACED, Settle, Target
from keras_winit.models.running.moments import Moments, moments
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
