"""One forward pass that rescales what it reaches."""

import contextlib
import math
from typing import Any

import keras
from keras import layers, ops

from keras_winit.models.anatomy.following import activation_behind
from keras_winit.models.anatomy.normalizing import normalizations_after
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.calibrating.calibration import Bounds, CalibrationRow, reason_to_leave
from keras_winit.models.calibrating.centring import Centring, MovingStatistics, let_means_stay
from keras_winit.models.calibrating.composite import RecurrentRescaler, Replayer, call_to_replay
from keras_winit.models.calibrating.rescaling import (
    NOT_NORMALIZED,
    Normalized,
    Rescaler,
    Rules,
    all_steps_at_once,
)
from keras_winit.models.calibrating.targets import Answers, Targets
from keras_winit.models.initializing.fitting import remember
from keras_winit.models.initializing.initialize import Drawing
from keras_winit.models.running.batch import Batch, call_on, handed_on
from keras_winit.models.running.undo import Undo, assign_exactly, exact_value
from keras_winit.models.running.watching import as_written, intercepted, no_gradients, untouched
from keras_winit.schemes.base import remade
from keras_winit.schemes.compose import Scaled
from keras_winit.support.exact import moments
from keras_winit.support.printing import progress
from keras_winit.theory.fans import CELLS


