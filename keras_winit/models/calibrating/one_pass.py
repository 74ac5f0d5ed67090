"""One forward pass that rescales what it reaches."""

import contextlib
import math
from functools import partial
from typing import Any

import keras
from keras import layers, ops

from keras_winit.models.anatomy.following import activation_behind
from keras_winit.models.anatomy.normalizing import normalizations_after
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.calibrating.calibration import Bounds, CalibrationRow, reason_to_leave
from keras_winit.models.calibrating.centring import Centring, MovingStatistics, let_means_stay
from keras_winit.models.calibrating.composite import CellRescaler, RecurrentRescaler, Replayer, call_to_replay
from keras_winit.models.calibrating.rescaling import Normalized, Rescaler, all_steps_at_once
from keras_winit.models.calibrating.targets import Answers, Targets
from keras_winit.models.initializing.fitting import remember
from keras_winit.models.initializing.initialize import Drawing
from keras_winit.models.running.batch import Batch, call_on, handed_on
from keras_winit.models.running.undo import Undo, assign_exactly, exact_value
from keras_winit.models.running.watching import as_written, intercepted, no_gradients, untouched
from keras_winit.schemes.base import remade
from keras_winit.schemes.compose import Scaled
from keras_winit.support.exact import moments
from keras_winit.support.printing import progress as progress_bar
from keras_winit.theory.fans import CELLS

_NOT_CALLED = "not called on this data"


