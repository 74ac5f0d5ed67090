"""Say what is wrong with a model's weights, signals and gradients, and what to do about it."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.outputs import output_kernels
from keras_winit.models.diagnosing.guessing import loss_of, loss_of_guessing, loss_of_indifference
from keras_winit.models.diagnosing.report import SEVERITIES, Finding, LayerRow, Report
from keras_winit.models.diagnosing.signals import Seen, Signals, signals
from keras_winit.models.diagnosing.thresholds import Threshold, thresholds_with
from keras_winit.models.diagnosing.weights import WeightCheck
from keras_winit.models.running.batch import MOST_SAMPLES, batch_for
from keras_winit.models.tracing.ownership import check_built, check_callable, unbuilt

_CALIBRATE = "Give every layer the same deviation: `calibrate(model, data)`."


def diagnose(
    model: keras.Model,
    data: Any = None,
    labels: Any = None,
    loss: Any = None,
    *,
    samples: int | None = MOST_SAMPLES,
    thresholds: Mapping[str, Any] | None = None,
) -> Report:
    """Find what keeps a model from learning: in its weights, its signals and its gradients.

    Weights are compared with the theory of their own initializers and with one another; then a
    batch goes through the model, forwards and backwards, as a training step would send it. The
    model and its state are left as they are.

    Args:
        model: a built model of any kind.
        data: as `calibrate` takes it; None stands for a probe. A data set that has labels brings
            them along.
        labels: what the outputs are compared with, for the loss and the gradient. Without them
            random numbers are sent back, which shows the same growth or decay.
        loss: a name, a function or a `keras.losses.Loss`; None takes the compiled one.
        samples: the most samples that are used; None hands the batch on as it is, as for `calibrate`.
        thresholds: what counts as a finding, in place of the usual: a dict of names to a pair
            (warning, error) or one number for both. `keras_winit.models.diagnosing.thresholds` lists
            them with their reasons.

    Returns:
        A `Report`: `ok`, `findings`, and the figures of every layer and weight. Printing it shows
        tables; `plot()` draws them, `to_dict()` is for machines.

    Raises:
        TypeError, ValueError: for an unbuilt model, bad data or labels, or an unknown loss.

    Example:

    >>> inputs = keras.Input((30,))
    >>> x = keras.layers.Dense(20, activation="relu")(inputs)
    >>> outputs = keras.layers.Dense(4, kernel_initializer=keras.initializers.Constant(0.1))(x)
    >>> report = diagnose(keras.Model(inputs, outputs))
    >>> report.ok, [finding.code for finding in report.findings]
    (False, ['constant'])
    """
    limits = thresholds_with(thresholds)
    check_built(model)
    check_callable(model)
    batch = batch_for(model, data, labels, samples=samples)
    anatomy = Anatomy(model, batch.inputs)
    found = anatomy.slots
    outputs = [kernel.slot.layer for kernel in output_kernels(anatomy)]
    unknown = [f"{slot.path}: nothing is known of it: its layer is not seen" for slot in found if slot.unseen]
    compare = None if batch.labels is None else loss_of(model, loss)
    if compare is None and loss is not None:
        raise ValueError("A `loss` needs `labels` to compare the outputs with. Pass them too.")
    check = WeightCheck(limits)
    check.look(found)
    seen = signals(model, found, batch, compare, outputs=outputs)
    guess = loss_of_guessing(model, loss, batch.labels)
    findings = [*check.findings, *_of_signals(seen, limits)]
    if seen.loss is not None:
        # Like with like: no weights, no penalties, and no worse than not knowing the classes' shares.
        fair = None if guess is None else max(guess, loss_of_indifference(model, loss, seen.width))
        first = seen.loss if seen.plain_loss is None else seen.plain_loss
        findings += _of_loss(model, first, fair, limits["initial_loss"])
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    never = [f"{name}: never called, and has no weights yet" for name in unbuilt(model)]
    rows = tuple(_row(layer) for layer in seen.layers)
    notes = tuple(seen.notes + never + unknown)
    return Report(tuple(findings), rows, tuple(check.rows), seen.loss, guess, str(batch), notes)


def _row(seen: Seen) -> LayerRow:
    return LayerRow(
        seen.path,
        seen.activation,
        seen.mean,
        seen.std,
        seen.distinct,
        seen.dead,
        seen.saturated,
        seen.gradient,
    )


def _of_signals(seen: Signals, limits: Mapping[str, Threshold]) -> Iterator[Finding]:
    broken = next((layer for layer in seen.layers if not layer.finite), None)
    if broken is not None:
        yield Finding(
            "non_finite",
            "error",
            broken.path,
            "What it computes is NaN or infinite.",
            {},
            "Look at its weights and at what feeds it, then draw it anew: `initialize(model)`.",
        )
    healthy = [layer for layer in seen.layers if layer.finite]
    for layer in healthy:
        yield from _of_layer(layer, limits)
    weighted = [layer for layer in healthy if layer.weighted]
    if weighted:
        yield from _of_scale(weighted, seen.input_std, limits)
        yield from _of_differences(weighted, seen.input_distinct, limits)


def _of_scale(weighted: list[Seen], input_std: float, limits: Mapping[str, Threshold]) -> Iterator[Finding]:
    """How signal and gradient grow or fall along depth."""
    start = input_std if input_std > 0 else weighted[0].std
    if not start > 0:
        return
    # Large data that is normalized inside the model does not make the signal behind small.
    behind = next((layer.std for layer in weighted if layer.normalized), 0.0)
    normal = min(start, behind) if behind > 0 else start
    ratios = [layer.std / (normal if layer.normalized else start) for layer in weighted]
    yield from _first_beyond("vanishing_signal", weighted, _lasting(ratios), limits)
    yield from _first_beyond("exploding_signal", weighted, ratios, limits)
    # From the output backwards, as the gradient goes.
    graded = [layer for layer in reversed(weighted) if layer.gradient is not None]
    last = next((layer.gradient for layer in graded if layer.gradient), None)
    if last is None:
        return
    ratios = []
    for layer in graded:
        # Before a normalization, a gradient is as much smaller as the signal is larger.
        share = layer.std / normal if behind > 0 and not layer.normalized else 1.0
        ratios.append((layer.gradient or 0.0) / last * max(share, 1.0))
    yield from _first_beyond("vanishing_gradient", graded, _lasting(ratios), limits)
    yield from _first_beyond("exploding_gradient", graded, ratios, limits)


def _of_differences(
    weighted: list[Seen], input_distinct: float | None, limits: Mapping[str, Threshold]
) -> Iterator[Finding]:
    """Whether different inputs still look different at depth."""
    known = [layer for layer in weighted if layer.distinct is not None]
    power = input_distinct or next((layer.distinct for layer in known if layer.distinct), None)
    if power and known:
        falls = _lasting([(layer.distinct or 0.0) / power for layer in known])
        yield from _first_beyond("input_collapse", known, falls, limits)


def _lasting(ratios: list[float]) -> list[float]:
    """How far each figure has fallen for good: by the largest that is still to come.

    What is small in a side branch, such as a gate or a scaled residual, and is whole again after it,
    has not vanished.
    """
    peaks = list(itertools.accumulate(reversed(ratios), max))[::-1]
    return [1 / peak if peak > 0 else math.inf for peak in peaks]


_FALLS = "falls to 1/{0} of {1} here, and to 1/{2} at {3}."
_GROWS = "grows to {0} times {1} here, and to {2} times at {3}."
_SIGNAL, _GRADIENT = "what enters the model", "the last layer's"
_COLLAPSE = "Use an activation of zero mean, a normalization, or fewer layers, then `initialize(model)`."

# What is seen, against what, and the remedy.
_WHAT = {
    "vanishing_signal": (f"The signal {_FALLS}", _SIGNAL, _CALIBRATE),
    "exploding_signal": (f"The signal {_GROWS}", _SIGNAL, _CALIBRATE),
    "input_collapse": (f"What differs between inputs {_FALLS}", "its share in the inputs", _COLLAPSE),
    "vanishing_gradient": (f"The gradient {_FALLS}", _GRADIENT, _CALIBRATE),
    "exploding_gradient": (f"The gradient {_GROWS}", _GRADIENT, _CALIBRATE),
}


def _first_beyond(
    code: str, layers: list[Seen], figures: list[float], limits: Mapping[str, Threshold]
) -> Iterator[Finding]:
    """The first layer whose figure is beyond the threshold, with how far it goes."""
    limit = limits[code]
    if code in ("vanishing_signal", "vanishing_gradient", "input_collapse"):
        warning, error = (1 / bound if bound > 0 else math.inf for bound in limit[:2])
        limit = Threshold(warning, error, limit.reason)
    worst = max(figures)
    if not worst > limit.warning:
        return
    severity = "error" if worst > limit.error else "warning"
    bound = limit.error if severity == "error" else limit.warning
    first = next(index for index, figure in enumerate(figures) if figure > bound)
    message, against, remedy = _WHAT[code]
    at = layers[figures.index(worst)].path
    text = message.format(f"{figures[first]:.3g}", against, f"{worst:.3g}", at)
    yield Finding(code, severity, layers[first].path, text, {"ratio": figures[first], "worst": worst}, remedy)


def _of_layer(layer: Seen, limits: Mapping[str, Threshold]) -> Iterator[Finding]:
    for code, figure, message, remedy in (
        (
            "dead_units",
            layer.dead,
            "{:.0%} of its units give the same for every input.",
            "Draw it anew with biases of zero, `initialize(model)`, or use leaky_relu.",
        ),
        (
            "saturated",
            layer.saturated,
            "{:.0%} of its activations are at the ends of the function, where it is flat.",
            _CALIBRATE,
        ),
    ):
        if figure is None:
            continue
        limit = limits[code]
        severity = "error" if figure > limit.error else "warning" if figure > limit.warning else None
        if severity:
            yield Finding(code, severity, layer.path, message.format(figure), {"share": figure}, remedy)


def _of_loss(model: keras.Model, loss: float, guess: float | None, limit: Threshold) -> Iterator[Finding]:
    if not math.isfinite(loss):
        message, ratio = f"The first loss is {loss}.", math.inf
    elif guess is None or not guess > 0 or loss / guess <= limit.warning:
        return
    else:
        ratio = loss / guess
        message = f"The first loss is {loss:.4g}; that of the best constant guess is {guess:.4g}."
    yield Finding(
        "initial_loss",
        "error" if ratio > limit.error else "warning",
        model.name,
        message,
        {"loss": loss, "guess": guess or math.nan},
        "Scale the outputs, `calibrate(model, data)`, start the last bias at the prior, "
        "`bias_initializer=PriorBias(counts)`, and standardize regression targets.",
    )
