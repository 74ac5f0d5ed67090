"""What lies between a model's kernels: for each, whose units it reads, and who reads its own."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from keras import layers

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.passing import Signal, by_name, passed, readable, unknown
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.kinds import CONVOLUTIONS
from keras_winit.models.tracing.trace import Step, Value
from keras_winit.theory.activations import resolve
from keras_winit.theory.fans import einsum_labels
from keras_winit.theory.linearity import is_odd, linear_variance

INPUT = "the model's input"
OUTPUT = "the model's output"

_CONVOLUTIONS = {kind.call for kind in CONVOLUTIONS}


class Link(NamedTuple):
    """What a kernel reads: a signal, and how often the units of its source are repeated in it."""

    signal: Signal
    blocks: int


class Chain(NamedTuple):
    """Kernels that hang together: how many activations are in a row, and whether all are odd curves."""

    depth: int
    curved: bool


class Links:
    """Chains of kernels that read each other's units, each through one activation.

    Only the given kernels count: what goes to others goes nowhere.

    Raises:
        ValueError: for a model that could not be traced.
    """

    def __init__(self, anatomy: Anatomy, kernels: Iterable[Slot]) -> None:
        trace = anatomy.trace
        if trace.reason is not None:
            raise ValueError(
                f"What feeds each layer of {trace.name!r} is not seen: {trace.reason}. "
                "Give its layers `LooksLinear(activation)` themselves, or use `calibrate`."
            )
        self.reads: dict[Slot, Link] = {}  # of each kernel that is known to read units in a row
        self.readers: dict[Slot, list[tuple[Slot, Signal]]] = {}  # of a kernel, with what each reads
        self.ends: dict[Slot, str] = {}  # why a kernel's units are not only read by kernels
        self._last: dict[Slot, list[Any]] = {}  # the activations behind which a kernel's units are read
        self._anatomy = anatomy
        units = filter(_reads_units, kernels)
        self._kernels = {step: slot for slot in units for step in anatomy.steps(slot)}
        self._signals = dict.fromkeys(trace.inputs, unknown(INPUT))
        for step in trace.steps:
            self._go_through(step)
        for value in trace.outputs:
            self._end(self._signal(value), OUTPUT)
        self._before: dict[Slot, int] = {}
        self._firsts: dict[Slot, Slot] = {}  # of the chain that each kernel is in
        self._chains = self._find_chains()

    def goes_on(self, slot: Slot) -> bool:
        """Whether all that reads a kernel's units are kernels that can read twins."""
        return slot in self.readers and slot not in self.ends

    def goes_before(self, slot: Slot) -> bool:
        """Whether what a kernel reads are the units of one that goes on."""
        source = self.reads[slot].signal.source if slot in self.reads else None
        return source is not None and self.goes_on(source)

    def chain(self, slot: Slot) -> Chain:
        """The chain that hangs together with a kernel."""
        return self._chains[self._firsts[slot]]

    def place(self, slot: Slot) -> int:
        """The number of activations before a kernel in its chain."""
        return self._before[slot]

    def activation(self, slot: Slot) -> Any:
        """The one activation behind which all read a kernel's units, or None."""
        found = self._last.get(slot, [])
        return found[0] if found and all(each == found[0] for each in found) else None

    def start(self, slot: Slot) -> str:
        """Where the chain of a kernel begins, if it is the first."""
        signal = self.reads[slot].signal
        return signal.why if signal.source is None else self.ends.get(signal.source, "")

    def _signal(self, value: Value) -> Signal:
        return self._signals.get(value) or unknown(f"a {value.source} of the model's own")

    def _go_through(self, step: Step) -> None:
        """Note the signals of what a step puts out."""
        given = [value for value in step.inputs if step.in_layer or self._anatomy.uses.is_signal(value)]
        if len(given) == 1 and len(step.outputs) == 1 and not step.opaque:
            result = self._through(step, given[0])
        else:
            result = unknown(step.described)
            for value in given:
                self._end(self._signal(value), step.described)
        self._signals.update(dict.fromkeys(step.outputs, result))

    def _through(self, step: Step, given: Value) -> Signal:
        signal, of = self._signal(given), self._anatomy.uses.of
        if step in self._kernels:
            return self._read(self._kernels[step], step, given, signal)
        uses = [use for value in step.inputs for use in of(value.variable)] if step.kind == "Add" else []
        if uses and all(use.role == "bias" for use in uses if use.step is step):
            return signal
        result = passed(step, signal, given.shape, step.outputs[0].shape)
        if result.source is not signal.source:
            self._end(signal, result.why)
        return result

    def _read(self, slot: Slot, step: Step, given: Value, signal: Signal) -> Signal:
        """Note that a kernel reads a signal; return what it puts out."""
        before, after = given.shape, step.outputs[0].shape
        uses = self._anatomy.uses.of(slot.variable)
        places = next((use.places for use in uses if use.step is step), None)
        in_axis, out_axis = places or _axes(slot, len(before), len(after))
        blocks = signal.blocks(before, in_axis) if signal.source else None
        why = None
        if slot in self.reads:  # one kernel cannot suit two places
            why = f"{step.described}, called more than once,"
            self._end(self.reads[slot].signal, why)
            self.ends[slot] = why
        elif not readable(signal.activation):
            why = f"{resolve(signal.activation).name}, which has no odd part,"
        elif blocks is None:
            why = f"{step.described}, which reads another axis,"
        elif signal.units == 1 and not is_odd(signal.activation):
            why = "one unit, which has no twin,"
        else:
            self.readers.setdefault(signal.source, []).append((slot, signal))
            self._last.setdefault(signal.source, []).append(signal.activation)
        if why:
            self._end(signal, why)
        self.reads.setdefault(slot, Link(signal, blocks or 1))
        own = by_name(getattr(slot.layer, "activation", None)) if slot.use is None else None
        return Signal(slot, activation=own, axis=out_axis, units=int(after[out_axis]))

    def _end(self, signal: Signal, why: str) -> None:
        """Note that a kernel's units go where twins are of no use."""
        if signal.source is not None:
            self.ends.setdefault(signal.source, why)
            self._last.setdefault(signal.source, []).append(signal.activation)

    def _find_chains(self) -> dict[Slot, Chain]:
        """The chain that each first kernel starts: a tree, for a kernel reads the units of one other."""
        depths: dict[Slot, int] = {}
        activations: dict[Slot, list[Any]] = {}
        for slot, (signal, _) in self.reads.items():  # in the order of the graph
            goes_on = self.goes_before(slot)
            first = self._firsts[slot] = self._firsts[signal.source] if goes_on else slot
            self._before[slot] = self._before[signal.source] + 1 if goes_on else 0
            depths[first] = max(1, depths.get(first, 0), self._before[slot])
            activations.setdefault(first, []).extend([signal.activation] if goes_on else [])
        return {first: Chain(depths[first], _are_odd_curves(found)) for first, found in activations.items()}


