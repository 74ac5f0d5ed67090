"""What lies around each variable of a model, as recipes ask for it: branches, attention, tables, the head."""

import math
from functools import cached_property

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.ancestry import Ancestry
from keras_winit.models.anatomy.attention import Attention, Projection, attentions
from keras_winit.models.anatomy.branch import Branch, Branches
from keras_winit.models.anatomy.branches import branches_of, last_kernels
from keras_winit.models.anatomy.outputs import answers
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.trace import Step


class Surroundings:
    """Answers by the trace of a model, each found once.

    Args:
        anatomy: the model taken apart.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy

    @property
    def branches(self) -> Branches:
        """The residual branches."""
        return branches_of(self.anatomy)

    @property
    def attentions(self) -> list[Attention]:
        """Every attention."""
        return attentions(self.anatomy)

    @property
    def ancestry(self) -> Ancestry:
        """What each value comes from."""
        return self.anatomy.once(Ancestry)

    @cached_property
    def _inside(self) -> dict[Slot, Branch]:
        return {slot: branch for branch in reversed(self.branches.branches) for slot in branch.kernels}

    def ended_by(self, slot: Slot) -> Branch | None:
        """The branch that a kernel is a last one of; the first where it is shared."""
        return self.anatomy.once(last_kernels).get(slot)

    def branch_of(self, slot: Slot) -> Branch | None:
        """The branch that a kernel is in; the first where it is shared, or one is in another."""
        return self._inside.get(slot)

    @cached_property
    def width(self) -> int:
        """The width of the stream that the first branch is added to."""
        return int(self.branches[0].add.outputs[0].shape[-1])

    @cached_property
    def projections(self) -> dict[Slot, dict[str, Projection]]:
        """Of each kernel that is a part of attention, what it puts out: query, key, value; or "output"."""
        found: dict[Slot, dict[str, Projection]] = {}
        for attention in self.attentions:
            for name in ("query", "key", "value"):
                projection = getattr(attention, name)
                if projection is not None:
                    found.setdefault(projection.slot, {}).setdefault(name, projection)
            if attention.output is not None:
                found.setdefault(attention.output, {"output": Projection(attention.output)})
        return found

    def attention_of(self, slot: Slot) -> Attention:
        """The first attention that a kernel is a part of."""
        for each in self.attentions:
            parts = [part.slot for part in (each.query, each.key, each.value) if part is not None]
            if slot in (*parts, each.output):
                return each
        raise KeyError(slot.path)

    @cached_property
    def head(self) -> set[Slot]:
        """The kernels that the model's answers come straight out of."""
        return {answer.slot for answer in answers(self.anatomy)}

    def is_table(self, slot: Slot) -> bool:
        """Whether a variable is an embedding, or a table of positions that is added to a stream."""
        if slot.role == "embedding":
            return True
        added = slot.role == "other" and slot.use is not None and slot.use.step.kind == "Add"
        width = self.width if len(self.branches) else slot.shape[-1]
        return added and len(slot.shape) > 1 and slot.shape[-1] == width

    def is_joined(self, slot: Slot) -> bool:
        """Whether a variable is joined to a stream, as the token of a class is."""
        return (
            slot.role == "other" and slot.use is not None and slot.use.step.kind in ("Concatenate", "Stack")
        )

    @cached_property
    def stems(self) -> set[Slot]:
        """The kernels outside of branches that read the model's input, and not what another puts out."""
        steps = [step for step in self.anatomy.trace.steps if id(step) in self.ancestry.kernels]
        bits = {id(step): 1 << step.index for step in steps}
        every = sum(bits.values())
        first = [step for step in steps if not self._before(step) & every & ~bits[id(step)]]
        slots = {slot for step in first for slot in self.ancestry.kernels[id(step)]}
        return slots - set(self._inside)

    def _before(self, step: Step) -> int:
        return self.ancestry.of(step.outputs[0]) if step.outputs else 0

    def kernel_of(self, bias: Slot) -> Slot | None:
        """The kernel that a bias is added to the output of, or None."""
        if bias.use is None:
            own = [slot for slot in self.anatomy.slots if slot.layer is bias.layer and slot.role == "kernel"]
            return own[-1] if own else None
        value = next((each for each in bias.use.step.inputs if self.anatomy.uses.is_signal(each)), None)
        while value is not None and value.step is not None:
            if id(value.step) in self.ancestry.kernels:
                return next(iter(self.ancestry.kernels[id(value.step)]), None)
            signals = self.ancestry.signals(value.step)
            value = signals[0] if len(signals) == 1 else None
        return None

    def packed(self, slot: Slot) -> list[str] | None:
        """The names of what a kernel puts out side by side, as "query"; None where it is one alone.

        Empty where the order is not known.
        """
        found = self.projections.get(slot, {})
        if len(found) < 2:
            return None
        order = {projection.part: name for name, projection in found.items()}
        parts = next(iter(found.values())).parts
        if len(order) < len(found):  # two are told to be in one place
            return []
        return [order[part] for part in range(parts)] if set(order) == set(range(parts)) else []

    def is_added_scalar(self, slot: Slot) -> bool:
        """Whether a variable is a single number that is added."""
        return self.is_scalar(slot) and slot.use is not None and slot.use.step.kind == "Add"

    def is_scalar(self, slot: Slot) -> bool:
        """Whether a variable is a single number."""
        return math.prod(slot.shape) == 1
