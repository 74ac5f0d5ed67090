"""What the first loss and the outputs say: against guessing, penalties, and what the loss takes them for."""

import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_winit.models.diagnosing.guessing import Guess, LossOf
from keras_winit.models.diagnosing.judging import Judge
from keras_winit.models.diagnosing.report import Finding
from keras_winit.models.diagnosing.signals import Signals
from keras_winit.models.running.batch import Batch
from keras_winit.support.losses import CROSSENTROPIES, loss_name, losses_by_output, takes_logits

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
