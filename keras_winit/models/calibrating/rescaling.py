"""How each kind of layer is rescaled while it is called: its kernel, and at once its output.

The output of a layer, before its activation, is linear in its kernel. So when a layer is reached
its deviation is measured, the kernel multiplied by what is missing, and the pass goes on with the
output that the new kernel would have given.
"""

import math
from collections.abc import Callable
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

# Multiplies a slot's kernel by a factor, or one for each gate, or leaves it alone with a reason, and says
# whether it did the first: settle(slot, deviations found, factors or None, reason).
Settle = Callable[..., bool]
# The deviation that a slot's kernel is to give.
Target = Callable[[Slot], float]

TRACED = "called inside a compiled loop, where nothing can be measured"
NOTLINEAR = "its output is not in proportion to its kernel"
NOT_ONE = "its output is not one tensor of numbers"
BIASED = "its bias alone varies more than the target"


class Normalized(NamedTuple):
    """What divides by the size of a layer's output.

    Attributes:
        name: its name.
        most: the largest variance that it can hold.
        moments: how to measure the output, for all that want to know.
    """

    name: str
    most: float
    moments: Callable[[Any], Moments]

    @property
    def reason(self) -> str:
        """Why a kernel before it is left alone."""
        return f"{self.name} divides by its size"


