"""Looking linear as a whole model: which kernels have twins, and what each of them reads."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from keras import layers

from keras_winit.activations import resolve
from keras_winit.models.following import graph_of
from keras_winit.models.passing import Signal, by_name, described, passed, readable, unknown
from keras_winit.models.slots import Slot
from keras_winit.odd_part import is_odd, linear_variance
from keras_winit.schemes.looks_linear import LooksLinear

# The variance of what the model puts out at the start is this by the number of layers, and at most
# 1: a step of training moves the outputs of a network by what all its layers learn together.
# Measured: tests/benchmarks/trainability.py.
_OUTPUT_VARIANCE_IN_ALL = 10
_OUTPUT = "the model's output"
_INPUT = "the model's input"

_MATRICES = {layers.Dense.call, layers.EinsumDense.call}
_CONVOLUTIONS = {layers.Conv1D.call, layers.Conv2D.call, layers.Conv3D.call}


class _Link(NamedTuple):
    """What a kernel reads: a signal, and how often the units of its source are repeated in it."""

    signal: Signal
    blocks: int


class Mirroring:
    """Which kernels of a functional or sequential model are to have twins, by what lies between them.

    Args:
        model: the model.
        kernels: the slots of the kernels that are to be drawn so.

    Raises:
        ValueError: for a model that does not tell how its layers are connected.
    """

    def __init__(self, model: Any, kernels: Iterable[Slot]) -> None:
        function = graph_of(model)
        if function is None:
            raise ValueError(
                "looks_linear has to know what feeds each layer, which only functional and sequential models "
                f"tell. Received: {getattr(model, 'name', model)!r} of type {type(model).__name__}. "
                "Give its layers `LooksLinear(activation)` themselves, or use `calibrate`."
            )
        self._kernels = {id(slot.layer): slot for slot in kernels if _reads_units(slot)}
        self._reads: dict[Slot, _Link] = {}
        self._readers: dict[Slot, list[tuple[Slot, Signal]]] = {}
        self._ends: dict[Slot, str] = {}  # why a kernel is to have no twins
        for signal in self._walk(function, [unknown(_INPUT)] * len(function.inputs)):
            self._end(signal, _OUTPUT)
        self._depths = self._lengths_of_chains()
        # A chain's variances follow from its length.
        self._variances = {
            slot: min(
                linear_variance(signal.activation, self._depths[slot]) for _, signal in self._readers[slot]
            )
            for slot in self._reads
            if self._goes_on(slot)
        }

    def scheme(self, slot: Slot) -> tuple[LooksLinear | None, str]:
        """The scheme for a kernel, None where it has nothing to pair, and the reason."""
        if slot not in self._reads:
            return None, "nothing to mirror: what it reads is not known to be units in a row"
        signal, blocks = self._reads[slot]
        linked, goes_on = self._linked(signal), self._goes_on(slot)
        start = self._start(signal)
        end = self._ends.get(slot, "nothing")
        if not linked and not goes_on:
            return None, f"nothing to mirror between {start} and {end}"
        reads_twins = linked and self._has_twins(signal.source)
        has_twins = goes_on and self._has_twins(slot)
        activation = signal.activation if readable(signal.activation) else None
        scheme = LooksLinear(
            activation,
            {(True, True): "both", (True, False): "inputs", (False, True): "outputs"}.get(
                (reads_twins, has_twins), "none"
            ),
            variance=self._variances[slot] if goes_on else self._end_variance(slot, end),
            input_variance=self._variances[signal.source] if linked else 1.0,
            input_blocks=blocks if linked else 1,
        )
        units, name = "twins" if reads_twins else "units", resolve(activation).name
        before = f"reads {units} through {name}" if linked else f"afresh after {start}"
        after = "twins" if has_twins else "no twins, for what follows is odd" if goes_on else f"then {end}"
        return scheme, f"{before}; {after}"

    def _walk(self, function: Any, inputs: list[Signal]) -> list[Signal]:
        """The signals of a graph's outputs, every kernel on the way noted."""
        signals = {id(tensor): signal for tensor, signal in zip(function.inputs, inputs, strict=True)}
        for depth in sorted(function._nodes_by_depth, reverse=True):
            for node in function._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                tensors = node.arguments.keras_tensors
                found = self._through(node, [signals[id(tensor)] for tensor in tensors], tensors)
                signals.update({id(out): signal for out, signal in zip(node.outputs, found, strict=True)})
        return [signals[id(tensor)] for tensor in function.outputs]

    def _through(self, node: Any, signals: list[Signal], tensors: list[Any]) -> list[Signal]:
        operation, inner = node.operation, graph_of(node.operation)
        why = described(operation)
        if inner is not None and len(signals) == len(inner.inputs) == 1:
            return self._walk(inner, signals)
        if inner is None and len(signals) == 1 and len(node.outputs) == 1:
            (signal,), before, after = signals, tensors[0].shape, node.outputs[0].shape
            if id(operation) in self._kernels:
                return [self._read(self._kernels[id(operation)], signal, before, after)]
            result = passed(operation, signal, before, after)
            if result.source is not signal.source:
                self._end(signal, result.why)
            return [result]
        for signal in signals:
            self._end(signal, why)
        if inner is not None:
            return self._walk(inner, [unknown(why)] * len(inner.inputs))
        return [unknown(why)] * len(node.outputs)

    def _read(self, slot: Slot, signal: Signal, before: Any, after: Any) -> Signal:
        """Note that a kernel reads a signal; return what it puts out."""
        in_axis, out_axis = _axes(slot, len(before), len(after))
        blocks = signal.blocks(before, in_axis) if signal.source else None
        why = None
        if slot in self._reads:  # one kernel cannot suit two places
            why = f"{described(slot.layer)}, called more than once,"
            self._end(self._reads[slot].signal, why)
            self._ends[slot] = why
        elif not readable(signal.activation):
            why = f"{resolve(signal.activation).name}, which has no odd part,"
        elif blocks is None:
            why = f"{described(slot.layer)}, which reads another axis,"
        elif signal.units == 1 and not is_odd(signal.activation):
            why = "one unit, which has no twin,"
        else:
            self._readers.setdefault(signal.source, []).append((slot, signal))
        if why:
            self._end(signal, why)
        self._reads.setdefault(slot, _Link(signal, blocks or 1))
        own = by_name(getattr(slot.layer, "activation", None))
        return Signal(slot, activation=own, axis=out_axis, units=int(after[out_axis]))

    def _end(self, signal: Signal, why: str) -> None:
        """Note that a kernel's units go where twins are of no use."""
        if signal.source is not None:
            self._ends.setdefault(signal.source, why)

    def _goes_on(self, slot: Slot) -> bool:
        """Whether all that reads a kernel's units are kernels that can read twins."""
        return slot in self._readers and slot not in self._ends

    def _linked(self, signal: Signal) -> bool:
        return signal.source is not None and self._goes_on(signal.source)

    def _has_twins(self, slot: Slot) -> bool:
        return any(not is_odd(signal.activation) for _, signal in self._readers[slot])

    def _end_variance(self, slot: Slot, end: str) -> float:
        return min(1.0, _OUTPUT_VARIANCE_IN_ALL / self._depths[slot]) if end == _OUTPUT else 1.0

    def _start(self, signal: Signal) -> str:
        if signal.source is None:
            return signal.why
        return self._ends.get(signal.source, "")

    def _lengths_of_chains(self) -> dict[Slot, int]:
        """For each kernel that goes on, the number of activations in the longest chain through it."""
        order = list(self._reads)
        before = dict.fromkeys(order, 0)
        after = dict.fromkeys(order, 0)
        links = [(slot, reader) for slot in order if self._goes_on(slot) for reader, _ in self._readers[slot]]
        for slot, reader in links:
            before[reader] = max(before[reader], before[slot] + 1)
        for slot, reader in reversed(links):
            after[slot] = max(after[slot], after[reader] + 1)
        return {slot: max(1, before[slot] + after[slot]) for slot in order}


