"""What each layer does with a batch: one forward and one backward pass, as training does them."""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.diagnosing.loss import LossOf, gradient, tap
from keras_winit.models.diagnosing.seen import (
    Seen,
    distinct,
    effective_rank,
    is_elementwise,
    look,
    name_of,
    rows_of,
    sketch,
    variance_read_by,
)
from keras_winit.models.running.batch import Batch, call_on, handed_on
from keras_winit.models.running.undo import exact_value
from keras_winit.models.running.watching import as_written, having, intercepted, surely_left, untouched
from keras_winit.models.tracing.kinds import ACTIVATION_LAYERS, LINEAR, NORMALIZATIONS
from keras_winit.support.exact import moments
from keras_winit.support.host import host_array, is_traced
from keras_winit.support.printing import progress as progress_bar
from keras_winit.theory.fans import CELLS


@dataclass
class Signals:
    """What was seen of a model: each layer, what enters the first, what the last ones read, and the loss."""

    layers: list[Seen]
    notes: list[str]
    input_at: str = ""  # the layer that it enters
    input_std: float = math.nan
    input_distinct: float | None = None
    input_sketch: Any = None
    # What the layers of the answers read, sketched, and the share of it that differs between inputs.
    features: list[tuple[Any, float | None]] = field(default_factory=list)
    gradients: dict[int, Any] = field(default_factory=dict)  # of watched variables, by their id
    normalized: dict[Any, float] = field(default_factory=dict)  # what normalizations divide by: variances
    loss: float | None = None
    plain_loss: float | None = None  # the mean of the named loss alone
    penalties: float = 0.0  # what layers add to the loss
    outputs: list[Any] = field(default_factory=list)  # of real numbers
    nest: Any = None  # that the outputs come in

    @cached_property
    def rank(self) -> float:
        """The effective rank of what the last layers read; one where it is not known."""
        return max((effective_rank(each) or 1.0 for each, _ in self.features), default=1.0)

    @cached_property
    def input_rank(self) -> float | None:
        """The effective rank of the inputs; None where it is not known."""
        return None if self.input_sketch is None else effective_rank(self.input_sketch)

    @property
    def share(self) -> float | None:
        """How much of what the last layers read differs between inputs, against the inputs; None: unknown."""
        power = self.input_distinct or next((each.distinct for each in self.layers if each.distinct), None)
        shares = [share for _, share in self.features if share is not None]
        return max(shares) / power if power and shares else None

    @property
    def packed(self) -> Any:
        """The outputs in their nest; None where some are not of real numbers."""
        if not self.outputs or len(keras.tree.flatten(self.nest)) != len(self.outputs):
            return None
        return keras.tree.pack_sequence_as(self.nest, self.outputs)


def signals(
    model: keras.Model,
    slots: list[Slot],
    batch: Batch,
    loss: LossOf | None,
    *,
    answers: list[Any],
    watched: Iterable[Any] = (),
    values: Mapping[int, Any] = MappingProxyType({}),
) -> Signals:
    """Send a batch through a model, forwards and backwards, and watch.

    Args:
        model: it is as it was when this returns.
        slots: its variables.
        batch: what to send.
        loss: what to send back, or None for random numbers.
        answers: the layers that the model's outputs come out of. What differs between inputs is seen there
            before a sigmoid or softmax, which makes what is nearly the same of what is small.
        watched: variables whose gradient is wanted.
        values: what variables are to be instead of what they are, by their ids.
    """
    watch = _Watch(slots, model, answers)
    with contextlib.ExitStack() as stack:
        stack.enter_context(untouched(model))
        stack.enter_context(as_written(model))
        if batch.probe:
            stack.enter_context(handed_on(model))
        watch.advance = stack.enter_context(progress_bar("diagnosing", 2 * len(watch.hooks)))
        stack.enter_context(intercepted(watch.hooks))
        wanted = {id(variable) for variable in watched}

        def objective(source: Any) -> Any:
            watch.source = source
            state = []
            for variable in model.variables:
                value = values.get(id(variable), exact_value(variable))
                state.append((variable, watch.kernel(variable, value) if id(variable) in wanted else value))
            # Statistics and seeds change in this scope alone.
            with surely_left(keras.StatelessScope(state_mapping=state)):
                outputs = watch.outputs(call_on(model, batch, training=True))
                if loss is None:
                    return _projected(outputs)
                if loss.plain is not None:
                    watch.keep_loss("plain_loss", loss.plain(batch, outputs))
                if model.losses:
                    watch.keep_loss("penalties", ops.sum(ops.stack([ops.sum(each) for each in model.losses])))
                return watch.keep_loss("loss", loss.total(batch, outputs)) * batch.samples

        gradient(objective)
    missed = [layer for layer in watch.unseen if not isinstance(layer, ACTIVATION_LAYERS)]
    watch.result.notes += [f"{layer.path}: not called on this batch, or quantized" for layer in missed]
    return watch.result


