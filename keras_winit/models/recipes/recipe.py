"""What every recipe is: a name, a claim, a source, and a rule for each variable of a model."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, NoReturn, TypeVar

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.ancestry import Ancestry
from keras_winit.models.anatomy.attention import Attention, Projection, attentions
from keras_winit.models.anatomy.branch import Branch, Branches
from keras_winit.models.anatomy.branches import branches_of, last_kernels
from keras_winit.models.anatomy.following import answers
from keras_winit.models.anatomy.slots import Slot
from keras_winit.schemes.basic import Zeros
from keras_winit.schemes.compose import PerGate
from keras_winit.support.printing import Printed, Table


class Choice(NamedTuple):
    """What a variable is to be drawn from, and why."""

    initializer: Any  # None: the variable is kept
    reason: str
    activation: str | None = None
    forget_bias: bool = True
    own: bool = False  # the layer's own initializer, to be drawn as the layer would
    asked: bool = False  # its layer asks for it on purpose
    named: bool = True  # False where a mapping keeps the variable, or does not name it
    pair: Slot | None = None  # whose seed it shares, where two are parts of one matrix


def parts_of(attention: Attention) -> dict[str, Projection]:
    """What is found of query, key, value and output, by name."""
    output = None if attention.output is None else Projection(attention.output)
    parts = {"query": attention.query, "key": attention.key, "value": attention.value, "output": output}
    return {name: part for name, part in parts.items() if part is not None}


def meets(slot: Slot, *kinds: str) -> bool:
    """Whether the model computes with a variable in a step of one of these kinds."""
    return slot.use is not None and slot.use.step.kind in kinds


_RECIPES: dict[str, "type[Recipe]"] = {}

T = TypeVar("T", bound="type[Recipe]")

# What a recipe may need of a model, and what is said without it.
_NEEDS = {
    "branches": "is for residual networks, and no branch is added to a stream in this model.",
    "attentions": "is for transformers, and no attention is computed in this model.",
}


class Recipe:
    """The base of every recipe: a subclass refuses in `check` and decides in `draw`.

    Recurrent kernels, statistics, and what the model computes a function of, are always left alone.

    Raises:
        ValueError: for a model that it is not for.
    """

    name: ClassVar[str]
    claim: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()  # keys of _NEEDS
    otherwise: ClassVar[str] = "auto"  # what becomes of what it leaves alone; "own": its initial value
    forget_bias: ClassVar[bool] = True  # whether an LSTM's forget gate starts as its layer says

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        for need in self.needs:
            if not len(getattr(self, need)):
                self.refuse(_NEEDS[need])
        self.check()

    def check(self) -> None:
        """Refuse what else the recipe is not for."""

    def draw(self, slot: Slot) -> Choice | None:
        """What a variable is drawn from; None leaves it alone."""
        raise NotImplementedError(f"{type(self).__name__} must define `draw(slot)`.")

    def choice(self, slot: Slot) -> Choice | None:
        """As `draw`, of what a recipe may decide."""
        bent = slot.use is not None and slot.use.bent
        found = None if bent or slot.role in ("statistic", "recurrent") else self.draw(slot)
        return None if found is None else found._replace(reason=f"{self.name}: {found.reason}")

    def refuse(self, why: str) -> NoReturn:
        """Say what the recipe is not for."""
        raise ValueError(f"The recipe {self.name!r} {why} Nothing was changed.")

    @property
    def branches(self) -> Branches:
        """The residual branches."""
        return branches_of(self.anatomy)

    @property
    def attentions(self) -> list[Attention]:
        """Every attention."""
        return attentions(self.anatomy)

    @cached_property
    def _inside(self) -> dict[Slot, Branch]:
        return {slot: branch for branch in reversed(self.branches.branches) for slot in branch.kernels}

    def ended_by(self, slot: Slot) -> Branch | None:
        """The branch that a kernel ends; the first of several."""
        return self.anatomy.once(last_kernels).get(slot)

    def branch_of(self, slot: Slot) -> Branch | None:
        """The branch that a kernel is in; the first of several."""
        return self._inside.get(slot)

    @cached_property
    def width(self) -> int:
        """The width of the first branch's stream."""
        return int(self.branches[0].add.outputs[0].shape[-1])

    @cached_property
    def projections(self) -> dict[Slot, dict[str, Projection]]:
        """What each kernel of attention puts out, by name: query, key, value; or output."""
        found: dict[Slot, dict[str, Projection]] = {}
        for attention in self.attentions:
            for name, projection in parts_of(attention).items():
                if name != "output" or projection.slot not in found:
                    found.setdefault(projection.slot, {}).setdefault(name, projection)
        return found

    def attention_of(self, slot: Slot) -> Attention:
        """The first attention that a kernel is a part of."""
        return next(
            each for each in self.attentions if slot in [part.slot for part in parts_of(each).values()]
        )

    @cached_property
    def head(self) -> set[Slot]:
        """The kernels that put out the model's answers."""
        return {answer.slot for answer in answers(self.anatomy)}

    def is_table(self, slot: Slot) -> bool:
        """Whether a variable is an embedding, or a table that is added to a stream."""
        if slot.role != "other":
            return slot.role == "embedding"
        added = len(slot.shape) > 1 and meets(slot, "Add")
        return added and (not self.branches or slot.shape[-1] == self.width)

    @cached_property
    def stems(self) -> set[Slot]:
        """The kernels outside of branches that read no other's output."""
        ancestry = self.anatomy.once(Ancestry)
        steps = [step for step in self.anatomy.trace.steps if step in ancestry.kernels]
        every = sum(1 << step.index for step in steps)
        found: set[Slot] = set()
        for step in steps:
            before = ancestry.of(step.outputs[0]) if step.outputs else 0
            if before & every in (0, 1 << step.index):
                found.update(ancestry.kernels[step])
        return found - set(self._inside)

    def kernel_of(self, slot: Slot) -> Slot | None:
        """The kernel that a bias is added to the output of, or None; what is no bias is its own."""
        if slot.role != "bias":
            return slot
        if slot.use is None:
            own = (each for each in reversed(self.anatomy.slots) if each.layer is slot.layer)
            return next((each for each in own if each.role == "kernel"), None)
        ancestry = self.anatomy.once(Ancestry)
        value = next((each for each in slot.use.step.inputs if self.anatomy.uses.is_signal(each)), None)
        while value is not None and value.step is not None:
            if value.step in ancestry.kernels:
                return next(iter(ancestry.kernels[value.step]), None)
            signals = ancestry.signals(value.step)
            value = signals[0] if len(signals) == 1 else None
        return None

    def packed(self, slot: Slot) -> list[str] | None:
        """What a kernel puts out side by side; None for one alone, empty for an unknown order."""
        found = self.projections.get(slot, {})
        if len(found) < 2:
            return None
        names = sorted(found, key=lambda name: found[name].part)
        parts = next(iter(found.values())).parts
        return names if [found[name].part for name in names] == list(range(parts)) else []

    def ordered(self, slot: Slot, what: str) -> list[str] | None:
        """As `packed`; an unknown order is refused."""
        found = self.packed(slot)
        if found == []:
            self.refuse(f"draws {what} apart, and {slot.path!r} has them in an order not known.")
        return found


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


def bias(slot: Slot) -> Choice | None:
    """A bias of zeros; None for what is no bias."""
    return Choice(Zeros(), "biases 0") if slot.role == "bias" else None


def place(branch: Branch) -> str:
    """Which of its stream's branches it is, in words."""
    return f"branch {branch.place} of {branch.depth}"


def side_by_side(scheme: Any, parts: list[str], multiplied: str, factor: float) -> PerGate:
    """A scheme for parts side by side, one of which is multiplied by a factor."""
    factors = [factor if part == multiplied else 1.0 for part in parts]
    return PerGate(scheme, gates=len(parts), factors=factors)
