"""What each layer does with a batch: one forward and one backward pass, as training does them."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_winit.models.anatomy.slots import CELLS, Slot
from keras_winit.models.diagnosing.guessing import LossOf
from keras_winit.models.diagnosing.taps import gradient, tap
from keras_winit.models.running.batch import Batch, call_on
from keras_winit.models.running.moments import moments
from keras_winit.models.running.probe import handed_on
from keras_winit.models.running.undo import exact_value
from keras_winit.models.running.watching import as_written, having, intercepted, surely_left, untouched
from keras_winit.models.tracing.kinds import ACTIVATION_LAYERS, LINEAR, NORMALIZATIONS
from keras_winit.support.host import host_array, is_traced
from keras_winit.support.progress import progress as progress_bar
from keras_winit.theory.activations import Activation, resolve

_ROUNDING = 1e-5  # of a number, which is no difference
_ENDS = 1 / 80  # of the range of a bounded function


@dataclass
class Seen:
    """What was seen of one layer, at its first call."""

    path: str
    activation: str | None
    weighted: bool
    normalized: bool = False
    mean: float = math.nan
    std: float = math.nan
    finite: bool = True
    distinct: float | None = None
    dead: float | None = None
    saturated: float | None = None
    gradient: float | None = None


@dataclass
class Signals:
    """What was seen of a model: each layer, the input of the first, and the loss."""

    layers: list[Seen]
    notes: list[str]
    input_std: float = math.nan
    input_distinct: float | None = None
    loss: float | None = None
    plain_loss: float | None = None  # the mean of the named loss alone
    width: int = 0  # of the first output


def signals(
    model: keras.Model, slots: list[Slot], batch: Batch, loss: LossOf | None, *, outputs: list[Any]
) -> Signals:
    """Send a batch through a model, forwards and backwards, and watch.

    Args:
        model: it is as it was when this returns.
        slots: its variables.
        batch: what to send.
        loss: what to send back, or None for random numbers.
        outputs: the layers that the model's outputs come out of. What differs between inputs is seen there
            before a sigmoid or softmax, which makes what is nearly the same of what is small.
    """
    watch = _Watch(slots, model, outputs)
    with contextlib.ExitStack() as stack:
        stack.enter_context(untouched(model))
        stack.enter_context(as_written(model))
        if batch.probe:
            stack.enter_context(handed_on(model))
        watch.advance = stack.enter_context(progress_bar("diagnosing", 2 * len(watch.hooks)))
        stack.enter_context(intercepted(watch.hooks))
        # Statistics and seeds change in this scope alone.
        values = [(variable, exact_value(variable)) for variable in model.variables]
        stack.enter_context(surely_left(keras.StatelessScope(state_mapping=values)))

        def objective(source: Any) -> Any:
            watch.source = source
            outputs = call_on(model, batch, training=True)
            if loss is None:
                return _projected(outputs)
            watch.result.width = keras.tree.flatten(outputs)[0].shape[-1]
            if loss.plain is not None:
                watch.keep_loss("plain_loss", loss.plain(batch, outputs))
            return watch.keep_loss("loss", loss.total(batch, outputs)) * batch.samples

        gradient(objective)
    missed = [layer for layer in watch.unseen if not isinstance(layer, ACTIVATION_LAYERS)]
    watch.result.notes += [f"{layer.path}: not called on this batch, or quantized" for layer in missed]
    return watch.result


class _Watch:
    """The hooks, and what they have seen."""

    def __init__(self, slots: list[Slot], model: keras.Model, outputs: list[Any]) -> None:
        self.result = Signals([], [])
        self._outputs = {id(layer) for layer in outputs}
        self.source: Any = None
        self.advance: Callable[[], None] = lambda: None
        self.hooks: dict[Any, Any] = {}
        self.unseen: list[Any] = []
        self._normalizes = False
        kernels = {id(slot.layer): slot for slot in slots if slot.role in ("kernel", "embedding")}
        for slot in kernels.values():
            around = [layer for layer in slot.parents if isinstance(layer, layers.RNN)]
            layer = around[-1] if around and isinstance(slot.layer, CELLS) else slot.layer
            if layer not in self.hooks:
                self.hooks[layer] = self._hook(layer)
        # The activation of another layer is seen with that layer.
        owned = {id(getattr(layer, "activation", None)) for layer in model._flatten_layers()}
        for layer in model._flatten_layers():
            if isinstance(layer, ACTIVATION_LAYERS) and id(layer) not in owned:
                self.hooks[layer] = self._hook(layer)
            elif isinstance(layer, NORMALIZATIONS):
                self.hooks[layer] = self._normalized

    def keep_loss(self, name: str, value: Any) -> Any:
        """Note the value of a loss as it passes."""

        def see(tensor: Any) -> None:
            setattr(self.result, name, float(moments(ops.reshape(tensor, (1,))).mean))

        return tap(ops.mean(value), self.source, see, lambda _: None)

    def _hook(self, layer: Any) -> Any:
        self.unseen.append(layer)

        def hook(call: Any, *arguments: Any, **options: Any) -> Any:
            if layer not in self.unseen or not arguments:
                return call(*arguments, **options)
            self.unseen.remove(layer)
            if isinstance(layer, ACTIVATION_LAYERS):
                seen = Seen(layer.path or layer.name, _name(layer), weighted=False)
                passed = self._tapped(arguments[0], seen, layer, apply=call)
                return call(passed, *arguments[1:], **options)
            self._see_input(arguments[0])
            own = getattr(layer, "activation", None)
            if type(layer).call not in LINEAR:
                return self._tapped_output(layer, call(*arguments, **options))
            with having(layer, activation=keras.activations.linear):
                output = call(*arguments, **options)
            seen = Seen(layer.path or layer.name, _name(own), weighted=True, normalized=self._normalizes)
            passed = self._tapped(output, seen, layer, apply=own)
            return passed if own is None else own(passed)

        return hook

    def _normalized(self, call: Any, *arguments: Any, **options: Any) -> Any:
        """After the first normalization, the scale of the data is no longer that of the signal."""
        self._normalizes = True
        return call(*arguments, **options)

    def _tapped_output(self, layer: Any, output: Any) -> Any:
        """A layer that is not taken apart is seen by its output."""
        seen = Seen(layer.path or layer.name, None, weighted=True, normalized=self._normalizes)
        if isinstance(output, (list, tuple)) and output and ops.is_tensor(output[0]):
            return type(output)([self._tapped(output[0], seen, layer, apply=None), *output[1:]])
        return self._tapped(output, seen, layer, apply=None) if ops.is_tensor(output) else output

    def _tapped(self, tensor: Any, seen: Seen, layer: Any, *, apply: Any) -> Any:
        if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype)):
            return tensor
        channels = 1 if getattr(layer, "data_format", None) == "channels_first" else -1

        def see(values: Any) -> None:
            if is_traced(values):
                self.result.notes.append(f"{seen.path}: called inside a compiled loop, and not seen")
                return
            self._look(seen, values, apply, channels, elementwise=_elementwise(layer, apply))
            if id(layer) in self._outputs:
                seen.distinct = _distinct(host_array(values))
            self.result.layers.append(seen)
            self.advance()

        def see_gradient(values: Any) -> None:
            if not is_traced(values):
                found = moments(values)
                size = math.prod(values.shape[1:])
                seen.gradient = math.sqrt((found.std**2 + found.mean**2) * size)
                self.advance()

        return tap(tensor, self.source, see, see_gradient)

    def _see_input(self, inputs: Any) -> None:
        """What enters the first layer is what everything else is measured against."""
        if not math.isnan(self.result.input_std) or not ops.is_tensor(inputs) or is_traced(inputs):
            return
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(inputs.dtype)):
            self.result.input_std = moments(inputs).std
            self.result.input_distinct = _distinct(host_array(inputs))

    @staticmethod
    def _look(seen: Seen, values: Any, apply: Any, channels: int, *, elementwise: bool) -> None:
        found = moments(values)
        seen.mean, seen.std = found.mean, found.std
        seen.finite = math.isfinite(found.std)
        if not seen.finite:
            return
        linear = apply is None or apply is keras.activations.linear
        activated = host_array(values if linear else apply(values)).astype("float32", copy=False)
        seen.distinct = _distinct(activated)
        if linear or activated.ndim < 2 or len(activated) < 2:
            return
        if activated.shape != tuple(values.shape):  # a gated activation, say
            return
        units = _by_unit(activated, channels)
        # A unit that is given the same for every input is not to blame for putting out the same.
        given = _by_unit(host_array(values), channels)
        low, high = given.min(axis=0), given.max(axis=0)
        varies = high - low > _ROUNDING * np.maximum(np.abs(low), np.abs(high))
        dead = (units.max(axis=0) == units.min(axis=0)) & varies
        seen.dead = float(np.mean(dead))
        ends = _ends(apply) if elementwise else None
        if ends is not None:
            low, high = ends[0] + _ENDS * (ends[1] - ends[0]), ends[1] - _ENDS * (ends[1] - ends[0])
            seen.saturated = float(np.mean((units < low) | (units > high)))


def _distinct(array: Any) -> float | None:
    """The share of an array's power that differs from sample to sample."""
    if len(array) < 2 or array.ndim < 2:
        return None
    flat = array.reshape(len(array), -1).astype("float32", copy=False)
    scale = float(np.max(np.abs(flat), initial=0))
    if scale == 0 or not math.isfinite(scale):
        return None
    common = flat.mean(axis=0)
    differing = sum(float(np.square((row - common) / scale).sum(dtype="float64")) for row in flat)
    power = sum(float(np.square(row / scale).sum(dtype="float64")) for row in flat)
    return differing / power


