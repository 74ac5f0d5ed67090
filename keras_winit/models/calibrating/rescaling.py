"""How each kind of layer is rescaled while it is called: its kernel, and at once its output.

A layer's output before its activation is linear in its kernel: its deviation is measured, the kernel is
multiplied by what is missing, and the pass goes on with the output that the new kernel gives.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.running.undo import assign_exactly, exact_value
from keras_winit.models.running.watching import having
from keras_winit.models.tracing.kinds import LINEAR, SEPARABLE
from keras_winit.support.exact import NOT_FINITE, Moments, moments
from keras_winit.support.host import host_array, is_traced

TRACED = "called inside a compiled loop, where nothing can be measured"


class Normalized(NamedTuple):
    """What divides by the size of a layer's output, and how that is to be measured."""

    name: str
    most: float  # the largest variance that it can hold
    moments: Callable[[Any], Moments]


NOT_NORMALIZED = Normalized("", -math.inf, moments)


class Rules(NamedTuple):
    """What is to become of kernels.

    `settle(slot, deviations found, factors or None, reason)` multiplies one by a factor, or one for each
    gate, or leaves it alone, and says whether it did the first.
    """

    target: Callable[[Slot], float]  # the deviation that it is to give
    most: Callable[[Slot], float]  # the largest factor
    normalized: Callable[[Slot], Normalized]
    settle: Callable[..., bool]

    def leave(self, slots: Iterable[Slot], reason: str, found: Moments | None = None, **told: Any) -> None:
        """Leave kernels alone."""
        for slot in slots:
            self.settle(slot, [found.std if found else None], None, reason, **told)

    def stay(self, slots: Iterable[Slot], found: Moments, normalized: Normalized) -> bool:
        """Leave kernels alone whose output does not vary, or is divided by its size, and say whether."""
        if not found.varies:
            self.leave(slots, found.why_not, found)
        elif found.std * found.std <= normalized.most:
            self.leave(slots, f"{normalized.name} divides by its size", found, normalized=True)
        else:
            return False
        return True


def strides_of(layer: Any) -> dict[str, Any]:
    """How a convolution goes over its input."""
    names = ("strides", "padding", "data_format", "dilation_rate")
    return {name: getattr(layer, name) for name in names}


