"""Scale every kernel of a model by what one pass of data measures."""

import contextlib
import math
from functools import partial
from typing import Any

import keras
from keras import layers, ops

from keras_winit.models.anatomy.following import activation_after
from keras_winit.models.anatomy.normalizing import normalizations_after
from keras_winit.models.anatomy.slots import CELLS, Slot
from keras_winit.models.calibrating.calibration import Calibration, CalibrationRow
from keras_winit.models.calibrating.centring import CENTRES, Centring
from keras_winit.models.calibrating.gates import CellRescaler, RecurrentRescaler
from keras_winit.models.calibrating.leaving import reason_to_leave
from keras_winit.models.calibrating.moving_statistics import MovingStatistics, let_means_stay
from keras_winit.models.calibrating.replaying import Replayer, call_to_replay
from keras_winit.models.calibrating.rescaling import Normalized, Rescaler, all_steps_at_once
from keras_winit.models.initializing.choosing import rules_of
from keras_winit.models.initializing.initialize import Drawing, remember, root_seed
from keras_winit.models.running.batch import MOST_SAMPLES, Batch, batch_for, call_on
from keras_winit.models.running.moments import moments
from keras_winit.models.running.probe import handed_on
from keras_winit.models.running.undo import Undo, assign_exactly, exact_value, undo_on_failure
from keras_winit.models.running.watching import as_written, intercepted, no_gradients, untouched
from keras_winit.models.tracing.ownership import check_built, check_callable
from keras_winit.schemes.compose import Scaled
from keras_winit.support.checks import as_bool, as_float, one_of
from keras_winit.support.progress import progress as progress_bar

_NOT_CALLED = "not called on this data"


def calibrate(
    model: keras.Model,
    data: Any = None,
    *,
    target_std: float = 1.0,
    scheme: Any = "orthogonal",
    center: str = "auto",
    samples: int | None = MOST_SAMPLES,
    seed: int | None = None,
    progress: bool = True,
) -> Calibration:
    """Give every layer's pre-activation the same standard deviation, in one forward pass.

    The weights are drawn as `initialize` draws them. Then a batch goes through the model: when a
    layer is reached, the deviation of what it computes before its activation is measured, its
    kernel divided by it, and the pass goes on with the output of the new kernel. The input kernels
    of recurrent layers are scaled gate by gate; their recurrent kernels are left as drawn. Layers
    called more than once count at their first call. Seeds and losses of the model stay as they were,
    and where anything fails, everything does.

    Where a normalization divides by a kernel's size at once, that size changes no output, but how
    fast the kernel learns: a step turns a large one less. Such a kernel keeps the size that it has. A
    batch normalization behind it is told of it, unless it knows: its moving mean becomes that of the
    batch, and its moving variance takes one factor, so that the signal is centred and as large in use
    as in training. In models with twenty or more SiLU, GELU or the like directly behind batch
    normalizations, which would scatter a centred signal's samples, moving means stay, unless `center`
    is "bias". Other statistics stay as they were.

    Args:
        model: a built model of any kind that `initialize` takes.
        data: a batch as the model takes it, an array or a nest of arrays; or a tf.data.Dataset, a
            keras.utils.PyDataset or a torch DataLoader, whose first batch is used. None stands for a probe:
            32 samples of standard normal numbers, which an Embedding reads as random tokens and layers that
            only rescale data hand on.
        target_std: the deviation to reach, a positive number.
        scheme: what to draw from first, as `initialize` takes it; "keep" rescales the weights as they are.
            What a layer asks for on purpose keeps its size, and its bias. A mapping is about what it names:
            all else is neither drawn nor rescaled, and no statistic of it changes.
        center: what to do about the part of a signal that is the same for all samples. It grows
            from layer to layer, until in a few layers of sigmoid nothing else is left:

            - "bias": each unit is moved, by its bias, to where its activation is most nearly linear:
              a mean of zero before tanh and sigmoid, of one deviation before ReLU and its kin; a
              batch normalization that follows at once centres by itself;
            - "weights": from each unit's incoming weights the share of their mean is taken away that
              lets both signals and gradients keep their scale;
            - "auto": "bias" for activations most of whose power is a constant (sigmoid, softplus), and
              in chains of twenty or more also for GELU, SiLU and Mish. A chain is of kernels with only
              activations, pooling and reshaping in between; they have to be drawn anew, and not by
              "looks_linear", which needs no centring. Elsewhere "none";
            - "none": nothing.

            Centring lets plain networks of forty layers train with any activation. The signal that
            then reaches all layers wants gradients to be clipped, or a smaller learning rate.
        samples: the most samples that are used, spread over all that there are. None hands the batch on as it
            is, its arrays of any lengths, as a model on graphs takes it.
        seed: the root seed, an integer; None draws one, and the result has it.
        progress: whether to show a bar in a terminal.

    Returns:
        A `Calibration`: what was measured, the factor for each kernel, and what was left alone and
        why. Printing it shows a table; `plot()` draws before and after.

    Raises:
        TypeError, ValueError: for an unbuilt model, bad data, or data that the model cannot take.

    Example:

    >>> model = keras.Sequential([keras.Input((50,)), keras.layers.Dense(40, "relu"), keras.layers.Dense(3)])
    >>> calibration = calibrate(model, seed=0)
    >>> len(calibration.calibrated), len(calibration.skipped)
    (2, 0)

    Source: D. Mishkin, J. Matas 2015, "All you need is a good init", arXiv:1511.06422, which takes
    several passes for each layer. Centring by biases follows P. Krähenbühl et al. 2015,
    arXiv:1511.06856, and by weights L. Huang et al. 2017, "Centered weight normalization", ICCV.
    """
    as_bool("progress", progress)
    target = as_float("target_std", target_std, positive=True)
    one_of("center", center, CENTRES)
    check_built(model)
    check_callable(model)
    root = root_seed(seed)
    rules_of(scheme)  # what is asked comes before what it is asked of
    batch = batch_for(model, data, seed=root, samples=samples)
    drawing = Drawing(model, scheme, root, batch.inputs)
    with undo_on_failure(in_memory=True) as undo:
        changed = drawing.carry_out(undo, show=progress)
        left = {*drawing.asked, *drawing.untouched}
        centring = Centring(center, drawing.anatomy, drawn=drawing.drawn, left=left, target=target)
        measured = _Pass(drawing, target, centring, undo)
        measured.run(model, batch, show=progress)
        changed = changed or measured.changed
        if changed:
            drawing.reset_optimizer(undo)
        note = drawing.note(resets=changed)
        rows, statistics = tuple(measured.rows), tuple(measured.statistics)
        unknown = tuple(slot.path for slot in drawing.slots if slot.unseen)
        return Calibration(rows, target, drawing.seed, str(batch), note, statistics, unknown)