class _Watch:
    """The hooks, and what they have seen."""

    def __init__(self, slots: list[Slot], model: keras.Model, answers: list[Any]) -> None:
        self.result = Signals([], [])
        self._answers = {id(layer) for layer in answers}
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
                self.hooks[layer] = partial(self._normalized, layer)

    def keep_loss(self, name: str, value: Any) -> Any:
        """Note the value of a loss as it passes."""

        def see(tensor: Any) -> None:
            setattr(self.result, name, float(moments(ops.reshape(tensor, (1,))).mean))

        return tap(ops.mean(value), self.source, see, lambda _: None)

    def kernel(self, variable: Any, value: Any) -> Any:
        """A variable's value, whose gradient is noted."""

        def see_gradient(values: Any) -> None:
            if not is_traced(values):
                self.result.gradients[id(variable)] = host_array(values).astype("float64")

        return tap(value, self.source, lambda _: None, see_gradient)

    def _hook(self, layer: Any) -> Any:
        self.unseen.append(layer)

        def hook(call: Any, *arguments: Any, **options: Any) -> Any:
            if layer not in self.unseen or not arguments:
                return call(*arguments, **options)
            self.unseen.remove(layer)
            if isinstance(layer, ACTIVATION_LAYERS):
                seen = Seen(layer.path or layer.name, name_of(layer), weighted=False)
                passed = self._tapped(arguments[0], seen, layer, apply=call)
                return call(passed, *arguments[1:], **options)
            self._see_input(layer, arguments[0])
            arguments = (self._with_features(layer, arguments[0]), *arguments[1:])
            own = getattr(layer, "activation", None)
            if type(layer).call not in LINEAR:
                return self._tapped_output(layer, call(*arguments, **options))
            with having(layer, activation=keras.activations.linear):
                output = call(*arguments, **options)
            seen = Seen(layer.path or layer.name, name_of(own), weighted=True, normalized=self._normalizes)
            passed = self._tapped(output, seen, layer, apply=own)
            return passed if own is None else own(passed)

        return hook

    def _normalized(self, layer: Any, call: Any, *arguments: Any, **options: Any) -> Any:
        """After the first normalization, the scale of the data is no longer that of the signal."""
        self._normalizes = True

        def see(values: Any) -> None:
            if layer not in self.result.normalized and not is_traced(values):
                self.result.normalized[layer] = variance_read_by(layer, values)

        if arguments and _is_float(arguments[0]) and hasattr(layer, "epsilon"):
            arguments = (tap(arguments[0], self.source, see, lambda _: None), *arguments[1:])
        return call(*arguments, **options)

    def _tapped_output(self, layer: Any, output: Any) -> Any:
        """A layer that is not taken apart is seen by its output."""
        seen = Seen(layer.path or layer.name, None, weighted=True, normalized=self._normalizes)
        if isinstance(output, (list, tuple)) and output and ops.is_tensor(output[0]):
            return type(output)([self._tapped(output[0], seen, layer, apply=None), *output[1:]])
        return self._tapped(output, seen, layer, apply=None) if ops.is_tensor(output) else output

    def _tapped(self, tensor: Any, seen: Seen, layer: Any, *, apply: Any) -> Any:
        if not _is_float(tensor):
            return tensor
        channels = 1 if getattr(layer, "data_format", None) == "channels_first" else -1

        def see(values: Any) -> None:
            if is_traced(values):
                self.result.notes.append(f"{seen.path}: called inside a compiled loop, and not seen")
                return
            seen.answer = id(layer) in self._answers
            look(seen, values, apply, channels, elementwise=is_elementwise(layer, apply))
            self.result.layers.append(seen)
            self.advance()

        def see_gradient(values: Any) -> None:
            if not is_traced(values):
                found = moments(values)
                size = math.prod(values.shape[1:])
                seen.gradient = math.sqrt((found.std**2 + found.mean**2) * size)
                self.advance()

        return tap(tensor, self.source, see, see_gradient)

    def _see_input(self, layer: Any, inputs: Any) -> None:
        """What enters the first layer is what everything else is measured against."""
        if not math.isnan(self.result.input_std) or not _is_float(inputs) or is_traced(inputs):
            return
        array = host_array(inputs)
        self.result.input_at = layer.path or layer.name
        self.result.input_std = moments(inputs).std
        self.result.input_distinct = distinct(array)
        self.result.input_sketch = sketch(rows_of(array))

    def _with_features(self, layer: Any, inputs: Any) -> Any:
        """What enters the layer of an answer are the last features, noted as they pass."""
        if id(layer) not in self._answers or not _is_float(inputs):
            return inputs

        def see(values: Any) -> None:
            if not is_traced(values) and len(values) > 1:
                array = host_array(values)
                self.result.features.append((sketch(rows_of(array)), distinct(array)))

        return tap(inputs, self.source, see, lambda _: None)

    def outputs(self, outputs: Any) -> Any:
        """What the model puts out, noted as it passes."""

        def note(output: Any) -> Any:
            return tap(output, self.source, see, lambda _: None) if _is_float(output) else output

        def see(values: Any) -> None:
            if not is_traced(values):
                self.result.outputs.append(host_array(values))

        self.result.nest = keras.tree.map_structure(lambda _: 0, outputs)
        return keras.tree.map_structure(note, outputs)


def _is_float(tensor: Any) -> bool:
    if not ops.is_tensor(tensor):
        return False
    return bool(keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype)))


def _projected(outputs: Any) -> Any:
    """The outputs times random signs: a gradient of the same size everywhere."""
    rng = np.random.default_rng(0)
    total: Any = ops.zeros(())
    for output in filter(_is_float, keras.tree.flatten(outputs)):
        signs = rng.choice([-1.0, 1.0], size=tuple(output.shape)).astype("float32")
        total = total + ops.sum(ops.cast(output, "float32") * ops.convert_to_tensor(signs))
    return total