class Rescaler:
    """The hook for one layer: rescales its kernels when it is first called."""

    def __init__(self, layer: Any, kernels: list[Slot], bias: Slot | None, rules: Rules):
        self._layer, self._bias, self._rules = layer, bias, rules
        self._kernels = {slot.variable.name: slot for slot in kernels}
        self.place: Any = None  # the mean that the bias is to give all units, or each, if any
        self.whole = False  # whether a mean that no bias takes away counts as size
        self.most: Callable[[Slot], float] = lambda _: math.inf  # the largest factor
        self.normalized = NOT_NORMALIZED  # what normalizes the output at once

    def __call__(self, call: Any, /, *arguments: Any, **options: Any) -> Any:
        if not self._kernels or not arguments:
            return call(*arguments, **options)
        if any(map(is_traced, keras.tree.flatten(arguments))):
            self._leave(TRACED)
        elif type(self._layer).call not in LINEAR:
            self._by_trial(call, *arguments, **options)
        elif isinstance(self._layer, SEPARABLE):
            self._rescale_depthwise(arguments[0])
        if not self._kernels:
            return call(*arguments, **options)
        names = ["pointwise_kernel", "kernel", "embeddings", "depthwise_kernel"]
        if options.get("reverse") or any(arguments[1:]):
            names = ["reverse_embeddings"]
        slot = next((self._kernels.pop(name) for name in names if name in self._kernels), None)
        if slot is None:
            return call(*arguments, **options)
        plain = {"activation": keras.activations.linear}
        bias = None if self._bias is None else self._bias.variable
        if bias is not None and not np.any(host_array(exact_value(bias))):
            bias = None
            plain |= {"bias": None, "use_bias": False}  # to add zeros would copy the output
        with having(self._layer, **plain):
            output = call(*arguments, **options)
        output = self._rescaled(slot, output, bias)
        activation = getattr(self._layer, "activation", None)
        return output if activation is None else activation(output)

    def _leave(self, reason: str, found: Moments | None = None) -> None:
        self._rules.leave(self._kernels.values(), reason, found)
        self._kernels.clear()

    def _rescaled(self, slot: Slot, output: Any, bias: Any) -> Any:
        """The output by the kernel that gives it the target's deviation; a zero `bias` is None."""
        if self.place is not None and self._bias is not None and self.normalized is NOT_NORMALIZED:
            return self._centred(slot, output, self._bias, self.place)
        found = self.normalized.moments(output)
        if self._rules.stay([slot], found, self.normalized):
            return output
        offset, target = None, self._rules.target(slot)
        if bias is not None:
            offset = ops.cast(bias.value, output.dtype)
            if getattr(self._layer, "data_format", None) == "channels_first":
                offset = ops.reshape(offset, (-1, *(1 for _ in output.shape[2:])))
        if self.whole:
            part = found if offset is None else moments(output - offset)
            found = Moments(part.mean, math.hypot(part.mean, part.std))
        wanted = target / found.std
        target = min(target, found.std * self.most(slot))
        straight = self.whole or offset is None
        factor = target / found.std if straight else _factor(output, offset, target)
        if factor is None or not 0 < factor < math.inf:
            biased = "its bias alone varies more than the target"
            self._rules.leave([slot], biased if factor is None else NOT_FINITE, found)
            return output
        if not self._rules.settle(slot, [found.std], [factor], after=target, wanted=wanted):
            return output
        output = output * ops.cast(factor, output.dtype)
        return output if offset is None else output + ops.cast(1 - factor, output.dtype) * offset

    def _centred(self, slot: Slot, output: Any, bias: Slot, place: Any) -> Any:
        """The output with the target's deviation and, for each unit, the mean that it is to have."""
        channels = 1 if getattr(self._layer, "data_format", None) == "channels_first" else -1
        axes = [axis for axis in range(len(output.shape)) if axis != channels % len(output.shape)]
        means = ops.mean(ops.cast(output, "float32"), axis=axes, keepdims=True)
        own, shape = ops.cast(exact_value(bias.variable), "float32"), means.shape
        output = output - ops.cast(means, output.dtype)
        found = moments(output)
        factor = self._rules.target(slot) / found.std if found.varies else math.inf
        known = 0 < factor < math.inf
        factor = min(factor, self.most(slot))
        factors, why_not = ([factor], "") if known else (None, found.why_not)
        if not self._rules.settle(slot, [found.std], factors, why_not, centre=float(np.mean(place))):
            return output + ops.cast(means, output.dtype)
        means = ops.reshape(means, own.shape) - own
        place = ops.broadcast_to(ops.convert_to_tensor(place, "float32"), own.shape)
        assign_exactly(bias.variable, place - factor * means)
        return output * ops.cast(factor, output.dtype) + ops.cast(ops.reshape(place, shape), output.dtype)

    def _rescale_depthwise(self, inputs: Any) -> None:
        """Rescale the first half of a separable convolution, whose output nobody else sees."""
        slot = self._kernels.pop("depthwise_kernel", None)
        if slot is None:
            return
        kernel = self._layer.depthwise_kernel
        found = moments(ops.depthwise_conv(inputs, kernel, **strides_of(self._layer)))
        if not self._rules.stay([slot], found, self.normalized):
            factor = min(self._rules.target(slot) / found.std, self.most(slot))
            self._rules.settle(slot, [found.std], [factor])

    def _by_trial(self, call: Any, *arguments: Any, **options: Any) -> None:
        """A layer of the user's own: rescale, call again, and see."""
        if len(self._kernels) > 1:
            self._leave("a layer of its own kind with more than one kernel: they cannot be told apart")
            return
        (slot,) = self._kernels.values()
        found = self._try(call, *arguments, **options)
        if found is None or not found.varies:
            self._leave(found.why_not if found else "its output is not one tensor of numbers", found)
            return
        kernel, target = slot.variable, self._rules.target(slot)
        factor = target / found.std
        before = host_array(exact_value(kernel)).copy()  # PyTorch assigns in place
        assign_exactly(kernel, before * np.float32(factor))
        then = self._try(call, *arguments, **options)
        assign_exactly(kernel, before)
        if then is None or not math.isclose(then.std, target, rel_tol=0.005):
            self._leave("its output is not in proportion to its kernel", found)
        else:
            self._rules.settle(slot, [found.std], [factor])
            self._kernels.clear()

    def _try(self, call: Any, *arguments: Any, **options: Any) -> Moments | None:
        """The moments of the layer's one output, before its activation if there is one."""
        with having(self._layer, activation=keras.activations.linear):
            outputs = keras.tree.flatten(call(*arguments, **options))
        if len(outputs) != 1:
            return None
        dtype = keras.backend.standardize_dtype(outputs[0].dtype)
        return moments(outputs[0]) if keras.backend.is_float_dtype(dtype) else None


def _factor(output: Any, offset: Any, target: float) -> float | None:
    """The factor s for which s·(output − offset) + offset has the target's deviation, or None."""
    # Var(y + b) and Var(y + 2b) give the rest: Var(b), and the covariance of y and b.
    a, one = moments(output - offset).std ** 2, moments(output).std ** 2
    two = moments(output + offset).std ** 2
    b = (two - 2 * one + a) / 2
    c = (one - a - b) / 2
    root = c * c - a * (b - target**2)
    if a == 0 or root < 0 or b >= target**2:
        return None
    return (math.sqrt(root) - c) / a


def all_steps_at_once(layer: Any) -> Any:
    """The hook for a TimeDistributed layer: what it calls step by step sees all steps first."""
    pending = [layer]

    def hook(call: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        if pending and None not in inputs.shape[:2]:
            pending.pop().call(ops.reshape(inputs, (-1, *inputs.shape[2:])))
        return call(inputs, *arguments, **options)

    return hook
