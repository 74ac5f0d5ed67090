"""Looking linear as a whole model: which kernels have twins, and what each of them reads."""

from collections.abc import Iterable

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.links import OUTPUT, Links
from keras_winit.models.anatomy.passing import readable
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.kinds import NOISE
from keras_winit.models.tracing.trace import Step
from keras_winit.schemes.looks_linear import LooksLinear, LooksLinearBias
from keras_winit.theory.activations import resolve
from keras_winit.theory.linearity import Start, is_odd, linear_start, linear_variance

# The variance of the model's outputs at the start is this by the number of layers, and at most 1: a step of
# training moves them by what all layers learn together. Measured: tests/benchmarks/trainability.py.
_OUTPUT_VARIANCE_IN_ALL = 25
# Where all activations of a chain are odd, and not all a line, as tanh and softsign; and behind units around
# a flat place, so small that a smaller step moves them.
_SMALLER_OUTPUT_VARIANCE_IN_ALL = 2
# The variances in a chain of odd ones begin where all would be in one so much shorter, and fall to 1/√length
# of that. At 100 layers tanh and softsign reach 0.94 and 0.92 so; with the largest one variance that keeps a
# hundred nearly linear, 0.57 and 0.65.
_SHORTER_OF_ODD = 4

_SIDES = {(True, True): "both", (True, False): "inputs", (False, True): "outputs", (False, False): "none"}


class Mirroring:
    """Which kernels of a model are to have twins, by what lies between them.

    Args:
        free: the variables that nobody asked otherwise for, biases among them.

    Raises:
        ValueError: for a model that could not be traced.
    """

    def __init__(self, anatomy: Anatomy, kernels: Iterable[Slot], free: Iterable[Slot]) -> None:
        self._links = links = Links(anatomy, kernels)
        self._free = dict.fromkeys(free)
        self._rough = any(_is_rough(step) for step in anatomy.trace.steps)
        biases = [slot for slot in self._free if slot.role == "bias" and slot.use is None and not slot.kept]
        self._biases = {id(slot.layer): slot for slot in reversed(biases)}
        self._starts = {slot: self._start(slot) for slot in links.reads if links.goes_on(slot)}
        self._moved = {
            self._biases[id(slot.layer)]: slot for slot, start in self._starts.items() if start.mean
        }

    def scheme(self, slot: Slot) -> tuple[LooksLinear | None, str]:
        """A kernel's scheme, None where it has nothing to pair, and the reason."""
        links = self._links
        if slot not in links.reads:
            return None, "nothing to mirror: what it reads is not known to be units in a row"
        signal, blocks = links.reads[slot]
        linked, goes_on = links.goes_before(slot), links.goes_on(slot)
        start, end = links.start(slot), links.ends.get(slot, "nothing")
        if not linked and not goes_on:
            return None, f"nothing to mirror between {start} and {end}"
        reads_twins = linked and self._has_twins(signal.source)
        has_twins = goes_on and self._has_twins(slot)
        activation = signal.activation if readable(signal.activation) else None
        source = self._starts[signal.source] if linked else Start(0.0, 1.0)
        scheme = LooksLinear(
            activation,
            _SIDES[reads_twins, has_twins],
            variance=self._starts[slot].variance if goes_on else self._end_variance(slot, end),
            input_variance=source.variance,
            input_mean=source.mean,
            input_blocks=blocks if linked else 1,
        )
        units, name = "twins" if reads_twins else "units", resolve(activation).name
        before = f"reads {units} through {name}" if linked else f"afresh after {start}"
        after = "twins" if has_twins else "no twins, for what follows is odd" if goes_on else f"then {end}"
        return scheme, f"{before}; {after}"

    def bias(self, slot: Slot) -> LooksLinearBias | None:
        """The scheme of a bias that is to move its layer's units; None for zeros."""
        kernel = self._moved.get(slot)
        if kernel is None:
            return None
        return LooksLinearBias(self._links.readers[kernel][0][1].activation, self._starts[kernel].place)

    def _start(self, slot: Slot) -> Start:
        """How a kernel's units start, as all their readers want it."""
        depth = self._links.chain(slot).depth
        activations = [signal.activation for _, signal in self._links.readers[slot]]
        start, *others = (linear_start(activation, depth, rough=self._rough) for activation in activations)
        if start.mean and all(other == start for other in others) and self._may_move(slot):
            return start
        curved = self._links.chain(slot).curved
        length = depth / _SHORTER_OF_ODD if curved else depth
        variance = min(linear_variance(activation, length) for activation in activations)
        fallen = depth ** (-self._links.place(slot) / depth / 2) if curved else 1.0
        return Start(0.0, variance * fallen)

    def _may_move(self, slot: Slot) -> bool:
        """Whether a lasting bias can move a kernel's units, and all their readers suit."""
        own = slot.use is None and id(slot.layer) in self._biases
        kernels = (slot, *dict(self._links.readers[slot]))
        held = [getattr(slot.layer, "bias_regularizer", None), getattr(slot.layer, "bias_constraint", None)]
        held += [getattr(each.layer, "kernel_constraint", None) for each in kernels]
        return own and all(each in self._free for each in kernels) and held == [None] * len(held)

    def _has_twins(self, slot: Slot) -> bool:
        return any(not is_odd(signal.activation) for _, signal in self._links.readers[slot])

    def _end_variance(self, slot: Slot, end: str) -> float:
        if end != OUTPUT:
            return 1.0
        chain, source = self._links.chain(slot), self._links.reads[slot].signal.source
        smaller = chain.curved or (source in self._starts and self._starts[source].place == "flat")
        in_all = _SMALLER_OUTPUT_VARIANCE_IN_ALL if smaller else _OUTPUT_VARIANCE_IN_ALL
        return min(1.0, in_all / chain.depth)


def _is_rough(step: Step) -> bool:
    """Whether a step rounds more than float16, or adds noise in training."""
    rounded = any(value.dtype.startswith(("bfloat", "float8")) for value in step.outputs)
    return rounded or isinstance(step.operation, NOISE)
