"""What each variable is for, by what a model computes with it: the operations, not the names.

What is summed over with the signal is a kernel, and the axes that are summed over are its inputs; what
is looked up in is an embedding; what is added to a kernel's output is a bias; what multiplies is a gain.
"""

import math
from typing import Any, NamedTuple

from keras_winit.models.anatomy import contractions, views
from keras_winit.models.anatomy.contractions import Contraction, contraction
from keras_winit.models.anatomy.passing import mixed
from keras_winit.models.anatomy.views import View, Views
from keras_winit.models.tracing.trace import Step, Trace, Value, number_in
from keras_winit.theory.fans import Fans

_ROLES = ("embedding", "recurrent", "kernel", "gain", "bias", "other")  # what counts where there are several

# What a signal passes on its way from a contraction to what is added to it or cut from it.
_FACTORS = ("Multiply", "Divide", "TrueDivide")
_PASSING = ("Reshape", "Transpose", "Cast", "Squeeze", "ExpandDims", "Add", "Subtract")


class Use(NamedTuple):
    """One use of a variable, in one step.

    Attributes:
        step: the step where it meets the signal.
        role: embedding, recurrent, kernel, gain, bias or other.
        fans: of a kernel or embedding, and of a bias those of its kernel; else None.
        axes: the input and output axes of the variable, where they are known.
        scale: the constant that the computation multiplies it by.
        gates: how many parts lie side by side on its last axis: gates that its output is cut into, groups.
        places: the axis that the step reads along and the one that its units are on, where there is one
            of each.
        bent: whether it is a function of the variable that meets the signal, not the variable.
        product: whether it is a product with other variables that meets the signal.
        behind: the part of `scale` that its output is multiplied by, not it.
    """

    step: Step
    role: str
    fans: Fans | None = None
    axes: tuple[list[int], list[int]] | None = None
    scale: float = 1.0
    gates: int = 1
    places: tuple[int, int] | None = None
    bent: bool = False
    product: bool = False
    behind: float = 1.0


