"""What outputs, the first loss, gates, softmaxes and normalizations say."""

import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.following import is_gate
from keras_winit.models.diagnosing.judging import Judge
from keras_winit.models.diagnosing.loss import Guess, LossOf
from keras_winit.models.diagnosing.report import Finding
from keras_winit.models.diagnosing.signals import Signals
from keras_winit.models.running.batch import Batch
from keras_winit.models.running.undo import exact_value
from keras_winit.support.host import host_array
from keras_winit.support.losses import CROSSENTROPIES, loss_name, losses_by_output, takes_logits
from keras_winit.theory.fans import gates

_ROUNDING = 1e-3  # of a sum of shares


def findings_of_loss(
    model: keras.Model, seen: Signals, guess: Guess, judge: Judge, *, loss: LossOf, batch: Batch
) -> Iterator[Finding]:
    """A first loss far above that of constant answers, or made of penalties."""
    if seen.loss is None:
        return
    plain = seen.loss if seen.plain_loss is None else seen.plain_loss
    fair, outputs = guess.fair, seen.packed
    if fair is None and outputs is not None:
        fair = loss.of_constants(batch, outputs)
    if not math.isfinite(plain):
        yield _initial(model, "error", f"The first loss is {plain}.", plain, fair)
    elif fair is not None and fair > 0:
        severity = judge.severity("initial_loss", plain / fair)
        if severity:
            text = f"The first loss is {plain:.4g}; that of the best constant guess is {fair:.4g}."
            yield _initial(model, severity, text, plain, fair)
    more, measure = seen.penalties, max(plain, fair or 0.0)
    severity = judge.severity("penalties", more / measure) if measure > 0 else None
    if severity:
        yield Finding(
            "penalties",
            severity,
            model.name,
            f"Penalties add {more:.4g} to a first loss of {plain:.4g}: it starts by making weights small.",
            {"loss": plain, "penalties": more},
            "Lower the factors of the regularizers, as `kernel_regularizer=keras.regularizers.L2(1e-4)`.",
        )


def _initial(model: keras.Model, severity: str, text: str, loss: float, guess: float | None) -> Finding:
    return Finding(
        "initial_loss",
        severity,
        model.name,
        text,
        {"loss": loss, "guess": math.nan if guess is None else guess},
        "Scale the outputs, `calibrate(model, data, labels, loss)`, start the last bias at the prior, "
        "`bias_initializer=PriorBias(counts)`, and standardize regression targets.",
    )


def findings_of_outputs(model: keras.Model, seen: Signals, loss: Any) -> Iterator[Finding]:
    """Outputs that are not what a crossentropy takes them for: probabilities, or numbers before a softmax."""
    given = loss if loss is not None else getattr(model, "loss", None)
    for output, each in zip(seen.outputs, losses_by_output(model, given, len(seen.outputs)), strict=True):
        if loss_name(each) not in CROSSENTROPIES or not np.isfinite(output).all():
            continue
        many = "binary" not in loss_name(each) and output.shape[-1] > 1
        shares = bool(np.all((output >= 0) & (output <= 1)))
        if many and shares:
            shares = bool(np.all(np.abs(output.astype("float64").sum(axis=-1) - 1) < _ROUNDING))
        if shares and takes_logits(each):
            yield Finding(
                "softmax_twice",
                "warning",
                model.name,
                "The loss takes the outputs for logits, and they are probabilities already: it cannot come "
                "near zero, and its gradient is small.",
                {},
                "Use `from_logits=False`, or leave the last activation out.",
            )
        if not shares and not takes_logits(each) and float(output.min()) < 0:
            yield Finding(
                "no_probabilities",
                "error",
                model.name,
                f"The loss takes the outputs for probabilities, and they go from {float(output.min()):.3g} "
                f"to {float(output.max()):.3g}: what is below zero gets no gradient.",
                {"least": float(output.min()), "most": float(output.max())},
                "Use `from_logits=True`, or end the model in a softmax or sigmoid.",
            )