def _are_odd_curves(activations: list[Any]) -> bool:
    """Whether all are odd, as tanh and softsign are, and not all a line."""
    return all(map(is_odd, activations)) and any(linear_variance(each) < 1 for each in activations)


def _reads_units(slot: Slot) -> bool:
    """Whether a kernel is a matrix from the units that it reads to those that it puts out."""
    call, layer = type(slot.layer).call, slot.layer
    if slot.role != "kernel" or slot.kept:
        return False
    if slot.use is not None:
        plain = slot.axes in (None, ([0], [1])) and (len(slot.shape) == 2) == (slot.axes is not None)
        return slot.use.places is not None and slot.blocks == 1 and plain
    if call is layers.EinsumDense.call:
        return _einsum_axes(layer, len(layer.equation)) is not None
    return call is layers.Dense.call or (call in _CONVOLUTIONS and layer.groups == 1)


def _axes(slot: Slot, before: int, after: int) -> tuple[int, int]:
    """The axis that a kernel's layer reads along, and the one that its units are on."""
    last = before - 1, after - 1
    if isinstance(slot.layer, layers.EinsumDense):
        return _einsum_axes(slot.layer, before) or last
    return (1, 1) if getattr(slot.layer, "data_format", None) == "channels_first" else last


def _einsum_axes(layer: Any, before: int) -> tuple[int, int] | None:
    """The axes that an einsum contracts and makes; None where there are more than one."""
    (inputs, kernel), outputs = einsum_labels(layer.equation, (before, len(layer._kernel.shape)))
    for one, other in (kernel, kernel[::-1]) if len(kernel) == 2 else ():
        if one in inputs and one not in outputs and other in outputs and other not in inputs:
            return inputs.index(one), outputs.index(other)
    return None