def _by_unit(array: Any, channels: int) -> Any:
    """The array as a matrix with a column for each unit."""
    return np.moveaxis(array, channels, -1).reshape(-1, array.shape[channels])


def _ends(apply: Any) -> tuple[float, float] | None:
    """The ends of a function that is bounded on both sides and runs from one to the other, or None."""
    try:
        values = host_array(apply(ops.convert_to_tensor([[-1e4, -0.5, 0.5, 1e4]], "float32"))).reshape(-1)
    except Exception:  # one that only takes the layer's own shape
        return None
    if values.size != 4:
        return None
    low, below, above, high = (float(value) for value in values)
    if not (math.isfinite(low) and math.isfinite(high)) or abs(low) > 10 or abs(high) > 10:
        return None
    return (low, high) if low < below < above < high else None


def _elementwise(layer: Any, apply: Any) -> bool:
    """Whether an activation can be tried on four numbers."""
    names = ("softmax", "log_softmax", "sparsemax", "glu")
    if isinstance(layer, layers.Activation):
        apply = layer.activation
    kinds = (layers.PReLU, layers.Softmax)
    joins = isinstance(layer, kinds) or isinstance(apply, kinds)
    return not joins and getattr(apply, "__name__", "") not in names


def _name(activation: Any) -> str | None:
    try:
        found: Activation = resolve(activation)
    except (TypeError, ValueError):
        return type(activation).__name__
    return None if found.name == "linear" else found.name


def _projected(outputs: Any) -> Any:
    """The outputs times random signs: a gradient of the same size everywhere."""
    rng = np.random.default_rng(0)
    total: Any = ops.zeros(())
    for output in filter(ops.is_tensor, keras.tree.flatten(outputs)):
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(output.dtype)):
            signs = rng.choice([-1.0, 1.0], size=tuple(output.shape)).astype("float32")
            total = total + ops.sum(ops.cast(output, "float32") * ops.convert_to_tensor(signs))
    return total
