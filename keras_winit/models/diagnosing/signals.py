"""What each layer does with a batch, forwards and backwards, as in training."""

import contextlib
import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.diagnosing.loss import LossOf, See, gradient, tap
from keras_winit.models.diagnosing.seen import (
    Seen,
    distinct,
    effective_rank,
    look,
    name_of,
    sketch,
    variance_read_by,
)
from keras_winit.models.running.batch import Batch, call_on, handed_on
from keras_winit.models.running.undo import exact_value
from keras_winit.models.running.watching import as_written, having, intercepted, surely_left, untouched
from keras_winit.models.tracing.kinds import ACTIVATION_LAYERS, LINEAR, NORMALIZATIONS
from keras_winit.support.exact import moments
from keras_winit.support.host import host_array, is_traced
from keras_winit.support.printing import progress
from keras_winit.theory.fans import CELLS


@dataclass
class Signals:
    """What was seen of a model."""

    layers: list[Seen]
    notes: list[str]
    input_at: str = ""  # the first layer
    input_std: float = math.nan
    input_distinct: float | None = None
    input_sketch: Any = None
    # What the last layers read: its sketch, and the share that differs between inputs.
    features: list[tuple[Any, float | None]] = field(default_factory=list)
    gradients: dict[int, Any] = field(default_factory=dict)  # by the ids of variables
    normalized: dict[Any, float] = field(default_factory=dict)  # the variances that layers divide by
    loss: float | None = None
    plain_loss: float | None = None  # without penalties and weights
    penalties: float = 0.0
    outputs: list[Any] = field(default_factory=list)  # of real numbers
    nest: Any = None  # of the outputs

    @cached_property
    def rank(self) -> float:
        """The effective rank of what the last layers read, or one."""
        return max((effective_rank(each) or 1.0 for each, _ in self.features), default=1.0)

    @cached_property
    def input_rank(self) -> float | None:
        """The effective rank of the inputs."""
        return None if self.input_sketch is None else effective_rank(self.input_sketch)

    @property
    def share(self) -> float | None:
        """How much of what the last layers read differs between inputs, against the inputs."""
        power = self.input_distinct or next((each.distinct for each in self.layers if each.distinct), None)
        shares = [share for _, share in self.features if share is not None]
        return max(shares) / power if power and shares else None

    @property
    def packed(self) -> Any:
        """The outputs in their nest, if all are of real numbers."""
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
    watched: Container[int],
    values: Mapping[int, Any],
) -> Signals:
    """Send a batch through a model, forwards and backwards; the model is left as it is.

    Args:
        loss: None sends random numbers back.
        answers: the layers that the outputs come out of. What differs between inputs is seen there before a
            sigmoid or softmax, which makes what is nearly the same of what is small.
        watched: the ids of variables whose gradient is wanted.
        values: by the ids of variables, what they are to be instead.
    """
    watch = _Watch(slots, model, answers)

    def objective(source: Any) -> Any:
        watch.source = source
        state = []
        for variable in model.variables:
            value = values.get(id(variable), exact_value(variable))
            state.append((variable, watch.kernel(variable, value) if id(variable) in watched else value))
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

    with (
        untouched(model),
        as_written(model),
        handed_on(model) if batch.probe else contextlib.nullcontext(),
        progress("diagnosing", 2 * len(watch.hooks)) as watch.advance,
        intercepted(watch.hooks),
    ):
        gradient(objective)
    missed = [layer for layer in watch.unseen if not isinstance(layer, ACTIVATION_LAYERS)]
    watch.result.notes += [f"{layer.path}: not called on this batch, or quantized" for layer in missed]
    return watch.result