class Rescaler:
    """The hook for one layer: rescales its kernels when it is first called."""

    def __init__(self, layer: Any, kernels: list[Slot], bias: Slot | None, target: Target, settle: Settle):
        self._layer = layer
        self._kernels = {slot.variable.name: slot for slot in kernels}
        self._bias = bias
        self._target = target
        self._settle = settle
        self.place: Any = None  # the mean that the bias is to give each unit, or one for each; None: none
        self.whole = False  # whether a mean that no bias takes away counts as size
        self.most: Callable[[Slot], float] = lambda _: math.inf  # the largest factor
        self.normalized: Normalized | None = None  # what normalizes the output at once

    def __call__(self, call: Any, *arguments: Any, **options: Any) -> Any:
        """What the layer answers, by its rescaled kernel."""
        if not self._kernels or not arguments:
            return call(*arguments, **options)
        if any(is_traced(tensor) for tensor in keras.tree.flatten(arguments)):
            self._leave(TRACED)
            return call(*arguments, **options)
        if type(self._layer).call not in LINEAR:
            return self._by_trial(call, *arguments, **options)
        if isinstance(self._layer, SEPARABLE):
            self._rescale_depthwise(arguments[0])
        backwards = options.get("reverse") or any(arguments[1:])
        slot = self._kernels.pop("reverse_embeddings" if backwards else self._forward_name(), None)
        if slot is None:
            return call(*arguments, **options)
        plain = {"activation": keras.activations.linear}
        if self._bias is not None and not self._has_offset():  # to add zeros takes a copy of the output
            plain |= {"bias": None, "use_bias": False}
        with having(self._layer, **plain):
            output = call(*arguments, **options)
        output = self._rescaled(slot, output)
        activation = getattr(self._layer, "activation", None)
        return output if activation is None else activation(output)

    def _forward_name(self) -> str:
        names = ("pointwise_kernel", "kernel", "embeddings", "depthwise_kernel")
        return next((name for name in names if name in self._kernels), "")

    def _leave(self, reason: str, found: Moments | None = None) -> None:
        for slot in self._kernels.values():
            self._settle(slot, [found.std if found else None], None, reason)
        self._kernels.clear()

    def _rescaled(self, slot: Slot, output: Any) -> Any:
        """The output by the kernel that gives it the target's deviation."""
        if self.place is not None and self._bias is not None and self.normalized is None:
            return self._centred(slot, output, self._bias, self.place)
        found = moments(output) if self.normalized is None else self.normalized.moments(output)
        if self._stays(slot, found):
            return output
        if not found.varies:
            self._settle(slot, [found.std], None, found.why_not)
            return output
        offset, target = self._offset(output), self._target(slot)
        if self.whole:
            part = found if offset is None else moments(output - offset)
            found = Moments(part.mean, math.hypot(part.mean, part.std))
        wanted = target / found.std
        target = min(target, found.std * self.most(slot))
        straight = self.whole or offset is None
        factor = target / found.std if straight else _factor(output, offset, target)
        if factor is None or not 0 < factor < math.inf:
            self._settle(slot, [found.std], None, BIASED if factor is None else NOT_FINITE)
            return output
        if not self._settle(slot, [found.std], [factor], "", after=target, wanted=wanted):
            return output
        output = output * ops.cast(factor, output.dtype)
        return output if offset is None else output + ops.cast(1 - factor, output.dtype) * offset

    def _stays(self, slot: Slot, found: Moments) -> bool:
        """Whether a kernel keeps its size, for a normalization divides by it."""
        if self.normalized is None or not found.varies or found.std**2 > self.normalized.most:
            return False
        self._settle(slot, [found.std], None, self.normalized.reason, normalized=True)
        return True

    def _centred(self, slot: Slot, output: Any, bias: Slot, place: Any) -> Any:
        """The output with the target's deviation and, for each unit, the mean that it is to have."""
        channels = 1 if getattr(self._layer, "data_format", None) == "channels_first" else -1
        axes = [axis for axis in range(len(output.shape)) if axis != channels % len(output.shape)]
        means = ops.mean(ops.cast(output, "float32"), axis=axes, keepdims=True)
        own, shape = ops.cast(exact_value(bias.variable), "float32"), means.shape
        output = output - ops.cast(means, output.dtype)
        found = moments(output)
        factor = self._target(slot) / found.std if found.varies else math.inf
        factor = min(factor, self.most(slot)) if math.isfinite(factor) else factor
        if not 0 < factor < math.inf:
            self._settle(slot, [found.std], None, found.why_not)
            return output + ops.cast(means, output.dtype)
        if not self._settle(slot, [found.std], [factor], "", float(np.mean(place))):
            return output + ops.cast(means, output.dtype)
        means = ops.reshape(means, own.shape) - own
        place = ops.broadcast_to(ops.convert_to_tensor(place, "float32"), own.shape)
        assign_exactly(bias.variable, place - factor * means)
        return output * ops.cast(factor, output.dtype) + ops.cast(ops.reshape(place, shape), output.dtype)

    def _has_offset(self) -> bool:
        """Whether the layer's bias is any but zero."""
        return self._bias is not None and bool(np.any(host_array(exact_value(self._bias.variable))))

    def _offset(self, output: Any) -> Any:
        """The layer's bias, as it lies on the output, or None for none."""
        if self._bias is None or not self._has_offset():
            return None
        bias = ops.cast(self._bias.variable.value, output.dtype)
        if getattr(self._layer, "data_format", None) == "channels_first":
            bias = ops.reshape(bias, (-1, *(1 for _ in output.shape[2:])))
        return bias

    def _rescale_depthwise(self, inputs: Any) -> None:
        """The first half of a separable convolution, whose output nobody else sees."""
        layer = self._layer
        slot = self._kernels.pop("depthwise_kernel", None)
        if slot is None:
            return
        middle = ops.depthwise_conv(
            inputs,
            layer.depthwise_kernel,
            strides=layer.strides,
            padding=layer.padding,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
        )
        found = moments(middle)
        if self._stays(slot, found):
            return
        if found.varies:
            self._settle(slot, [found.std], [min(self._target(slot) / found.std, self.most(slot))], "")
        else:
            self._settle(slot, [found.std], None, found.why_not)

    def _by_trial(self, call: Any, *arguments: Any, **options: Any) -> Any:
        """A layer of the user's own: rescale, call again, and see."""
        if len(self._kernels) > 1:
            self._leave("a layer of its own kind with more than one kernel: they cannot be told apart")
            return call(*arguments, **options)
        (slot,) = self._kernels.values()
        found = self._try(call, *arguments, **options)
        if found is None or not found.varies:
            self._leave(NOT_ONE if found is None else found.why_not, found)
            return call(*arguments, **options)
        factor = self._target(slot) / found.std
        kernel = slot.variable
        before = host_array(exact_value(kernel)).copy()  # PyTorch assigns in place
        assign_exactly(kernel, before * np.float32(factor))
        then = self._try(call, *arguments, **options)
        assign_exactly(kernel, before)
        if then is None or not math.isclose(then.std, self._target(slot), rel_tol=0.005):
            self._leave(NOTLINEAR, found)
        else:
            self._settle(slot, [found.std], [factor], "")
            self._kernels.clear()
        return call(*arguments, **options)

    def _try(self, call: Any, *arguments: Any, **options: Any) -> Moments | None:
        """The moments of the layer's one output, before its activation where it has one."""
        with having(self._layer, activation=keras.activations.linear):
            outputs = keras.tree.flatten(call(*arguments, **options))
        if len(outputs) != 1 or not keras.backend.is_float_dtype(
            keras.backend.standardize_dtype(outputs[0].dtype)
        ):
            return None
        return moments(outputs[0])


def _factor(output: Any, offset: Any, target: float) -> float | None:
    """The factor s for which s·(output − offset) + offset has the target's deviation, or None."""
    part = moments(output - offset)
    whole, whole_plus = moments(output), moments(output + offset)
    # Var(y + b) and Var(y + 2b) give the rest: Var(b), and the covariance of y and b.
    a, one, two = part.std**2, whole.std**2, whole_plus.std**2
    b = (two - 2 * one + a) / 2
    c = (one - a - b) / 2
    root = c * c - a * (b - target**2)
    if a == 0 or root < 0 or b >= target**2:
        return None
    return (math.sqrt(root) - c) / a


def all_steps_at_once(layer: Any) -> Any:
    """A TimeDistributed layer calls what it wraps step by step; let it see all steps at its first call."""
    pending = [layer]

    def hook(call: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        if pending and None not in inputs.shape[:2]:
            pending.pop().call(ops.reshape(inputs, (-1, *inputs.shape[2:])))
        return call(inputs, *arguments, **options)

    return hook
