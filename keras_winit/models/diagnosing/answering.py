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
    severity: str | None = None
    text = f"The first loss is {plain}."
    if not math.isfinite(plain):
        severity = "error"
    elif fair is not None and fair > 0:
        severity = judge.limits["initial_loss"].severity(plain / fair)
        text = f"The first loss is {plain:.4g}; that of the best constant guess is {fair:.4g}."
    if severity:
        yield Finding(
            "initial_loss",
            severity,
            model.name,
            text,
            {"loss": plain, "guess": math.nan if fair is None else fair},
            "Scale the outputs, `calibrate(model, data, labels, loss)`, start the last bias at the prior, "
            "`bias_initializer=PriorBias(counts)`, and standardize regression targets.",
        )
    more, measure = seen.penalties, max(plain, fair or 0.0)
    if measure > 0:
        yield from judge.above(
            "penalties",
            more / measure,
            model.name,
            f"Penalties add {more:.4g} to a first loss of {plain:.4g}: it starts by making weights small.",
            figures={"loss": plain, "penalties": more},
            remedy="Lower the factors of the regularizers, as "
            "`kernel_regularizer=keras.regularizers.L2(1e-4)`.",
        )


def findings_of_outputs(model: keras.Model, seen: Signals, loss: Any) -> Iterator[Finding]:
    """Outputs that are not what a crossentropy takes them for."""
    for output, each in zip(seen.outputs, losses_by_output(model, loss, len(seen.outputs)), strict=True):
        name = loss_name(each)
        if name not in CROSSENTROPIES or not np.isfinite(output).all():
            continue
        shares = bool(np.all((output >= 0) & (output <= 1)))
        if shares and "binary" not in name and output.shape[-1] > 1:
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
        if not shares and not takes_logits(each) and output.min() < 0:
            least, most = float(output.min()), float(output.max())
            yield Finding(
                "no_probabilities",
                "error",
                model.name,
                f"The loss takes the outputs for probabilities, and they go from {least:.3g} to {most:.3g}: "
                "what is below zero gets no gradient.",
                {"least": least, "most": most},
                "Use `from_logits=True`, or end the model in a softmax or sigmoid.",
            )


_SHUT = math.log(99.0)  # a sigmoid beyond it is within 1 % of an end
_WIDE = 2.0  # deviations: nearly all of what a gate is given
# At which end a gate lets nothing new pass: −1 shut, 1 open. An open forget gate may be meant to keep all.
_STUCK_AT = {"input": -1, "forget": -1, "output": -1, "update": 1, "reset": -1}


def findings_inside(anatomy: Anatomy, seen: Signals, judge: Judge) -> Iterator[Finding]:
    """What is wrong with gates, attention and normalizations."""
    rows = {row.path: row for row in seen.layers}
    sizes: dict[Any, dict[str, float]] = {}
    for slot in anatomy.slots:
        row = rows.get(slot.layer.path or slot.layer.name) if slot.role == "kernel" else None
        if row is None or not row.finite:
            continue
        if abs(row.mean) - _WIDE * row.std > _SHUT and is_gate(anatomy, slot):
            yield _stuck(row.path, "gate", row.mean)
        if slot.attention is not None:
            sizes.setdefault(slot.attention, {})[slot.layer.name] = math.hypot(row.mean, row.std)
    yield from _stuck_cells(anatomy)
    for layer, found in sizes.items():
        if "query" not in found or "key" not in found:
            continue
        # A product of d independent numbers, over √d, has the deviation of one of them.
        size = found["query"] * found["key"]
        yield from judge.above(
            "one_hot_attention",
            size,
            layer.path or layer.name,
            f"Its queries times its keys have a deviation of about {size:.3g}: their softmax is one for "
            "one key and zero for the rest, and lets no gradient pass.",
            figures={"deviation": size},
            remedy="Normalize what it reads, `keras.layers.LayerNormalization()`, or draw smaller kernels: "
            "`initialize(model)`.",
        )
    for layer, variance in seen.normalized.items():
        ratio = layer.epsilon / variance if variance > 0 else math.inf
        severity = judge.limits["epsilon"].severity(ratio)
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


def _stuck(path: str, gate: str, end: float) -> Finding:
    """A gate that is open (above zero) or shut."""
    return Finding(
        "stuck_gate",
        "error",
        path,
        f"Its {gate} is {'open' if end > 0 else 'shut'} for nearly every input, by more than 99 %: it lets "
        "no gradient pass.",
        {},
        'Let its bias be near zero: `bias_initializer="zeros"`, or draw it anew, `initialize(model)`.',
    )


def _stuck_cells(anatomy: Anatomy) -> Iterator[Finding]:
    """Gates of recurrent layers whose kernels cannot make up for the bias."""
    for slot in anatomy.slots:
        names = gates(slot.layer)
        if slot.role != "bias" or not names:
            continue
        bias = host_array(exact_value(slot.variable)).astype("float64")
        bias = bias.sum(axis=0) if bias.ndim == 2 else bias  # GRU's, for the input and the state
        for gate, part in zip(names, np.split(bias, len(names)), strict=True):
            end = _STUCK_AT.get(gate, 0)
            if end and np.mean(end * part > 2 * _SHUT) > 0.95:
                yield _stuck(slot.path, f"{gate} gate", end)