class _Pass:
    """One forward pass that rescales what it reaches."""

    def __init__(self, drawing: Drawing, target: float, centring: Centring, undo: Undo) -> None:
        self.rows: list[CalibrationRow] = []
        self.statistics: list[str] = []  # the paths of those that are set
        self._target = target
        self._centring = centring
        self._undo = undo
        self._open: dict[int, Slot] = {}  # the kernels that are still to be reached
        self._advance: Any = lambda: None
        self._anatomy = drawing.anatomy
        self._drawing = drawing
        self._told: dict[Any, MovingStatistics] = {}
        self._batch_normalized: list[Slot] = []
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
                    "normalized": normalized,
                }
                hooks[slot.layer] = Replayer(traced, self._anatomy, slots=found, **told)
                continue
            hook = Rescaler(slot.layer, found, biases.get(id(slot.layer)), self._target, self._settle)
            hook.place = self._centring.place(slot)
            hook.normalized = self._normalized(found[-1], centred=hook.place is not None)
            hooks[slot.layer] = hook
            over_time = slot.parents[-1] if slot.parents else None
            if isinstance(over_time, layers.TimeDistributed) and over_time.layer is slot.layer:
                hooks[over_time] = all_steps_at_once(slot.layer)
        for layer, cells in recurrent.values():
            hooks[layer] = RecurrentRescaler(layer, cells, self._target, self._settle)
        activations = [activation_after(self._anatomy, slot)[0] for slot in self._batch_normalized]
        if self._centring.center != "bias":
            let_means_stay(self._told.values(), activations)
        return {**hooks, **self._told}

    def _normalized(self, slot: Slot, *, centred: bool) -> Normalized | None:
        """What divides by the size of a layer's output at once; None for nothing."""
        found = normalizations_after(self._anatomy, slot)
        batch = [layer for layer in found if isinstance(layer, layers.BatchNormalization)]
        if not found or (centred and batch != found):  # only a batch normalization centres units too
            return None
        most, measure = math.inf, moments
        if batch:
            self._batch_normalized.append(slot)
        for layer in batch:
            if any(each.layer is layer for each in self._drawing.untouched):
                continue
            measure = self._told.setdefault(layer, MovingStatistics(layer)).measure_ahead
            if keras.backend.standardize_dtype(layer.moving_variance.dtype) == "float16":
                most = 2.0**14
        return Normalized(found[0].name, most, measure)

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
    ) -> None:
        """Rescale a kernel, by one factor or one for each gate, and write down what was done."""
        self._open.pop(id(slot.variable), None)
        self._advance()
        if factors is None:
            row = CalibrationRow(slot.path, None, found[0], None, None, reason, normalized=normalized)
            self.rows.append(row)
            return
        kernel = exact_value(slot.variable)
        factor: Any = factors[0]
        if len(factors) > 1:
            each = ops.convert_to_tensor(factors, keras.backend.standardize_dtype(kernel.dtype))
            factor = ops.repeat(each, slot.shape[-1] // len(factors))
        assign_exactly(slot.variable, kernel * factor)
        self._record(slot, factors)
        for gate, (before, each) in enumerate(zip(found, factors, strict=True)):
            which = None if len(factors) == 1 else gate
            self.rows.append(CalibrationRow(slot.path, which, before, self._target, each, reason, centre))

    def _record(self, slot: Slot, factors: list[float]) -> None:
        """Let the layer's own initializer say what its kernel is: a factor times what it was."""
        initializer = slot.configured
        if len(factors) > 1 or not slot.attribute:
            return
        if not isinstance(initializer, keras.initializers.Initializer):
            return
        config = {"initializer": initializer, "factor": factors[0]}
        if isinstance(initializer, Scaled):
            config = {**initializer.get_config(), "factor": initializer.factor * factors[0]}
        record = Scaled(**config)
        remember(record, slot.asked)
        self._undo.set_attribute(slot.layer, slot.attribute, record)
