"""What `diagnose` saw in a model."""

from dataclasses import dataclass
from typing import Any

from keras_winit.support.checks import Shape
from keras_winit.support.printing import Printed, Table, counted, number, share

_LAYER_HEADINGS = (
    *("layer", "activation", "mean", "deviation", "gradient", "directions"),
    *("distinct", "dead", "saturated"),
)

_LAYER_LEGEND = (
    "mean, deviation, gradient: before the activation. directions: how many the inputs' differences fill.\n"
    "distinct: the share of power that differs between inputs. dead: units that are one number for all.\n"
    "saturated: activations at the ends of a bounded function."
)

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a model.

    Attributes:
        code: what kind of thing, such as "vanishing_signal".
        severity: "error" for what keeps a network from learning, "warning" for what may slow it, "note" for
            what looks odd and is no hindrance.
        path: the variable or layer, or the model's name.
        message: what was seen, with its figures.
        figures: the figures by name.
        remedy: one sentence that names the call to make.

    Example:

    >>> import keras
    >>> from keras_winit import diagnose
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_initializer="zeros")])
    >>> finding = diagnose(model).findings[0]
    >>> finding.code, finding.severity
    ('zero', 'note')
    """

    code: str
    severity: str
    path: str
    message: str
    figures: dict[str, float]
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.code} in {self.path}: {self.message} {self.remedy}"


@dataclass(frozen=True)
class LayerRow:
    """What one layer did with the batch; None for nothing of the kind.

    Attributes:
        mean, std, gradient: of what it computes before its activation; the gradient's size for one sample.
        distinct, rank: the share of its activations' power that differs between inputs, and how many
            directions that fills (the effective rank); at an output, before the activation.
        dead: the share of its units that give the same for every input, whatever they are given.
        saturated: the share of its activations at the ends of a bounded function.
    """

    path: str
    activation: str | None
    mean: float
    std: float
    distinct: float | None
    dead: float | None
    saturated: float | None
    gradient: float | None
    rank: float | None = None


@dataclass(frozen=True)
class WeightRow:
    """The standard deviation of a weight, and that of its own initializer."""

    path: str
    shape: Shape
    role: str
    std: float
    expected: float | None


@dataclass(frozen=True, repr=False)  # one line, by `Printed`
class Report(Printed):
    """What `diagnose` found in a model, and the figures behind it.

    Attributes:
        findings: the worst first.
        layers: what each layer did with the batch, in the order in which they were called.
        weights: each kernel and embedding against its theory.
        loss: the loss on the batch, or None without labels.
        loss_of_guessing: that of the best constant guess, or None where it is not known.
        batch: what was sent through the model.
        notes: what could not be looked at, and why.
        labels_left: how far labels can be read off the last hidden features, by a ridge regression with each
            sample left out once, against off the inputs; None without labels, or where they cannot be read
            off the inputs either.
        inputs_left: the share of the inputs' variance, along their first ten principal axes, that can be read
            off the last hidden features, or None.
        rests_on: what the verdict rests on, and what it cannot see.

    Example:

    >>> import keras
    >>> from keras_winit import diagnose
    >>> model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(30, "relu"), keras.layers.Dense(9)])
    >>> report = diagnose(model)
    >>> report.ok, report.findings
    (True, ())
    """

    findings: tuple[Finding, ...]
    layers: tuple[LayerRow, ...]
    weights: tuple[WeightRow, ...]
    loss: float | None
    loss_of_guessing: float | None
    batch: str
    notes: tuple[str, ...] = ()
    labels_left: float | None = None
    inputs_left: float | None = None
    rests_on: str = ""

    _whole = False

    @property
    def ok(self) -> bool:
        """Whether there is no finding of severity error."""
        return not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings of severity error."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON, and whether it is `ok`."""
        return {"ok": self.ok, **super().to_dict()}

    def plot(self) -> Any:
        """Signal and gradient along depth, weights against theory, dead and saturated units.

        Returns:
            The `matplotlib.figure.Figure`, to be shown or saved.

        Raises:
            ImportError: without matplotlib; `pip install "keras-winit[plots]"`.
        """
        from keras_winit.plots import plot_report  # noqa: PLC0415 - needs an extra

        return plot_report(self)

    def _line(self) -> str:
        found = {name: sum(each.severity == name for each in self.findings) for name in SEVERITIES}
        counts = [counted(number, name) for name, number in found.items() if number or name != "note"]
        line = f"{'healthy' if self.ok else 'not healthy'}: {', '.join(counts)}, on {self.batch}"
        if self.loss is not None:
            line += f"; loss {self.loss:.4g}"
            if self.loss_of_guessing is not None:
                line += f" (guessing: {self.loss_of_guessing:.4g})"
        unseen = (f"not seen: {note}" for note in self.notes)
        return "\n".join(filter(None, (line, self.rests_on, *unseen)))

    def _tables(self) -> list[Table]:
        findings = [(f.severity, f.code, f.path, f.message, f.remedy) for f in self.findings]
        layers = [
            (
                row.path,
                row.activation or "–",
                *map(number, (row.mean, row.std, row.gradient, row.rank)),
                *map(share, (row.distinct, row.dead, row.saturated)),
            )
            for row in self.layers
        ]
        weights = []
        for row in self.weights:
            ratio = row.std / row.expected if row.expected else None
            figures = map(number, (row.std, row.expected, ratio))
            weights.append((row.path, "×".join(map(str, row.shape)), *figures))
        tables = [
            Table("Findings", ("severity", "code", "where", "what", "remedy"), findings),
            Table("Layers", _LAYER_HEADINGS, layers, _LAYER_LEGEND),
            Table("Weights", ("variable", "shape", "deviation", "expected", "ratio"), weights),
        ]
        return [table for table in tables if table.rows]