class Uses:
    """The uses of all variables that a trace computes with outside of Keras' own layers."""

    def __init__(self, trace: Trace) -> None:
        self._uses: dict[int, list[Use]] = {}
        self._views: dict[int, Views] = {}
        self._signal: set[int] = {id(value) for value in trace.inputs}
        self._outputs: dict[int, tuple[Use, ...]] = {}  # the kernels of whose outputs a value is a sum
        self._factors: dict[int, float] = {}  # what a signal was just multiplied by
        for step in trace.steps:
            self._look_at(step)

    def is_signal(self, value: Value) -> bool:
        """Whether a value depends on what the model is given, and not on its variables alone."""
        return value.source in ("input", "state") or id(value) in self._signal

    def is_kernel_output(self, value: Value) -> bool:
        """Whether a value is what kernels put out, summed and with their biases."""
        return id(value) in self._outputs

    def of(self, variable: Any) -> list[Use]:
        """The uses of a variable, in order."""
        return self._uses.get(id(variable), [])

    def main(self, variable: Any) -> Use | None:
        """The use that says what a variable is for; None for one that no operation was seen to use."""
        every = self.of(variable)
        found = [use for use in every if not use.bent] or every
        if not found:
            return None
        role = min((use.role for use in found), key=_ROLES.index)
        sums = [use for use in found if use.role in ("kernel", "recurrent")]
        first = next(use for use in found if use.role == role)
        if role == "embedding" and sums and len(variable.shape) > 2:  # a row of it is a kernel
            return sums[0]
        if role == "embedding" and sums:  # tied to an output, where its rows are summed over
            return first._replace(fans=sums[0].fans, scale=sums[0].scale)
        return first

    def _views_of(self, value: Value) -> Views:
        if value.variable is not None:
            return views.whole(value.variable)
        return self._views.get(id(value), {})

    def _look_at(self, step: Step) -> None:
        weights = [value for value in dict.fromkeys(step.inputs) if self._views_of(value)]
        signals = [value for value in step.inputs if self.is_signal(value)]
        if weights and not signals and not step.in_layer:
            found = views.after(step, self._views_of)
            self._views.update({id(value): found for value in step.outputs})
            return
        if weights or signals or step.in_layer or step.opaque:
            self._signal.update(id(value) for value in step.outputs)
        for value in weights:
            others = [each for each in signals if each is not value]
            for variable, view in self._views_of(value).values():
                use = self._use(step, value, view, others)
                if view is not None and view.bent:
                    use = use._replace(bent=True)
                self._uses.setdefault(id(variable), []).append(use)
        self._hand_on(step, signals)

    def _use(self, step: Step, value: Value, view: View | None, signals: list[Value]) -> Use:
        if view is None or step.in_layer:
            return Use(step, "other")
        convolved = contractions.of_step(step, value)
        if convolved is not None:
            fans, axes, groups = convolved
            use = Use(step, "kernel", fans, axes, view.scale, groups, _channels(step))
            return self._kernel(use, signals)
        sums = contraction(step)
        if sums is not None and signals:
            return self._summed(step, value, view, sums, signals)
        if _looks_up(step, value):
            rows = step.operation.axis or 0 if step.kind == "Take" else 0
            if len(value.shape) > 2 and step.kind == "Take":
                self._views[id(step.outputs[0])] = views.after(step, self._views_of, rows=True)
            width = math.prod(
                size for axis, size in enumerate(value.shape) if axis != rows % len(value.shape)
            )
            return Use(step, "embedding", Fans(1, width), scale=view.scale)
        if step.kind in ("Add", "Subtract"):
            return self._added(step, value, signals)
        return Use(step, "gain" if step.kind in ("Multiply", "TrueDivide", "Divide") else "other")

    def _summed(self, step: Step, value: Value, view: View, sums: Contraction, signals: list[Value]) -> Use:
        labels = next(each for operand, each in sums.operands if operand is value)
        sizes = sums.sizes()
        of_signal = {
            label
            for operand, each in sums.operands
            if operand is not value and self.is_signal(operand)
            for label in each
        }
        own = {
            label: axes for label, axes in zip(labels, view.axes, strict=True) if axes and label is not None
        }
        summed = [label for label in own if label not in sums.output]
        with_signal = [label for label in summed if label in of_signal] or summed
        outward = [label for label in own if label not in with_signal and label not in of_signal]
        fan_in, inner = math.prod(sizes[label] for label in with_signal), list(view.inner)
        fan_out = math.prod(sizes[label] for label in outward)
        inputs = [axis for label in with_signal for axis in own[label]]
        outputs = [axis for label in outward for axis in own[label]]
        if not with_signal:
            fan_in, inputs, inner = view.inner_size, inner, []
            if not inputs:
                return Use(step, "gain")  # nothing of it is summed over: an outer product
        elif inner:
            fan_out *= view.inner_size
        role = "kernel"
        if any(self._is_one_hot(operand) for operand in signals) and with_signal:
            fan_in, role = 1, "embedding"
        elif any(map(_is_state, signals)):
            role = "recurrent"
        axes = _axes([*dict.fromkeys(inputs)], [*dict.fromkeys(outputs + inner)])
        several = sum(bool(self._views_of(operand)) for operand, _ in sums.operands) > 1
        use = Use(step, role, Fans(fan_in, fan_out), axes, view.scale, places=_places(sums, value))
        use = use._replace(product=several or bool(view.inner))
        return self._kernel(use, signals)

    def _kernel(self, use: Use, signals: list[Value]) -> Use:
        """Note what a kernel puts out, and count what its signal was multiplied by to equalize it."""
        for signal in signals:
            use = _equalized(use, self._factors.get(id(signal)))
        self._outputs[id(use.step.outputs[0])] = (use,)
        return use

    def _added(self, step: Step, value: Value, signals: list[Value]) -> Use:
        """What is added: a bias where it lies along the units of a kernel's output."""
        for signal in signals:
            for use in self._outputs.get(id(signal), ()):
                units = use.places[1] if use.places else len(signal.shape) - 1
                shape = (1,) * (len(signal.shape) - len(value.shape)) + value.shape
                if all(size == 1 or axis == units for axis, size in enumerate(shape)):
                    return Use(step, "bias", use.fans)
        return Use(step, "other")

    def _is_one_hot(self, value: Value) -> bool:
        while value.step is not None and value.step.kind in ("Cast", "Reshape", "Squeeze"):
            value = value.step.inputs[0]
        return value.step is not None and value.step.kind == "OneHot"

    def _hand_on(self, step: Step, signals: list[Value]) -> None:
        """A kernel's output stays one while it is only moved, added to, or cut into gates."""
        factor = number_in(step) if len(signals) == 1 and step.kind in _FACTORS else None
        if factor:
            factor = factor if step.kind == "Multiply" else 1 / factor
            self._factors[id(step.outputs[0])] = factor
            for use in self._outputs.get(id(signals[0]), ()):
                if not self._is_compared(step.outputs[0]):
                    by = _equalized(use, factor)
                    self._replace(use, by._replace(behind=by.scale / use.scale))
        found = tuple(use for signal in signals for use in self._outputs.get(id(signal), ()))
        if not found or len(step.outputs) == 0:
            return
        for value, axes in mixed(step, self.is_signal):
            moved = (_moved(use, len(value.shape), axes) for use in self._outputs.get(id(value), ()))
            self._outputs.setdefault(id(step.outputs[0]), tuple(use for use in moved if use is not None))
        rank = len(step.inputs[0].shape)
        if step.kind in _PASSING and all(len(value.shape) == rank for value in step.outputs):
            self._outputs.setdefault(id(step.outputs[0]), found)
        elif step.kind == "Split" and isinstance(step.operation.indices_or_sections, int):
            for use in found:
                if use.places and step.operation.axis % rank == use.places[1]:
                    self._cut(use, step.operation.indices_or_sections)

    def _is_compared(self, value: Value) -> bool:
        """Whether a value goes, moved at most, into a product with another signal, as a query does."""
        waiting = [value]
        while waiting:
            for step in waiting.pop().readers:
                joins = contraction(step) is not None and len(step.inputs) > 1
                if step.kind in ("Softmax", "DotProductAttention") or (
                    joins and not any(map(self._views_of, step.inputs))
                ):
                    return True
                if step.kind in _PASSING:
                    waiting += step.outputs
        return False

    def _replace(self, use: Use, by: Use) -> None:
        for found in self._uses.values():
            found[:] = [by if each is use else each for each in found]

    def _cut(self, use: Use, gates: int) -> None:
        for found in self._uses.values():
            for index, each in enumerate(found):
                if (
                    each.step is use.step
                    and each.fans is not None
                    and each.gates == 1
                    and _on_last_axis(each)
                ):
                    fans = Fans(each.fans.fan_in, each.fans.fan_out / gates)
                    found[index] = each._replace(fans=fans, gates=gates)


