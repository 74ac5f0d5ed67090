"""What lies between a model's kernels: for each, whose units it reads, and who reads its own."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from keras import layers

from keras_winit.models.anatomy.following import graph_of
from keras_winit.models.anatomy.kinds import CONVOLUTIONS
from keras_winit.models.anatomy.passing import Signal, by_name, described, passed, readable, unknown
from keras_winit.models.anatomy.slots import Slot
from keras_winit.theory.activations import resolve
from keras_winit.theory.linearity import is_odd

INPUT = "the model's input"
OUTPUT = "the model's output"

_CONVOLUTIONS = {kind.call for kind in CONVOLUTIONS}


class Link(NamedTuple):
    """What a kernel reads: a signal, and how often the units of its source are repeated in it."""

    signal: Signal
    blocks: int


class Links:
    """Chains of kernels that read each other's units, each through one activation.

    Args:
        model: a functional or sequential model.
        kernels: the slots of the kernels that count; what goes to others goes nowhere.

    Raises:
        ValueError: for a model that does not tell how its layers are connected.

    Attributes:
        reads: what each kernel reads. Those that are not known to read units in a row are not here.
        readers: for each kernel, the kernels that read its units, each with what it reads.
        ends: why a kernel's units are not only read by kernels.
    """

    def __init__(self, model: Any, kernels: Iterable[Slot]) -> None:
        function = graph_of(model)
        if function is None:
            raise ValueError(
                "Only a functional or sequential model tells what feeds each of its layers. "
                f"Received: {getattr(model, 'name', model)!r} of type {type(model).__name__}. "
                "Give its layers `LooksLinear(activation)` themselves, or use `calibrate`."
            )
        self.reads: dict[Slot, Link] = {}
        self.readers: dict[Slot, list[tuple[Slot, Signal]]] = {}
        self.ends: dict[Slot, str] = {}
        self._last: dict[Slot, list[Any]] = {}  # the activations behind which a kernel's units are read
        self._kernels = {id(slot.layer): slot for slot in kernels if _reads_units(slot)}
        for signal in self._walk(function, [unknown(INPUT)] * len(function.inputs)):
            self._end(signal, OUTPUT)
        self._depths = self._lengths_of_chains()

    def goes_on(self, slot: Slot) -> bool:
        """Whether all that reads a kernel's units are kernels that can read twins."""
        return slot in self.readers and slot not in self.ends

    def goes_before(self, slot: Slot) -> bool:
        """Whether what a kernel reads are the units of one that goes on."""
        source = self.reads[slot].signal.source if slot in self.reads else None
        return source is not None and self.goes_on(source)

    def depth(self, slot: Slot) -> int:
        """The number of activations in the longest chain that hangs together with a kernel, at least one."""
        return self._depths[slot]

    def activation(self, slot: Slot) -> Any:
        """The one activation behind which all read a kernel's units; None for none, or several."""
        found = self._last.get(slot, [])
        return found[0] if found and all(each == found[0] for each in found) else None

    def start(self, slot: Slot) -> str:
        """Where the chain of a kernel begins, if it is the first."""
        signal = self.reads[slot].signal
        return signal.why if signal.source is None else self.ends.get(signal.source, "")

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
        if slot in self.reads:  # one kernel cannot suit two places
            why = f"{described(slot.layer)}, called more than once,"
            self._end(self.reads[slot].signal, why)
            self.ends[slot] = why
        elif not readable(signal.activation):
            why = f"{resolve(signal.activation).name}, which has no odd part,"
        elif blocks is None:
            why = f"{described(slot.layer)}, which reads another axis,"
        elif signal.units == 1 and not is_odd(signal.activation):
            why = "one unit, which has no twin,"
        else:
            self.readers.setdefault(signal.source, []).append((slot, signal))
            self._last.setdefault(signal.source, []).append(signal.activation)
        if why:
            self._end(signal, why)
        self.reads.setdefault(slot, Link(signal, blocks or 1))
        own = by_name(getattr(slot.layer, "activation", None))
        return Signal(slot, activation=own, axis=out_axis, units=int(after[out_axis]))

    def _end(self, signal: Signal, why: str) -> None:
        """Note that a kernel's units go where twins are of no use."""
        if signal.source is not None:
            self.ends.setdefault(signal.source, why)
            self._last.setdefault(signal.source, []).append(signal.activation)

    def _lengths_of_chains(self) -> dict[Slot, int]:
        """For each kernel, the number of activations in the longest chain that hangs together with it."""
        links = [
            (slot, reader) for slot in self.reads if self.goes_on(slot) for reader, _ in self.readers[slot]
        ]
        place = dict.fromkeys(self.reads, 0)
        for slot, reader in links:  # in the order of the graph
            place[reader] = max(place[reader], place[slot] + 1)
        longest, changed = {slot: max(1, count) for slot, count in place.items()}, True
        while changed:
            changed = False
            for slot, reader in (*links, *reversed(links)):
                if longest[slot] != longest[reader]:
                    longest[slot] = longest[reader] = max(longest[slot], longest[reader])
                    changed = True
        return longest


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
