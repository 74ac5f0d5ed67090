"""Say what is wrong with a model, and what to do about it."""

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

import keras

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.attention import attentions
from keras_winit.models.anatomy.branches import branches_of
from keras_winit.models.anatomy.following import output_kernels
from keras_winit.models.diagnosing.answering import findings_inside, findings_of_loss, findings_of_outputs
from keras_winit.models.diagnosing.findings import Remedies, thresholds_with
from keras_winit.models.diagnosing.judging import Judge
from keras_winit.models.diagnosing.loss import guess_of, loss_of
from keras_winit.models.diagnosing.reading import what_is_left
from keras_winit.models.diagnosing.report import SEVERITIES, LayerRow, Report
from keras_winit.models.diagnosing.signals import signals
from keras_winit.models.diagnosing.weights import WeightCheck
from keras_winit.models.initializing.sizes import MANY
from keras_winit.models.running.batch import MOST_SAMPLES, batch_for
from keras_winit.models.tracing.structure import check_built, check_callable, unbuilt
from keras_winit.support.losses import check_labels

_MORE_PASSES = 2


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

    Of each layer it is noted how large its signal and a sample's gradient are, what share of its power
    differs between inputs, and how many directions that fills (its effective rank); of the last features,
    how well the labels, and the inputs themselves, can still be read off them. Weights that start at zero
    are judged by their gradient: one that differs between units learns, and is a note. Layers that get no
    gradient through such zeros are judged in a second pass, after these weights took one step, or in a
    third.

    Args:
        model: a built model of any kind.
        data: as `calibrate` takes it; None stands for a probe. A data set that has labels brings
            them along.
        labels: what the outputs are compared with, for the loss and the gradient. Without them
            random numbers are sent back, which shows the same growth or decay.
        loss: a name, a function or a `keras.losses.Loss`; None takes the compiled one.
        samples: the most samples that are used; None hands the batch on as it is, as for `calibrate`.
        thresholds: what counts as a finding, in place of the usual: a dict of names to a pair
            (warning, error) or one number for both. `keras_winit.models.diagnosing.findings` lists
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
    last = output_kernels(anatomy)
    compare = None if batch.labels is None else loss_of(model, loss)
    if compare is not None:
        check_labels(model, loss, batch.labels, anatomy.trace.outputs)
    elif loss is not None:
        raise ValueError("A `loss` needs `labels` to compare the outputs with. Pass them too.")
    weights = WeightCheck(limits, anatomy.slots)
    answers = [kernel.slot.layer for kernel in last]
    send = partial(signals, model, anatomy.slots, batch, compare, answers=answers, values=weights.values)
    first = seen = send(watched=weights.waiting)
    # What a zero kernel keeps the gradient from is seen once it has taken a step.
    for _ in range(_MORE_PASSES):
        if not weights.step(seen.gradients):
            break
        seen = send(watched=weights.waiting)
    left = what_is_left(seen, batch.labels)
    found = branches_of(anatomy)
    inside = {str(slot.layer.path) for branch in found for slot in branch.kernels}
    long = max((branch.depth for branch in found), default=0) >= MANY
    attends = long and bool(attentions(anatomy))
    judge = Judge(limits, Remedies(anatomy), left, inside, attends=attends)
    # An end of the model, or of a branch, may start near zero.
    ends = {slot for branch in found for slot in branch.last}
    findings = [
        *weights.findings(ends.union(kernel.slot for kernel in last)),
        *judge.findings(seen),
        *findings_inside(anatomy, seen, judge),
    ]
    width = first.outputs[0].shape[-1] if first.outputs and first.outputs[0].ndim else 1
    guess = guess_of(model, loss, batch.labels, width)
    if compare is not None:
        findings += findings_of_loss(model, first, guess, judge, loss=compare, batch=batch)
        findings += findings_of_outputs(model, first, loss)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    never = [f"{name}: never called, and has no weights yet" for name in unbuilt(model)]
    unseen = [
        f"{slot.path}: nothing is known of it: its layer is not seen" for slot in anatomy.slots if slot.unseen
    ]
    gradients = {layer.path: layer.gradient for layer in seen.layers}
    rows = []
    for layer in first.layers:
        shown = replace(layer, gradient=gradients.get(layer.path))
        rows.append(LayerRow(*(getattr(shown, field.name) for field in fields(LayerRow))))
    known = "with their labels" if batch.labels is not None else "without labels, with random gradients"
    return Report(
        tuple(findings),
        tuple(rows),
        tuple(weights.rows),
        first.loss,
        guess.best,
        str(batch),
        (*seen.notes, *never, *unseen),
        left.labels,
        left.inputs,
        f"It rests on {batch.samples} samples, {known}. "
        "It cannot see the learning rate, the optimizer, or data that it was not shown.",
    )
