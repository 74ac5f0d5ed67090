"""What `initialize` did to a model, or would do."""

from dataclasses import dataclass

from keras_winit.models.showing.printing import Printed, Table, counted
from keras_winit.support.checks import Shape
from keras_winit.theory.fans import Fans

NOTHING_KNOWN = "no initial value is known for it"


def said_of_unmatched(expressions: tuple[str, ...]) -> str:
    """What a line says of expressions that are found in no variable."""
    return f"; found in no variable: {', '.join(map(repr, expressions))}" if expressions else ""


@dataclass(frozen=True)
class Row:
    """What is to become of one variable; `scheme` is None where it is kept as it is."""

    path: str
    shape: Shape
    role: str
    fans: Fans | None
    activation: str | None
    scheme: str | None
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
        """The rows of the variables that are drawn anew."""
        return tuple(row for row in self.rows if row.scheme is not None)

    @property
    def kept(self) -> tuple[Row, ...]:
        """The rows of the variables that are left as they are."""
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
