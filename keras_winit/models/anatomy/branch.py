"""A residual branch: its kernels, its normalization, its end, and how it prints."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.ancestry import Ancestry
from keras_winit.models.anatomy.normalizing import normalization_at
from keras_winit.models.anatomy.passing import moves, onward
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.trace import Step, Value
from keras_winit.support.printing import Printed, Table, counted


@dataclass(frozen=True, eq=False, repr=False)
class Branch:
    """One residual branch.

    Attributes:
        number, count: which of a model's branches it is, from 1, and how many there are.
        stream, depth, place: which stream it is added to, from 1, how many branches that one has, and which
            of these it is, from 1. An encoder and its decoder are two streams.
        kind: "pre-norm", where a normalization begins it; "normalized inside", where one is elsewhere in
            it; "post-norm", where one reads the sum before anything else does; or "plain".
        last: of its kernels the ones that write to the stream, behind which nothing of it has another.
        begins, ends, behind: the normalization at its beginning, at its end, and behind the add, or None.
        inside: the first normalization that its signal passes in it, or None.
        joined, carried: the value that is added, and that of the stream: what it starts from, or a
            projection of that.
        projected: whether the stream has a kernel beside the branch.
        tail: the steps from its last kernels to its end.
    """

    number: int
    count: int
    stream: int
    depth: int
    place: int
    kind: str
    add: Step
    kernels: tuple[Slot, ...]
    last: tuple[Slot, ...]
    begins: Any
    ends: Any
    behind: Any
    inside: Any
    joined: Value
    carried: Value
    projected: bool
    tail: tuple[Step, ...]

    def __repr__(self) -> str:
        last = _paths(self.last) or "a kernel that is not seen"
        start = f"<Branch {self.number} of {self.count}: {self.kind}"
        return f"{start}, added at {_at(self.add)}, ends with {last}>"


class Addition(NamedTuple):
    """An addition that ends no branch: its step, and why."""

    add: Step
    reason: str


class Branches(Printed):
    """The residual branches of a model, and every other addition in it with the reason why it is none.

    Attributes:
        name: the name of the model.
        branches: the branches, in the order of the adds.
        others: the other additions.
        reason: why the model as a whole could not be traced, or None.

    Example:

    >>> import keras
    >>> from keras_winit import branches
    >>> inputs = keras.Input((8,))
    >>> hidden = keras.layers.Dense(16, "relu")(keras.layers.LayerNormalization()(inputs))
    >>> model = keras.Model(inputs, inputs + keras.layers.Dense(8)(hidden), name="small")
    >>> branches(model)
    <Branches: 1 branch of 'small', pre-norm>
    """

    def __init__(
        self, name: str, branches: list[Branch], others: list[Addition], reason: str | None = None
    ) -> None:
        self.name, self.reason = name, reason
        self.branches, self.others = tuple(branches), tuple(others)

    def __len__(self) -> int:
        return len(self.branches)

    def __iter__(self) -> Iterator[Branch]:
        return iter(self.branches)

    def __getitem__(self, index: int) -> Branch:
        return self.branches[index]

    def _line(self) -> str:
        kinds = ", ".join(dict.fromkeys(branch.kind for branch in self.branches))
        count, others = len(self.branches), len(self.others)
        streams = max((branch.stream for branch in self.branches), default=0)
        found = f"{count or 'no'} branch{'' if count == 1 else 'es'} of {self.name!r}"
        found += f", {kinds}" if kinds else ""
        found += f", on {streams} streams" if streams > 1 else ""
        found += f"; {counted(others, 'other addition')}" if others else ""
        return found + ("" if self.reason is None else f"; not traced as a whole: {self.reason}")

    def to_dict(self) -> dict[str, Any]:
        """Everything as dicts, lists, strings and numbers, ready for JSON."""
        return {
            "name": self.name,
            "reason": self.reason,
            "branches": list(map(_plain, self.branches)),
            "others": [{"add": _at(each.add), "reason": each.reason} for each in self.others],
        }

    def _tables(self) -> list[Table]:
        rows = []
        for branch in self.branches:
            normalizations = {"begins": branch.begins, "ends": branch.ends, "behind": branch.behind}
            if not any(normalizations.values()):
                normalizations = {"inside": branch.inside}
            found = [f"{_name(each)} {how}" for how, each in normalizations.items() if each is not None]
            number, kernels = f"{branch.number} of {branch.count}", str(len(branch.kernels))
            last, where = _paths(branch.last) or "not seen", ", ".join(found) or "–"
            rows.append((number, _at(branch.add), kernels, last, branch.kind, where))
        headings = ("branch", "added at", "kernels", "last", "kind", "normalizations")
        tables = [Table("Branches", headings, rows)] if rows else []
        if self.others:
            others = [(_at(each.add), each.reason) for each in self.others]
            tables.append(Table("Additions that end no branch", ("at", "reason"), others))
        return tables


def _plain(branch: Branch) -> dict[str, Any]:
    numbers = {key: getattr(branch, key) for key in ("number", "count", "stream", "depth", "place", "kind")}
    kernels = {key: [slot.path for slot in getattr(branch, key)] for key in ("kernels", "last")}
    keys = ("begins", "ends", "behind", "inside")
    normalizations = {key: _name(getattr(branch, key)) for key in keys}
    return {**numbers, "add": _at(branch.add), **kernels, **normalizations}


def _paths(slots: Iterable[Slot]) -> str:
    return ", ".join(slot.path for slot in slots)


def _name(operation: Any) -> str | None:
    return None if operation is None else str(operation.name)


def _at(step: Step) -> str:
    return f"{step.place} (step {step.index + 1})"


_STEPS = 12  # of a normalization of the user's own


class End(NamedTuple):
    """The last kernels of a branch, what normalizes what they write, and the steps from them to the add."""

    last: tuple[Slot, ...]
    normalization: Any
    steps: tuple[Step, ...]


def end_of(ancestry: Ancestry, end: Value, region: Iterable[Step]) -> End:
    """The end of a branch, from the value that is added backwards."""
    kernels = ancestry.kernels
    steps = tuple(_backwards(end, region, lambda step: [] if step in kernels else ancestry.written(step)))
    ends = [kernels[step] for step in steps if step in kernels]
    last = [slot for slots in ends for slot in slots if not (slot.depthwise and len(slots) > 1)]
    between = (normalization_at(ancestry.anatomy, step) for step in steps if step not in kernels)
    return End(tuple(dict.fromkeys(last)), next(filter(None, between), None), steps)


def kernels_in(ancestry: Ancestry, region: Iterable[Step], end: Value, fork: int) -> tuple[Slot, ...]:
    """The kernels of a branch, in order: those that what it starts from passes, and that read what joins it.

    The region is what its end comes from and its stream does not, the fork the bit of what it starts from.
    """

    def before(step: Step) -> list[Value]:
        # What a kernel reads that comes from elsewhere is no part of the branch.
        elsewhere = step in ancestry.kernels and not ancestry.of(step.outputs[0]) & fork
        return [] if elsewhere else ancestry.signals(step)

    steps = sorted(_backwards(end, region, before), key=lambda step: step.index)
    return tuple(dict.fromkeys(slot for step in steps for slot in ancestry.kernels.get(step, [])))


def begins(ancestry: Ancestry, region: list[Step], fork: int) -> Any:
    """What normalizes all that the first kernels of a branch read, or None."""
    found = None
    for step in region:
        for value in ancestry.signals(step) if step in ancestry.kernels else []:
            if ancestry.of(value) & fork:
                first, normalization = _normalized_before_a_kernel(ancestry, value, fork)
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


def inside(ancestry: Ancestry, end: Value, region: Iterable[Step]) -> Any:
    """The first of what normalizes a signal on its way through a branch, or None."""
    steps = sorted(_backwards(end, region, ancestry.written), key=lambda step: step.index)
    found = (normalization_at(ancestry.anatomy, step) for step in steps)
    return next((each for each in found if each is not None), None)


def _backwards(end: Value, region: Iterable[Step], before: Callable[[Step], list[Value]]) -> Iterator[Step]:
    """The steps of a region that a value comes from, the nearest first; `before` says what to follow."""
    left, waiting = set(region), [end]
    while waiting:
        step = waiting.pop(0).step
        if step in left:
            left.discard(step)
            yield step
            waiting += before(step)


def _normalization_from(anatomy: Anatomy, step: Step, value: Value) -> Any:
    """The normalization of a value that begins with a step, and may end a few steps on, or None."""
    steps = itertools.chain([step], onward(step.outputs, lambda _: True))
    for here in itertools.islice(steps, _STEPS):
        found = normalization_at(anatomy, here, value)
        if found is not None or here.in_layer:
            return found
    return None


def _normalized_before_a_kernel(ancestry: Ancestry, value: Value, fork: int) -> tuple[bool, Any]:
    """Whether no kernel comes between a fork and a value, and what normalizes it there."""
    normalization = None
    waiting, seen = [value], set[Step]()
    while waiting:
        here = waiting.pop()
        step = here.step
        if step is None or ancestry.bit(here) & fork or not ancestry.of(here) & fork or step in seen:
            continue
        seen.add(step)
        if step in ancestry.kernels:
            return False, None
        normalization = normalization or normalization_at(ancestry.anatomy, step)
        waiting += ancestry.signals(step)
    return True, normalization
