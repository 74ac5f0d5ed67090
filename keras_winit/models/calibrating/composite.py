"""Layers of more than one kernel: cells, gate by gate, and a user's own, operation by operation."""

import contextlib
import math
from typing import Any

import keras
from keras import layers, ops

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.calibrating.rescaling import TRACED, Rules, strides_of
from keras_winit.models.tracing.opening import BODIES
from keras_winit.models.tracing.trace import Call, Step, Value
from keras_winit.support.exact import moments
from keras_winit.support.host import is_traced


class RecurrentRescaler:
    """The hook for a recurrent layer, or a cell called by itself: rescales input kernels gate by gate.

    The input's share of a gate is measured over the whole sequence; recurrent kernels stay orthogonal.
    """

    def __init__(self, layer: Any, slots: list[Slot], rules: Rules):
        self._layer, self._rules = layer, rules
        self._open = {id(slot.layer): slot for slot in slots}

    def __call__(self, call: Any, inputs: Any, /, *arguments: Any, **options: Any) -> Any:
        slots, self._open = self._open, {}
        if slots and is_traced(inputs):
            self._rules.leave(slots.values(), TRACED)
        elif slots:
            if isinstance(self._layer, layers.RNN):
                signal, stack = inputs, getattr(self._layer.cell, "cells", [self._layer.cell])
            else:
                signal, stack = inputs[:, None], [self._layer]
            for index, each in enumerate(stack):
                if index:  # it reads the one before
                    signal = layers.RNN(stack[index - 1], return_sequences=True)(signal)
                if id(each) in slots:
                    self._rescale(slots[id(each)], signal)
        return call(inputs, *arguments, **options)

    def _rescale(self, slot: Slot, signal: Any) -> None:
        """Give a kernel's share of each gate the target's deviation."""
        kernel = ops.cast(slot.variable.value, signal.dtype)
        convolving = len(slot.shape) > 2
        if convolving:  # time becomes part of the batch
            signal = ops.reshape(signal, (-1, *signal.shape[2:]))
        multiply, strides = (ops.conv, strides_of(slot.layer)) if convolving else (ops.matmul, {})
        gates, size = [], slot.shape[-1] // slot.blocks
        for start in range(0, slot.blocks * size, size):
            gates.append(moments(multiply(signal, kernel[..., start : start + size], **strides)))
        still = next((found for found in gates if not found.varies), None)
        factors = None if still else [self._rules.target(slot) / found.std for found in gates]
        self._rules.settle(slot, [found.std for found in gates], factors, still.why_not if still else "")


def call_to_replay(anatomy: Anatomy, slots: list[Slot]) -> Call | None:
    """The first call of a layer whose kernels are all met by operations that can be done again."""
    call = anatomy.trace.first_call(slots[0].layer)
    if call is None or any(step.in_layer or step.kind in BODIES for step in call.steps):
        return None
    straight = all(slot.use is not None and not slot.use.bent for slot in slots)
    met = all(any(step in call.steps for step in anatomy.steps(slot)) for slot in slots)
    return call if straight and met else None


class Replayer:
    """The hook for a user's own layer: does its operations again, and rescales kernels as they are met."""

    def __init__(self, call: Call, anatomy: Anatomy, slots: list[Slot], rules: Rules) -> None:
        self._call, self._open, self._rules = call, list(slots), rules
        self._at: dict[int, list[Slot]] = {}
        for slot in slots:
            first = next(step for step in anatomy.steps(slot) if step in call.steps)
            self._at.setdefault(id(first), []).append(slot)

    def __call__(self, call: Any, /, *arguments: Any, **options: Any) -> Any:
        given = [item for item in keras.tree.flatten((arguments, options)) if ops.is_tensor(item)]
        if self._open and any(map(is_traced, given)):
            self._leave(TRACED)
        elif self._open:
            with contextlib.suppress(Exception):  # whatever operations raise
                self._replay(given)
            self._leave("the operations of its layer could not be done again one by one")
        return call(*arguments, **options)

    def _leave(self, reason: str) -> None:
        self._rules.leave(self._open, reason)
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
            arguments, options = keras.tree.map_structure(number, (list(step.arguments), step.options))
            operation = step.operation
            if step.kind == "ConvTranspose":  # its own `call` takes its padding for another argument
                options = {"output_padding": operation.output_padding, **strides_of(operation)}
                outputs = [ops.conv_transpose(*arguments, **options)]
            else:
                outputs = keras.tree.flatten(operation.call(*arguments, **options))
            if id(step) in self._at:
                outputs[0] = self._rescaled(step, outputs[0])
            numbers.update((id(value), out) for value, out in zip(step.outputs, outputs, strict=True))

    def _rescaled(self, step: Step, output: Any) -> Any:
        """What a step puts out by the kernels that give it the target's deviation."""
        slots = self._at[id(step)]
        self._open = [slot for slot in self._open if slot not in slots]
        normalized = self._rules.normalized(slots[0])
        found = normalized.moments(output)
        if self._rules.stay(slots, found, normalized):
            return output
        behind = max(abs(slot.use.behind) if slot.use else 1.0 for slot in slots)
        wanted = self._rules.target(slots[0]) / (found.std * behind)
        factor = min(wanted, *map(self._rules.most, slots))
        if not 0 < factor < math.inf:
            self._rules.leave(slots, found.why_not, found)
            return output
        product = [slot for slot in slots if slot.use is not None and slot.use.product]
        done, then = True, found.std * behind * factor
        for slot in slots:  # of a product of kernels each takes its share
            share = factor ** (1 / len(product)) if slot in product else factor
            done &= self._rules.settle(slot, [found.std * behind], [share], wanted=wanted, after=then)
        return output * ops.cast(factor, output.dtype) if done else output