class _Watch:
    """Hooks, and what they see."""

    source: Any
    advance: Callable[[], None]

    def __init__(self, slots: list[Slot], model: keras.Model, answers: list[Any]) -> None:
        self.result = Signals([], [])
        self._answers = {id(layer) for layer in answers}
        self.hooks: dict[Any, Any] = {}
        self.unseen: list[Any] = []
        self._normalizes = False
        for slot in slots:
            around = [layer for layer in slot.parents if isinstance(layer, layers.RNN)]
            layer = around[-1] if around and isinstance(slot.layer, CELLS) else slot.layer
            if slot.role in ("kernel", "embedding") and layer not in self.hooks:
                self._hook(layer)
        # The activation of another layer is seen with that layer.
        owned = {id(getattr(layer, "activation", None)) for layer in model._flatten_layers()}
        for layer in model._flatten_layers():
            if isinstance(layer, ACTIVATION_LAYERS) and id(layer) not in owned:
                self._hook(layer)
            elif isinstance(layer, NORMALIZATIONS):
                self.hooks[layer] = partial(self._normalized, layer)

    def _hook(self, layer: Any) -> None:
        self.unseen.append(layer)
        self.hooks[layer] = partial(self._called, layer)

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

    def outputs(self, outputs: Any) -> Any:
        """What the model puts out, noted as it passes."""

        def see(values: Any) -> None:
            self.result.outputs.append(host_array(values))

        self.result.nest = keras.tree.map_structure(lambda _: 0, outputs)
        return keras.tree.map_structure(lambda output: self._shown(output, see), outputs)

    def _shown(self, tensor: Any, see: See) -> Any:
        """What is of real numbers is shown as it passes, if it has values."""

        def see_values(values: Any) -> None:
            if not is_traced(values):
                see(values)

        return tap(tensor, self.source, see_values, lambda _: None) if _is_float(tensor) else tensor

    def _called(self, layer: Any, call: Any, /, *arguments: Any, **options: Any) -> Any:
        if layer not in self.unseen or not arguments:
            return call(*arguments, **options)
        self.unseen.remove(layer)
        given, *others = arguments
        if isinstance(layer, ACTIVATION_LAYERS):
            given = self._tapped(given, layer, layer, apply=call, weighted=False)
            return call(given, *others, **options)
        self._see_input(layer, given)
        if id(layer) in self._answers:
            given = self._shown(given, self._see_features)
        if type(layer).call in LINEAR:
            own = getattr(layer, "activation", None)
            with having(layer, activation=keras.activations.linear):
                output = call(given, *others, **options)
            passed = self._tapped(output, layer, own, apply=own)
            return passed if own is None else own(passed)
        # A layer that is not taken apart is seen by its output.
        output = call(given, *others, **options)
        if isinstance(output, (list, tuple)) and output and ops.is_tensor(output[0]):
            return type(output)([self._tapped(output[0], layer), *output[1:]])
        return self._tapped(output, layer)

    def _normalized(self, layer: Any, call: Any, /, *arguments: Any, **options: Any) -> Any:
        """After the first normalization, the scale of the data is no longer that of the signal."""
        self._normalizes = True

        def see(values: Any) -> None:
            if layer not in self.result.normalized:
                self.result.normalized[layer] = variance_read_by(layer, values)

        if arguments and hasattr(layer, "epsilon"):
            arguments = (self._shown(arguments[0], see), *arguments[1:])
        return call(*arguments, **options)

    def _tapped(
        self, tensor: Any, layer: Any, activation: Any = None, *, apply: Any = None, weighted: bool = True
    ) -> Any:
        """What a layer computes before its activation, noted as it passes."""
        if not _is_float(tensor):
            return tensor
        seen = Seen(layer.path or layer.name, name_of(activation), weighted)
        seen.normalized = weighted and self._normalizes
        seen.answer = id(layer) in self._answers

        def see(values: Any) -> None:
            if is_traced(values):
                self.result.notes.append(f"{seen.path}: called inside a compiled loop, and not seen")
                return
            look(seen, values, layer, apply)
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
        """What enters the first layer."""
        if not math.isnan(self.result.input_std) or not _is_float(inputs) or is_traced(inputs):
            return
        array, result = host_array(inputs), self.result
        result.input_at, result.input_std = layer.path or layer.name, moments(inputs).std
        result.input_sketch, result.input_distinct = sketch(array), distinct(array)

    def _see_features(self, values: Any) -> None:
        array = host_array(values)
        if len(array) > 1:
            self.result.features.append((sketch(array), distinct(array)))


def _is_float(tensor: Any) -> bool:
    return bool(
        ops.is_tensor(tensor) and keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype))
    )


def _projected(outputs: Any) -> Any:
    """The outputs times random signs: a gradient of the same size everywhere."""
    rng = np.random.default_rng(0)
    total: Any = ops.zeros(())
    for output in filter(_is_float, keras.tree.flatten(outputs)):
        signs = rng.choice([-1.0, 1.0], size=tuple(output.shape)).astype("float32")
        total = total + ops.sum(ops.cast(output, "float32") * ops.convert_to_tensor(signs))
    return total