class Pass:
    """One forward pass that rescales what it reaches."""

    def __init__(
        self, drawing: Drawing, target: Targets, *, centring: Centring, answers: Answers, undo: Undo
    ) -> None:
        self.rows: list[CalibrationRow] = []
        self.statistics: list[str] = []  # the paths of those that are set
        self._target, self._answers, self._centring, self._undo = target, answers, centring, undo
        self._drawing, self._anatomy = drawing, drawing.anatomy
        self._bounds = Bounds(drawing.anatomy)
        self._open: dict[int, Slot] = {}  # the kernels that are still to be reached
        self._advance: Any = lambda: None
        self._told: dict[Any, MovingStatistics] = {}
        self._rules = Rules(target, self._most, self._normalized, self._settle)
        self._hooks = self._hooks_for(drawing.slots)

    def run(self, model: keras.Model, batch: Batch, *, show: bool) -> None:
        """Send the batch through the model."""
        for slot in self._open.values():  # before any layer of mixed precision is entered
            self._undo.keep(slot.variable)
            share = self._centring.share(slot)
            if share:
                inputs = slot.axes[0] if slot.axes else list(range(len(slot.shape) - 1))
                mean = ops.mean(slot.variable.value, axis=inputs, keepdims=True)
                slot.variable.assign(slot.variable.value - share * mean)
        for bias in self._biases.values():
            self._undo.keep(bias.variable)
        with (
            no_gradients(),
            untouched(model, self._undo),
            as_written(model),
            handed_on(model) if batch.probe else contextlib.nullcontext(),
            intercepted(self._hooks),
            progress("calibrating", len(self._open), show=show) as self._advance,
        ):
            call_on(model, batch)
        for told in self._told.values():  # the pass itself left them as they were
            for variable, value in told.values:
                self._undo.assign(variable, value)
                self.statistics.append(variable.path)
        self._rules.leave(list(self._open.values()), "not called on this data")

    def _hooks_for(self, slots: list[Slot]) -> dict[Any, Any]:
        kernels: dict[int, list[Slot]] = {}
        for slot in slots:
            if slot.role not in ("kernel", "embedding"):
                continue
            reason = reason_to_leave(slot, self._drawing)
            if reason:
                self._rules.leave([slot], reason)
            else:
                self._open[id(slot.variable)] = slot
                kernels.setdefault(id(slot.layer), []).append(slot)
        self._biases = {id(slot.layer): slot for slot in slots if slot.role == "bias"}
        hooks: dict[Any, Any] = {}
        recurrent: dict[Any, list[Slot]] = {}
        for found in kernels.values():
            layer, parents = found[0].layer, found[0].parents
            if isinstance(layer, CELLS):
                around = next((each for each in reversed(parents) if isinstance(each, layers.RNN)), None)
                stacked = around is not None and layer in getattr(around.cell, "cells", [around.cell])
                recurrent.setdefault(around if stacked else layer, []).append(found[0])
                continue
            traced = call_to_replay(self._anatomy, found)
            if traced is not None:
                hooks[layer] = Replayer(traced, self._anatomy, found, self._rules)
                continue
            hook = Rescaler(layer, found, self._biases.get(id(layer)), self._rules)
            self._place(hook, found[-1])
            hook.normalized = self._normalized(found[-1], centred=hook.place is not None)
            hooks[layer] = hook
            over_time = parents[-1] if parents else None
            if isinstance(over_time, layers.TimeDistributed) and over_time.layer is layer:
                hooks[over_time] = all_steps_at_once(layer)
        for layer, cells in recurrent.items():
            hooks[layer] = RecurrentRescaler(layer, cells, self._rules)
        self._tell_those_that_start()
        return {**hooks, **self._told}

    def _tell_those_that_start(self) -> None:
        """Let any batch normalization that has seen no data measure it, as it will in training."""
        for layer in self._anatomy.model._flatten_layers():
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
        """The largest factor: answers, and kernels in short chains, get no larger than their fans say."""
        answers = slot in self._answers
        gentle = answers or self._target.is_gentle(slot)
        return self._bounds.most(slot, answers=answers) if gentle else math.inf

    def _normalized(self, slot: Slot, *, centred: bool = False) -> Normalized:
        """What divides by the size of a layer's output at once."""
        found = normalizations_after(self._anatomy, slot)
        batch = [layer for layer in found if isinstance(layer, layers.BatchNormalization)]
        if not found or (centred and batch != found):  # only a batch normalization centres units too
            return NOT_NORMALIZED
        most, measure = math.inf, moments
        for layer in batch:
            if self._is_kept(layer):
                continue
            measure = self._told.setdefault(layer, MovingStatistics(layer)).measure_ahead
            if keras.backend.standardize_dtype(layer.moving_variance.dtype) == "float16":
                most = 2.0**14
        return Normalized(found[0].name, most, measure)

    def _starts(self, layer: Any) -> bool:
        """Whether a layer is a batch normalization that has seen no data, and goes by it in training."""
        return (
            isinstance(layer, layers.BatchNormalization)
            and layer.trainable
            and not getattr(layer, "renorm", False)  # an older Keras has none
            and not self._is_kept(layer)
            and len(self._anatomy.trace.of(layer)) == 1
            and MovingStatistics(layer).fresh
        )

    def _is_kept(self, layer: Any) -> bool:
        return any(slot.layer is layer for slot in self._drawing.untouched)

    def _settle(
        self,
        slot: Slot,
        found: list[float | None],
        factors: list[float] | None,
        reason: str = "",
        *,
        centre: float | None = None,
        normalized: bool = False,
        after: float | None = None,
        wanted: float | None = None,
    ) -> bool:
        """Do what `Rules.settle` says, and write it down.

        `after` is the deviation then, where it is not `found` times the factor; `wanted` is the factor that
        would reach the target.
        """
        if factors is not None:
            most = max(factors) if wanted is None else wanted
            reason = self._bounds.reason(slot, most, self._target(slot)) or ""
        self._open.pop(id(slot.variable), None)
        self._advance()
        if factors is None or reason:
            row = CalibrationRow(slot.path, None, found[0], None, None, reason, normalized=normalized)
            self.rows.append(row)
            return False
        kernel = exact_value(slot.variable)
        factor: Any = factors[0]
        if len(factors) > 1:
            factor = ops.convert_to_tensor(factors, keras.backend.standardize_dtype(kernel.dtype))
            factor = ops.repeat(factor, slot.shape[-1] // len(factors))
        assign_exactly(slot.variable, kernel * factor)
        self._record(slot, factors)
        for gate, (before, each) in enumerate(zip(found, factors, strict=True)):
            which = None if len(factors) == 1 else gate
            then = before * each if after is None and before is not None else after
            self.rows.append(CalibrationRow(slot.path, which, before, then, each, "", centre))
        return True

    def _record(self, slot: Slot, factors: list[float]) -> None:
        """Let the layer's own initializer say what its kernel is: a factor times what it was.

        Gates, whose factors differ by little, share one of the same power.
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