_SHUT = math.log(99.0)  # a sigmoid beyond it is within 1 % of an end
_WIDE = 2.0  # deviations: nearly all of what a gate is given
# At which end a gate lets nothing new pass: −1 shut, 1 open. A forget gate that is open keeps what there
# is, as it may be meant to.
_STUCK_AT = {"input": -1, "forget": -1, "output": -1, "update": 1, "reset": -1}


def findings_inside(anatomy: Anatomy, seen: Signals, judge: Judge) -> Iterator[Finding]:
    """What is wrong with gates, attention and normalizations."""
    yield from _stuck_gates(anatomy, seen)
    yield from _stuck_cells(anatomy)
    yield from _attention(anatomy, seen, judge)
    for layer, variance in seen.normalized.items():
        ratio = layer.epsilon / variance if variance > 0 else math.inf
        severity = judge.severity("epsilon", ratio)
        if severity:
            yield Finding(
                "epsilon",
                severity,
                layer.path or layer.name,
                f"Its ε of {layer.epsilon:g} is {ratio:.3g} times the variance that it is to divide by, "
                f"{variance:.3g}: what it puts out has a deviation of {1 / math.sqrt(1 + ratio):.2g}, not 1.",
                {"ratio": ratio, "variance": variance},
                "Lower it, as `epsilon=1e-12`, or make larger what it reads.",
            )


def _stuck(path: str, gate: str, end: str, *, severity: str) -> Finding:
    return Finding(
        "stuck_gate",
        severity,
        path,
        f"Its {gate} is {end} for nearly every input, by more than 99 %: it lets no gradient pass.",
        {},
        'Let its bias be near zero: `bias_initializer="zeros"`, or draw it anew, `initialize(model)`.',
    )


def _stuck_gates(anatomy: Anatomy, seen: Signals) -> Iterator[Finding]:
    rows = {row.path: row for row in seen.layers}
    for slot in anatomy.slots:
        row = rows.get(slot.layer.path or slot.layer.name) if slot.role == "kernel" else None
        if row is None or not row.finite or not is_gate(anatomy, slot):
            continue
        if abs(row.mean) - _WIDE * row.std > _SHUT:
            yield _stuck(row.path, "gate", "open" if row.mean > 0 else "shut", severity="error")


def _stuck_cells(anatomy: Anatomy) -> Iterator[Finding]:
    """Gates of recurrent layers whose bias alone is beyond what their kernels can make up for."""
    for slot in anatomy.slots:
        names = gates(slot.layer)
        if slot.role != "bias" or not names:
            continue
        bias = host_array(exact_value(slot.variable)).astype("float64")
        bias = bias.sum(axis=0) if bias.ndim == 2 else bias  # GRU's, for the input and the state
        for gate, part in zip(names, np.split(bias, len(names)), strict=True):
            end = _STUCK_AT.get(gate, 0)
            if end and np.mean(end * part > 2 * _SHUT) > 0.95:
                yield _stuck(slot.path, f"{gate} gate", "open" if end > 0 else "shut", severity="error")


def _attention(anatomy: Anatomy, seen: Signals, judge: Judge) -> Iterator[Finding]:
    """Products of queries and keys so large that each query sees one key only."""
    rows = {row.path: row for row in seen.layers}
    sizes: dict[Any, dict[str, float]] = {}
    for slot in anatomy.slots:
        row = rows.get(slot.layer.path or slot.layer.name)
        if slot.attention is not None and slot.role == "kernel" and row is not None and row.finite:
            sizes.setdefault(slot.attention, {})[slot.layer.name] = math.hypot(row.mean, row.std)
    for layer, found in sizes.items():
        if "query" not in found or "key" not in found:
            continue
        # A product of d independent numbers, over √d, has the deviation of one of them.
        size = found["query"] * found["key"]
        severity = judge.severity("one_hot_attention", size)
        if severity:
            yield Finding(
                "one_hot_attention",
                severity,
                layer.path or layer.name,
                f"Its queries times its keys have a deviation of about {size:.3g}: their softmax is one for "
                "one key and zero for the rest, and lets no gradient pass.",
                {"deviation": size},
                "Normalize what it reads, `keras.layers.LayerNormalization()`, or draw smaller kernels: "
                "`initialize(model)`.",
            )
