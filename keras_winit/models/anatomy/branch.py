"""What is known of a model's residual branches, and how it prints."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.showing.printing import Printed, Table, counted
from keras_winit.models.tracing.trace import Step, Value


@dataclass(frozen=True, eq=False, repr=False)
class Branch:
    """One residual branch.

    Attributes:
        number, count: which of a model's branches it is, from 1, and how many there are.
        stream, depth: which stream it is added to, from 1, and how many branches are added to that one:
            an encoder and its decoder are two.
        place: which of its stream's branches it is, from 1.
        kind: "pre-norm", where a normalization begins it; "normalized inside", where one is elsewhere in
            it; "post-norm", where one reads the sum before anything else does; or "plain".
        add: the step where it is added to its stream.
        kernels: its kernels, in order.
        last: of these the ones that write to the stream, behind which nothing of it has another.
        begins, ends, behind: the normalization at its beginning, at its end, and behind the add, or None.
        inside: the first normalization that its signal passes in it, or None.
        joined: the value that is added to the stream.
        carried: the value of the stream that it is added to: what it starts from, or a projection of that.
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
        last = ", ".join(slot.path for slot in self.last) or "a kernel that is not seen"
        return (
            f"<Branch {self.number} of {self.count}: {self.kind}, added at {_at(self.add)}, ends with {last}>"
        )


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
        self.name, self.branches, self.others = name, tuple(branches), tuple(others)
        self.reason = reason

    def __len__(self) -> int:
        return len(self.branches)

    def __iter__(self) -> Iterator[Branch]:
        return iter(self.branches)

    def __getitem__(self, index: int) -> Branch:
        return self.branches[index]

    def _line(self) -> str:
        kinds = ", ".join(dict.fromkeys(branch.kind for branch in self.branches))
        count = len(self.branches)
        found = f"{count or 'no'} branch{'' if count == 1 else 'es'} of {self.name!r}" + (
            kinds and f", {kinds}"
        )
        streams = max((branch.stream for branch in self.branches), default=0)
        found += f", on {streams} streams" if streams > 1 else ""
        count = len(self.others)
        others = f"; {counted(count, 'other addition')}" if count else ""
        return found + others + ("" if self.reason is None else f"; not traced as a whole: {self.reason}")

    def to_dict(self) -> dict[str, Any]:
        """Everything as dicts, lists, strings and numbers, ready for JSON."""
        return {
            "name": self.name,
            "reason": self.reason,
            "branches": [_plain(branch) for branch in self.branches],
            "others": [{"add": _at(each.add), "reason": each.reason} for each in self.others],
        }

    def _tables(self) -> list[Table]:
        rows = []
        for branch in self.branches:
            normalizations = {"begins": branch.begins, "ends": branch.ends, "behind": branch.behind}
            if not any(normalizations.values()):
                normalizations = {"inside": branch.inside}
            where = ", ".join(
                f"{_name(each)} {how}" for how, each in normalizations.items() if each is not None
            )
            rows.append(
                (
                    f"{branch.number} of {branch.count}",
                    _at(branch.add),
                    str(len(branch.kernels)),
                    ", ".join(slot.path for slot in branch.last) or "not seen",
                    branch.kind,
                    where or "–",
                )
            )
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


def _name(operation: Any) -> str | None:
    return None if operation is None else str(operation.name)


def _at(step: Step) -> str:
    return f"{step.place} (step {step.index + 1})"
