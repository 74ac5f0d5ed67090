"""What a residual branch is made of: its kernels, the last of them, and what normalizes it where."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.ancestry import Ancestry
from keras_winit.models.anatomy.normalizing import normalization_at
from keras_winit.models.anatomy.passing import moves
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.trace import Step, Value

_STEPS = 12  # of a normalization of the user's own


class End(NamedTuple):
    """The end of a branch.

    Attributes:
        last: the kernels that write to the stream, behind which nothing of the branch has another.
        normalization: what normalizes what they write, or None.
        steps: what lies between them and the add, with the steps that they are in.
    """

    last: tuple[Slot, ...]
    normalization: Any
    steps: tuple[Step, ...]


def end_of(anatomy: Anatomy, ancestry: Ancestry, end: Value, region: Iterable[Step]) -> End:
    """The end of a branch, from the value that is added backwards.

    Args:
        anatomy: the model taken apart.
        ancestry: its ancestry.
        end: the value that is added to the stream.
        region: the steps of the branch.
    """
    steps = list(
        _backwards(end, region, lambda step: [] if id(step) in ancestry.kernels else ancestry.written(step))
    )
    ends = [ancestry.kernels[id(step)] for step in steps if id(step) in ancestry.kernels]
    last = [slot for slots in ends for slot in slots if not (slot.depthwise and len(slots) > 1)]
    between = (normalization_at(anatomy, step) for step in steps if id(step) not in ancestry.kernels)
    return End(tuple(dict.fromkeys(last)), next(filter(None, between), None), tuple(steps))


def kernels_in(ancestry: Ancestry, region: Iterable[Step], end: Value, fork: int) -> tuple[Slot, ...]:
    """The kernels of a branch, in order: those that what it starts from passes, and that read what joins it.

    Args:
        ancestry: the model's ancestry.
        region: all steps that the end of the branch comes from and its stream does not.
        end: the value that is added to the stream.
        fork: the bit of what the branch starts from.
    """

    def before(step: Step) -> list[Value]:
        # What a kernel reads that comes from elsewhere is no part of the branch.
        elsewhere = id(step) in ancestry.kernels and not ancestry.of(step.outputs[0]) & fork
        return [] if elsewhere else ancestry.signals(step)

    steps = sorted(_backwards(end, region, before), key=lambda step: step.index)
    return tuple(dict.fromkeys(slot for step in steps for slot in ancestry.kernels.get(id(step), [])))


def begins(anatomy: Anatomy, ancestry: Ancestry, region: list[Step], fork: int) -> Any:
    """What normalizes all that the first kernels of a branch read, or None."""
    found = None
    for step in region:
        if id(step) not in ancestry.kernels:
            continue
        for value in ancestry.signals(step):
            if ancestry.of(value) & fork:
                first, normalization = _normalized_before_a_kernel(anatomy, ancestry, value, fork)
                if first and normalization is None:
                    return None
                found = found or normalization
    return found


def behind(anatomy: Anatomy, total: Value) -> Any:
    """What normalizes a sum before anything else reads it, or None."""
    found: list[Any] = []
    waiting = [total]
    while waiting:
        value = waiting.pop()
        if anatomy.trace.is_output(value) or not value.readers:
            return None
        for step in value.readers:
            normalization = _normalization_from(anatomy, step, value)
            if normalization is not None:
                found.append(normalization)
            elif moves(step):
                waiting += step.outputs
            else:
                return None
    return found[0] if found else None


def inside(anatomy: Anatomy, ancestry: Ancestry, end: Value, region: Iterable[Step]) -> Any:
    """The first of what normalizes a signal on its way through a branch, or None."""
    steps = sorted(_backwards(end, region, ancestry.written), key=lambda step: step.index)
    found = (normalization_at(anatomy, step) for step in steps)
    return next((each for each in found if each is not None), None)


def _backwards(end: Value, region: Iterable[Step], before: Callable[[Step], list[Value]]) -> Iterator[Step]:
    """The steps of a region that a value comes from, the nearest first; `before` says what to follow."""
    left, waiting = {id(step) for step in region}, [end]
    while waiting:
        step = waiting.pop(0).step
        if step is not None and id(step) in left:
            left.discard(id(step))
            yield step
            waiting += before(step)


def _normalization_from(anatomy: Anatomy, step: Step, value: Value) -> Any:
    """The normalization of a value that a step begins: its last step may be a few on; None for no such."""
    waiting, seen = [step], {step.index}
    for _ in range(_STEPS):
        if not waiting:
            return None
        here = waiting.pop(0)
        found = normalization_at(anatomy, here, value)
        if found is not None or here.in_layer:
            return found
        for reader in (reader for each in here.outputs for reader in each.readers):
            if reader.index not in seen:
                seen.add(reader.index)
                waiting.append(reader)
    return None


def _normalized_before_a_kernel(
    anatomy: Anatomy, ancestry: Ancestry, value: Value, fork: int
) -> tuple[bool, Any]:
    """Whether no kernel comes between a fork and a value, and what normalizes it there."""
    normalization = None
    waiting, seen = [value], set[int]()
    while waiting:
        here = waiting.pop()
        step = here.step
        if step is None or ancestry.bit(here) & fork or not ancestry.of(here) & fork or id(step) in seen:
            continue
        seen.add(id(step))
        if id(step) in ancestry.kernels:
            return False, None
        normalization = normalization or normalization_at(anatomy, step)
        waiting += ancestry.signals(step)
    return True, normalization