class Pass:
    """One forward pass that rescales what it reaches."""

    def __init__(
        self, drawing: Drawing, target: Targets, *, centring: Centring, answers: Answers, undo: Undo
    ) -> None:
        self.rows: list[CalibrationRow] = []
        self.statistics: list[str] = []  # the paths of those that are set
        self._target = target
        self._bounds = Bounds(drawing.anatomy)
        self._answers = answers
        self._centring = centring
        self._undo = undo
        self._open: dict[int, Slot] = {}  # the kernels that are still to be reached
        self._advance: Any = lambda: None
        self._anatomy = drawing.anatomy
        self._drawing = drawing
        self._told: dict[Any, MovingStatistics] = {}
        self._hooks = self._hooks_for(drawing.slots)

    @property
    def changed(self) -> bool:
        """Whether anything was."""
        return bool(self.statistics) or any(row.factor is not None for row in self.rows)

    def run(self, model: keras.Model, batch: Batch, *, show: bool) -> None:
        """Send the batch through the model."""
        for slot in self._open.values():  # before any layer of mixed precision is entered
            self._undo.keep(slot.variable)
            self._take_mean(slot)
        for bias in self._biases.values():
            self._undo.keep(bias.variable)
        with contextlib.ExitStack() as stack:
            stack.enter_context(no_gradients())
            stack.enter_context(untouched(model, self._undo))
            stack.enter_context(as_written(model))
            if batch.probe:
                stack.enter_context(handed_on(model))
            stack.enter_context(intercepted(self._hooks))
            self._advance = stack.enter_context(progress_bar("calibrating", len(self._open), show=show))
            call_on(model, batch)
        for told in self._told.values():  # which the pass itself was to leave as they were
            for variable, value in told.values:
                self._undo.assign(variable, value)
                self.statistics.append(variable.path)
        for slot in list(self._open.values()):
            self._settle(slot, [None], None, _NOT_CALLED)

    def _hooks_for(self, slots: list[Slot]) -> dict[Any, Any]:
        kernels: dict[int, list[Slot]] = {}
        for slot in slots:
            if slot.role not in ("kernel", "embedding"):
                continue
            reason = reason_to_leave(slot, self._drawing)
            if reason:
                self._settle(slot, [None], None, reason)
            else:
                self._open[id(slot.variable)] = slot
                kernels.setdefault(id(slot.layer), []).append(slot)
        self._biases = biases = {id(slot.layer): slot for slot in slots if slot.role == "bias"}
        hooks: dict[Any, Any] = {}
        recurrent: dict[int, tuple[Any, list[tuple[Any, Slot]]]] = {}
        for found in kernels.values():
            slot = found[0]
            around = next((layer for layer in reversed(slot.parents) if isinstance(layer, layers.RNN)), None)
            stacked = around is not None and slot.layer in getattr(around.cell, "cells", [around.cell])
            if isinstance(slot.layer, CELLS) and stacked:
                recurrent.setdefault(id(around), (around, []))[1].append((slot.layer, slot))
                continue
            if isinstance(slot.layer, CELLS):
                hooks[slot.layer] = CellRescaler(slot, self._target, self._settle)
                continue
            traced = call_to_replay(self._anatomy, found)
            if traced is not None:
                normalized = partial(self._normalized, centred=False)
                told: dict[str, Any] = {
                    "target": self._target,
                    "settle": self._settle,
                    "most": self._most,
                    "normalized": normalized,
                }
                hooks[slot.layer] = Replayer(traced, self._anatomy, slots=found, **told)
                continue
            hook = Rescaler(slot.layer, found, biases.get(id(slot.layer)), self._target, self._settle)
            self._place(hook, found[-1])
            hook.normalized = self._normalized(found[-1], centred=hook.place is not None)
            hooks[slot.layer] = hook
            over_time = slot.parents[-1] if slot.parents else None
            if isinstance(over_time, layers.TimeDistributed) and over_time.layer is slot.layer:
                hooks[over_time] = all_steps_at_once(slot.layer)
        for layer, cells in recurrent.values():
            hooks[layer] = RecurrentRescaler(layer, cells, self._target, self._settle)
        self._tell_those_that_start()
        return {**hooks, **self._told}

    def _tell_those_that_start(self) -> None:
        """Batch normalizations anywhere that have seen no data measure it, as they will in training."""
        for layer in self._drawing.anatomy.model._flatten_layers():
            if self._starts(layer):
                self._told.setdefault(layer, MovingStatistics(layer))
        steps = [step for layer in self._told for step in self._anatomy.trace.of(layer)[:1]]
        activations = [activation_behind(self._anatomy, list(step.outputs))[0] for step in steps]
        if self._centring.center != "bias":
            let_means_stay(self._told.values(), activations)

    def _place(self, hook: Rescaler, slot: Slot) -> None:
        """Where the mean of a kernel's output is to be."""
        if slot not in self._answers:
            hook.place = self._centring.place(slot)
        elif self._centring.may_move(slot):
            hook.place = self._answers.place(slot)
        else:
            hook.whole = not self._centring.has_bias(slot)
        if slot in self._answers or hook.place is None:
            hook.most = self._most

    def _most(self, slot: Slot) -> float:
        """The largest factor: answers, and kernels in short chains, are made no larger than their fans."""
        if slot in self._answers or self._target.is_gentle(slot):
            return self._bounds.most(slot, answers=slot in self._answers)
        return math.inf

    def _normalized(self, slot: Slot, *, centred: bool) -> Normalized | None:
        """What divides by the size of a layer's output at once; None for nothing."""
        found = normalizations_after(self._anatomy, slot)
        batch = [layer for layer in found if isinstance(layer, layers.BatchNormalization)]
        if not found or (centred and batch != found):  # only a batch normalization centres units too
            return None
        most, measure = math.inf, moments
        for layer in batch:
            if any(each.layer is layer for each in self._drawing.untouched):
                continue
            measure = self._told.setdefault(layer, MovingStatistics(layer)).measure_ahead
            if keras.backend.standardize_dtype(layer.moving_variance.dtype) == "float16":
                most = 2.0**14
        return Normalized(found[0].name, most, measure)

    def _starts(self, layer: Any) -> bool:
        """Whether it is a batch normalization that has seen no data yet, and goes by it in training."""
        if not isinstance(layer, layers.BatchNormalization) or not layer.trainable:
            return False
        if getattr(layer, "renorm", False):  # which an older Keras has not
            return False
        kept = any(each.layer is layer for each in self._drawing.untouched)
        return not kept and len(self._anatomy.trace.of(layer)) == 1 and MovingStatistics(layer).fresh

    def _take_mean(self, slot: Slot) -> None:
        """Take the share of their mean that is to go from each unit's incoming weights."""
        share = self._centring.share(slot)
        if share:
            kernel, (inputs, _) = slot.variable.value, slot.axes or (list(range(len(slot.shape) - 1)), None)
            slot.variable.assign(kernel - share * ops.mean(kernel, axis=inputs, keepdims=True))

    def _settle(
        self,
        slot: Slot,
        found: list[float | None],
        factors: list[float] | None,
        reason: str,
        centre: float | None = None,
        *,
        normalized: bool = False,
        after: float | None = None,
        wanted: float | None = None,
    ) -> bool:
        """Rescale a kernel, by one factor or one for each gate, and write down what was done.

        `after` is the deviation then, where it is not `found` times the factor; `wanted` is the factor that
        would have reached the target.
        """
        if factors is not None:
            most = max(factors) if wanted is None else wanted
            reason = reason or self._bounds.reason(slot, most, self._target(slot)) or ""
            factors = None if reason else factors
        self._open.pop(id(slot.variable), None)
        self._advance()
        if factors is None:
            row = CalibrationRow(slot.path, None, found[0], None, None, reason, normalized=normalized)
            self.rows.append(row)
            return False
        kernel = exact_value(slot.variable)
        factor: Any = factors[0]
        if len(factors) > 1:
            each = ops.convert_to_tensor(factors, keras.backend.standardize_dtype(kernel.dtype))
            factor = ops.repeat(each, slot.shape[-1] // len(factors))
        assign_exactly(slot.variable, kernel * factor)
        self._record(slot, factors)
        for gate, (before, each) in enumerate(zip(found, factors, strict=True)):
            which = None if len(factors) == 1 else gate
            then = before * each if after is None and before is not None else after
            self.rows.append(CalibrationRow(slot.path, which, before, then, each, reason, centre))
        return True

    def _record(self, slot: Slot, factors: list[float]) -> None:
        """Let the layer's own initializer say what its kernel is: a factor times what it was.

        The gates of a kernel, whose factors differ by little, have one of the same power together.
        """
        initializer = slot.configured
        if not slot.attribute or not isinstance(initializer, keras.initializers.Initializer):
            return
        factor = factors[0] if len(factors) == 1 else math.sqrt(sum(f * f for f in factors) / len(factors))
        if isinstance(initializer, Scaled):
            record = remade(initializer, factor=initializer.factor * factor)
        else:
            record = Scaled(initializer, factor)
        remember(record, slot.asked)
        self._undo.set_attribute(slot.layer, slot.attribute, record)