def _reads_units(slot: Slot) -> bool:
    """Whether a kernel is a matrix from the units that it reads to those that it puts out."""
    call, layer = type(slot.layer).call, slot.layer
    if slot.role != "kernel" or slot.kept:
        return False
    if call is layers.EinsumDense.call:
        return _einsum_axes(layer) is not None
    return call is layers.Dense.call or (call in _CONVOLUTIONS and layer.groups == 1)


def _axes(slot: Slot, before: int, after: int) -> tuple[int, int]:
    """The axis that a kernel's layer reads along, and the one that its units are on."""
    layer = slot.layer
    if isinstance(layer, layers.EinsumDense):
        inward, outward = _einsum_axes(layer) or (1, 1)
        return before - inward, after - outward
    if getattr(layer, "data_format", None) == "channels_first":
        return 1, 1
    return before - 1, after - 1


def _einsum_axes(layer: Any) -> tuple[int, int] | None:
    """The axes that an einsum contracts and makes, from the end; None where there are more than one."""
    inputs, kernel, outputs = re.split(r",|->", re.sub(r"\s|\.\.\.", "", layer.equation))
    contracted = [letter for letter in kernel if letter in inputs and letter not in outputs]
    made = [letter for letter in kernel if letter in outputs and letter not in inputs]
    if len(contracted) != 1 or len(made) != 1 or len(kernel) != 2:
        return None
    dotted = layer.equation.replace(" ", "")
    ends = "..." not in dotted or dotted.startswith("...")
    if not ends:
        return None
    return len(inputs) - inputs.index(contracted[0]), len(outputs) - outputs.index(made[0])
