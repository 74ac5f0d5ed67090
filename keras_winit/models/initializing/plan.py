"""What `initialize` is asked for, its rules, and what it did, a row for each variable."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes import recipes
from keras_winit.schemes import names, scheme_class
from keras_winit.schemes.looks_linear import LooksLinear
from keras_winit.schemes.registry import get
from keras_winit.support.checks import Shape, did_you_mean, shown
from keras_winit.support.printing import Printed, Table, counted
from keras_winit.theory.fans import Fans

MODES = ("auto", "configured", "keep")
MIRRORED = LooksLinear.name  # its arguments follow from a kernel's place in the model


class Rule(NamedTuple):
    """A scheme for the variables that an expression is found in, or for all."""

    pattern: re.Pattern[str] | None
    scheme: Any  # one of MODES, MIRRORED, the name of a recipe, or an initializer

    def matches(self, slot: Slot) -> bool:
        """Whether the rule is about this variable or its layer."""
        return self.pattern is None or self.pattern.search(slot.path) is not None

    @property
    def is_about_all(self) -> bool:
        """Whether the rule names no variable."""
        return self.pattern is None or self.pattern.search("") is not None

    def names_the_variable(self, slot: Slot) -> bool:
        """Whether the rule is about this variable, and not its layer."""
        layer = slot.path.removesuffix(slot.variable.name)
        return self.pattern is not None and self.pattern.search(layer) is None


def rules_of(scheme: Any) -> list[Rule]:
    """The rules that `scheme` of `initialize` stands for."""
    if not isinstance(scheme, Mapping) or "class_name" in scheme:
        return [Rule(None, _scheme(scheme))]
    rules = []
    for pattern, item in scheme.items():
        try:
            expression = re.compile(pattern)
            expression.search("")  # one of bytes cannot
            rules.append(Rule(expression, _scheme(item)))
        except (re.error, TypeError, OverflowError, RecursionError) as error:
            if isinstance(pattern, str) and isinstance(error, TypeError):
                raise
            raise ValueError(
                f"A key of `scheme` must be a regular expression over variable paths. "
                f"Received: {shown(pattern)}: {error}."
            ) from error
    return rules


def unmatched(rules: list[Rule], slots: Sequence[Slot]) -> tuple[str, ...]:
    """The expressions that are found in no variable: a name may be mistyped."""
    unused = [rule.pattern for rule in rules if not any(map(rule.matches, slots))]
    return tuple(pattern.pattern for pattern in unused if pattern is not None)


def _scheme(item: Any) -> Any:
    if isinstance(item, str):
        known = (*MODES, *recipes())
        if item in known:
            return item
        if item.removeprefix("winit>") not in names(aliases=True):
            hint = did_you_mean(item, (*known, *names(aliases=True)))
            hint = " `calibrate` is a function, and a command, of its own." if item == "calibrate" else hint
            raise ValueError(
                f"`scheme` must be one of {list(MODES)}, a recipe of {list(recipes())}, the name of a "
                "scheme, an initializer, or a mapping of regular expressions to these. "
                f"Received: {shown(item)}.{hint}"
            )
        return MIRRORED if scheme_class(item) is LooksLinear else get(item)
    if callable(item) and not isinstance(item, (type, keras.initializers.Initializer)):
        return item  # a function of shape and dtype, as Keras takes it
    return get(item)


NOTHING_KNOWN = "no initial value is known for it"


def said_of_unmatched(expressions: tuple[str, ...]) -> str:
    """What a result's line says of `unmatched`."""
    return f"; found in no variable: {', '.join(map(repr, expressions))}" if expressions else ""


@dataclass(frozen=True)
class Row:
    """What is to become of one variable."""

    path: str
    shape: Shape
    role: str
    fans: Fans | None
    activation: str | None
    scheme: str | None  # None: it is kept
    seed: int | None
    reason: str


@dataclass(frozen=True, repr=False)  # one line, by `Printed`
class Plan(Printed):
    """The plan of `initialize`, a row for each variable, the kept ones included.

    Attributes:
        rows: in the order of the model's layers; each has `path`, `shape`, `role`, `fans`,
            `activation`, `scheme` (None: kept), `seed` and `reason`.
        seed: the root seed: with it, `initialize` does the same again.
        optimizer: what became of the optimizer's state.
        dry_run: whether the model was left as it was.
        unbuilt: the names of layers that the model holds but never called: they have no weights.
        unmatched: the expressions of a mapping that are found in no variable.

    Example:

    >>> import keras
    >>> from keras_winit import initialize
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu")])
    >>> plan = initialize(model, seed=0)
    >>> [(row.role, row.scheme) for row in plan.rows]
    [('kernel', 'glorot_uniform'), ('bias', 'zeros')]
    """

    rows: tuple[Row, ...]
    seed: int
    optimizer: str
    dry_run: bool
    unbuilt: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()

    @property
    def drawn(self) -> tuple[Row, ...]:
        """The rows that are drawn anew."""
        return tuple(row for row in self.rows if row.scheme is not None)

    @property
    def kept(self) -> tuple[Row, ...]:
        """The rows that are left as they are."""
        return tuple(row for row in self.rows if row.scheme is None)

    def _line(self) -> str:
        would = "would be " if self.dry_run else ""
        unknown = sum(row.reason == NOTHING_KNOWN for row in self.kept)
        loud = f" ({unknown} kept because nothing is known of it)" if unknown else ""
        never = f"; not built, and so not drawn: {', '.join(self.unbuilt)}" if self.unbuilt else ""
        return (
            f"{counted(len(self.drawn), 'variable')} {would}drawn, {len(self.kept)} kept{loud}; "
            f"seed {self.seed}; {self.optimizer}{never}{said_of_unmatched(self.unmatched)}"
        )

    def _tables(self) -> list[Table]:
        rows = []
        for row in self.rows:
            fans = f"{row.fans.fan_in:.6g}, {row.fans.fan_out:.6g}" if row.fans else "–"
            shape = "×".join(map(str, row.shape)) or "scalar"
            rows.append((row.path, shape, fans, row.activation or "–", row.scheme or "kept", row.reason))
        headings = ("variable", "shape", "fan_in, fan_out", "activation", "scheme", "reason")
        return [Table("Variables", headings, rows)]
