"""What every recipe is: a name, a claim, a source, and a rule for each variable of a model."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, TypeVar

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.ancestry import Ancestry
from keras_winit.models.anatomy.attention import Attention, Projection, attentions
from keras_winit.models.anatomy.branch import Branch, Branches
from keras_winit.models.anatomy.branches import branches_of, last_kernels
from keras_winit.models.anatomy.following import answers
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.trace import Step
from keras_winit.schemes.basic import Zeros
from keras_winit.schemes.compose import PerGate
from keras_winit.support.printing import Printed, Table


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


_RECIPES: dict[str, "type[Recipe]"] = {}

T = TypeVar("T", bound="type[Recipe]")


class Draw(NamedTuple):
    """What a recipe says of a variable.

    Attributes:
        initializer: what it is drawn from.
        reason: the rule, for the plan.
        pair: the variable whose seed it shares, where two are drawn from one matrix.
    """

    initializer: Any
    reason: str
    pair: Slot | None = None


class Recipe:
    """The base of every recipe: a subclass refuses in `check` and decides in `draw`.

    What it leaves alone is drawn as by "auto". Recurrent kernels, statistics, and what the model computes a
    function of, are always left alone.

    Args:
        anatomy: the model taken apart.

    Raises:
        ValueError: for a model that it is not for.
    """

    name: ClassVar[str]
    claim: ClassVar[str]
    source: ClassVar[str]
    # What becomes of what it leaves alone: as by "auto", or its initial value.
    otherwise: ClassVar[str] = "auto"
    # Whether an LSTM's forget gate starts as its layer says.
    forget_bias: ClassVar[bool] = True

    def __init__(self, anatomy: Anatomy) -> None:
        self.around = Surroundings(anatomy)
        self.check()

    def check(self) -> None:
        """Refuse what the recipe is not for."""

    def draw(self, slot: Slot) -> Draw | None:
        """What a variable is to be drawn from, or None where the recipe leaves it alone."""
        raise NotImplementedError(f"{type(self).__name__} must define `draw(slot)`.")

    def choice(self, slot: Slot) -> Draw | None:
        """What `draw` says, of what a recipe may decide."""
        bent = slot.use is not None and slot.use.bent
        if bent or slot.role in ("statistic", "recurrent"):
            return None
        found = self.draw(slot)
        return None if found is None else found._replace(reason=f"{self.name}: {found.reason}")

    def refuse(self, why: str) -> None:
        """Say what the recipe is not for."""
        raise ValueError(f"The recipe {self.name!r} {why} Nothing was changed.")

    def need_branches(self) -> None:
        """Refuse a model without residual branches."""
        if not len(self.around.branches):
            self.refuse("is for residual networks, and no branch is added to a stream in this model.")

    def need_attention(self) -> None:
        """Refuse a model without attention."""
        if not self.around.attentions:
            self.refuse("is for transformers, and no attention is computed in this model.")


def recipe(name: str, *, claim: str, source: str) -> Callable[[T], T]:
    """Register a recipe under a name."""

    def decorate(cls: T) -> T:
        cls.name, cls.claim, cls.source = name, claim, source
        if name in _RECIPES:
            raise ValueError(f"The recipe name {name!r} is taken. Received: {cls!r}.")
        _RECIPES[name] = cls
        return cls

    return decorate


def recipe_class(name: str) -> "type[Recipe]":
    """The recipe registered under a name."""
    return _RECIPES[name]


class Recipes(Printed, Mapping[str, str]):
    """The name and the claim of every recipe: a mapping that prints as a table.

    Example:

    >>> from keras_winit import recipes
    >>> "gpt2" in recipes()
    True
    """

    def __getitem__(self, name: str) -> str:
        return _RECIPES[name].claim

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(_RECIPES))

    def __len__(self) -> int:
        return len(_RECIPES)

    def to_dict(self) -> dict[str, Any]:
        """Claims by name."""
        return dict(self)

    def _line(self) -> str:
        return f"{len(self)} recipes: {', '.join(self)}"

    def _tables(self) -> list[Table]:
        rows = [(name, each.claim, each.source) for name, each in sorted(_RECIPES.items())]
        return [Table("Recipes", ("name", "draws", "source"), rows)]


def recipes() -> Recipes:
    """Every recipe for a whole model, with what it draws: `initialize(model, name)`.

    A recipe is a published initialization of a whole model. Branches, their last kernels,
    queries and tables of positions are found by what the model computes, so that a recipe works for anyone's
    layers.

    Returns:
        A mapping of names to claims; printing it shows a table.

    Example:

    >>> recipes()["gpt2"]
    'N(0, 0.02²); last kernels of branches 0.02/√L; biases 0'
    """
    return Recipes()


def bias(slot: Slot) -> Draw | None:
    """A bias of zeros; None for what is no bias."""
    return Draw(Zeros(), "biases 0") if slot.role == "bias" else None


def place(branch: Branch) -> str:
    """Which of its stream's branches it is, in words."""
    return f"branch {branch.place} of {branch.depth}"


def side_by_side(scheme: Any, factors: list[float]) -> Any:
    """A scheme for parts side by side, each with a factor of its own."""
    return PerGate(scheme, gates=len(factors), factors=factors)
