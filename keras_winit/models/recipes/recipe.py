"""What every recipe is: a name, a claim, a source, and a rule for each variable of a model."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.branch import Branch
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.surroundings import Surroundings
from keras_winit.models.showing.printing import Printed, Table
from keras_winit.schemes.basic import Zeros
from keras_winit.schemes.compose import PerGate

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
        return iter(_RECIPES)

    def __len__(self) -> int:
        return len(_RECIPES)

    def to_dict(self) -> dict[str, Any]:
        """Claims by name."""
        return dict(self)

    def _line(self) -> str:
        return f"{len(self)} recipes: {', '.join(self)}"

    def _tables(self) -> list[Table]:
        rows = [(name, each.claim, each.source) for name, each in _RECIPES.items()]
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
