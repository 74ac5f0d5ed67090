"""Looking linear as a whole model: which kernels have twins, and what each of them reads."""

from collections.abc import Iterable

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.links import OUTPUT, Links
from keras_winit.models.anatomy.passing import readable
from keras_winit.models.anatomy.slots import Slot
from keras_winit.schemes.looks_linear import LooksLinear
from keras_winit.theory.activations import resolve
from keras_winit.theory.linearity import is_odd, linear_variance

# The variance of what the model puts out at the start is this by the number of layers, and at most
# 1: a step of training moves the outputs of a network by what all its layers learn together.
# Measured: tests/benchmarks/trainability.py.
_OUTPUT_VARIANCE_IN_ALL = 25

_SIDES = {(True, True): "both", (True, False): "inputs", (False, True): "outputs", (False, False): "none"}


class Mirroring:
    """Which kernels of a model are to have twins, by what lies between them.

    Args:
        anatomy: the model taken apart.
        kernels: the slots of the kernels that are to be drawn so.

    Raises:
        ValueError: for a model that could not be traced.
    """

    def __init__(self, anatomy: Anatomy, kernels: Iterable[Slot]) -> None:
        self._links = links = Links(anatomy, kernels)
        # A chain's variances follow from its length.
        self._variances = {
            slot: min(
                linear_variance(signal.activation, links.depth(slot)) for _, signal in links.readers[slot]
            )
            for slot in links.reads
            if links.goes_on(slot)
        }

    def scheme(self, slot: Slot) -> tuple[LooksLinear | None, str]:
        """The scheme for a kernel, None where it has nothing to pair, and the reason."""
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
        scheme = LooksLinear(
            activation,
            _SIDES[reads_twins, has_twins],
            variance=self._variances[slot] if goes_on else self._end_variance(slot, end),
            input_variance=self._variances[signal.source] if linked else 1.0,
            input_blocks=blocks if linked else 1,
        )
        units, name = "twins" if reads_twins else "units", resolve(activation).name
        before = f"reads {units} through {name}" if linked else f"afresh after {start}"
        after = "twins" if has_twins else "no twins, for what follows is odd" if goes_on else f"then {end}"
        return scheme, f"{before}; {after}"

    def _has_twins(self, slot: Slot) -> bool:
        return any(not is_odd(signal.activation) for _, signal in self._links.readers[slot])

    def _end_variance(self, slot: Slot, end: str) -> float:
        return min(1.0, _OUTPUT_VARIANCE_IN_ALL / self._links.depth(slot)) if end == OUTPUT else 1.0