def _is_state(value: Value) -> bool:
    while value.step is not None and value.step.kind in ("Reshape", "Cast", "ExpandDims", "Squeeze"):
        value = value.step.inputs[0]
    return value.source == "state"


def _equalized(use: Use, factor: float | None) -> Use:
    """A use whose signal, before or behind, is multiplied by about 1/√fan_in: an equalized learning rate."""
    if factor is None or use.fans is None or not 0.5 <= abs(factor) * math.sqrt(use.fans.fan_in) <= 2:
        return use
    return use._replace(scale=use.scale * factor)


def _moved(use: Use, rank: int, axes: dict[int, int]) -> Use | None:
    """A use whose output was mixed, its units on another axis; None where they are summed over."""
    units = use.places[1] if use.places else rank - 1
    return use._replace(places=(-1, axes[units])) if units in axes else None


def _on_last_axis(use: Use) -> bool:
    """Whether a kernel's units are along its variable's last axis alone."""
    return use.axes is not None and use.axes[1] == [max(max(use.axes[0], default=0), *use.axes[1])]


def _axes(inputs: list[int], outputs: list[int]) -> tuple[list[int], list[int]] | None:
    return None if set(inputs) & set(outputs) else (inputs, outputs)


def _places(sums: Contraction, kernel: Value) -> tuple[int, int] | None:
    """The axis of the signal that is summed over, and that of the output which the kernel puts out."""
    labels = next(each for operand, each in sums.operands if operand is kernel)
    others = [each for operand, each in sums.operands if operand is not kernel]
    if len(others) != 1:
        return None
    inward = [axis for axis, label in enumerate(others[0]) if label in labels and label not in sums.output]
    outward = [axis for axis, label in enumerate(sums.output) if label in labels and label not in others[0]]
    return (inward[0], outward[0]) if len(inward) == len(outward) == 1 else None


def _channels(step: Step) -> tuple[int, int]:
    rank = len(step.inputs[0].shape)
    axis = 1 if step.operation.data_format == "channels_first" else rank - 1
    return axis, axis


def _looks_up(step: Step, value: Value) -> bool:
    """Whether a step takes rows of a tensor by numbers that it is given."""
    if step.kind == "Take":
        return step.inputs[0] is value
    return step.kind == "GetItem" and step.arguments[0] is value
