"""What each variable is for, by what a model computes with it: the operations, not the names.

What is summed over with the signal is a kernel, and the axes that are summed over are its inputs; what
is looked up in is an embedding; what is added to a kernel's output is a bias; what multiplies is a gain.
"""

import math
from typing import Any, NamedTuple

from keras_winit.models.anatomy import contractions, views
from keras_winit.models.anatomy.contractions import Contraction, contraction
from keras_winit.models.anatomy.passing import mixed, onward
from keras_winit.models.anatomy.views import View, Views
from keras_winit.models.tracing.trace import Step, Trace, Value, number_in
from keras_winit.theory.fans import Fans

_ROLES = ("embedding", "recurrent", "kernel", "gain", "bias", "other")  # what counts where there are several

# What a signal passes on its way from a contraction to what is added to it or cut from it.
_FACTORS = ("Multiply", "Divide", "TrueDivide")
_PASSING = ("Reshape", "Transpose", "Cast", "Squeeze", "ExpandDims", "Add", "Subtract")


class Use(NamedTuple):
    """One use of a variable, in the step where it meets the signal."""

    step: Step
    role: str  # embedding, recurrent, kernel, gain, bias or other
    fans: Fans | None = None  # of a kernel or embedding, and of a bias those of its kernel
    axes: tuple[list[int], list[int]] | None = None  # of inputs and outputs, where they are known
    scale: float = 1.0  # the constant that it is multiplied by
    gates: int = 1  # parts side by side on its last axis: gates that its output is cut into, groups
    places: tuple[int, int] | None = None  # the axis that the step reads along, and that of its units
    bent: bool = False  # whether it is a function of the variable that meets the signal
    product: bool = False  # whether a product with other variables meets the signal
    behind: float = 1.0  # the part of the scale that its output is multiplied by, not it


class Uses:
    """The uses of all variables that a trace computes with outside of Keras' own layers."""

    def __init__(self, trace: Trace) -> None:
        self._uses: dict[int, list[Use]] = {}
        self._views: dict[Value, Views] = {}
        self._signal = set(trace.inputs)
        self._outputs: dict[Value, tuple[Use, ...]] = {}  # the kernels of whose outputs a value is a sum
        self._factors: dict[Value, float] = {}  # what a signal was just multiplied by
        for step in trace.steps:
            self._look_at(step)

    def is_signal(self, value: Value) -> bool:
        """Whether a value depends on what the model is given, and not on its variables alone."""
        return value.source in ("input", "state") or value in self._signal

    def signals(self, step: Step) -> list[Value]:
        """The signals that a step reads, one as often as it is given."""
        return list(filter(self.is_signal, step.inputs))

    def is_kernel_output(self, value: Value) -> bool:
        """Whether a value is what kernels put out, summed and with their biases."""
        return value in self._outputs

    def of(self, variable: Any) -> list[Use]:
        """The uses of a variable, in order."""
        return self._uses.get(id(variable), [])

    def main(self, variable: Any) -> Use | None:
        """The use that says what a variable is for; None for one that no operation was seen to use."""
        every = self.of(variable)
        found = [use for use in every if not use.bent] or every
        if not found:
            return None
        first = min(found, key=lambda use: _ROLES.index(use.role))
        sums = [use for use in found if use.role in ("kernel", "recurrent")]
        if first.role != "embedding" or not sums:
            return first
        if len(variable.shape) > 2:  # a row of it is a kernel
            return sums[0]
        # Tied to an output, where its rows are summed over.
        return first._replace(fans=sums[0].fans, scale=sums[0].scale)

    def _views_of(self, value: Value) -> Views:
        if value.variable is not None:
            return views.whole(value.variable)
        return self._views.get(value, {})

    def _look_at(self, step: Step) -> None:
        weights = [value for value in dict.fromkeys(step.inputs) if self._views_of(value)]
        signals = self.signals(step)
        if weights and not signals and not step.in_layer:
            found = views.after(step, self._views_of)
            self._views.update(dict.fromkeys(step.outputs, found))
            return
        if weights or signals or step.in_layer or step.opaque:
            self._signal.update(step.outputs)
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
            axis = 1 if step.operation.data_format == "channels_first" else len(step.inputs[0].shape) - 1
            use = Use(step, "kernel", fans, axes, view.scale, groups, (axis, axis))
            return self._kernel(use, signals)
        sums = contraction(step)
        if sums is not None and signals:
            return self._summed(step, value, view, sums, signals)
        if _looks_up(step, value):
            rows = step.operation.axis or 0 if step.kind == "Take" else 0
            if len(value.shape) > 2 and step.kind == "Take":
                self._views[step.outputs[0]] = views.after(step, self._views_of, rows=True)
            rank = len(value.shape)
            width = math.prod(size for axis, size in enumerate(value.shape) if axis != rows % rank)
            return Use(step, "embedding", Fans(1, width), scale=view.scale)
        if step.kind in ("Add", "Subtract"):
            return self._added(step, value, signals)
        return Use(step, "gain" if step.kind in _FACTORS else "other")

    def _summed(self, step: Step, value: Value, view: View, sums: Contraction, signals: list[Value]) -> Use:
        sizes = sums.sizes()
        others = [each for each in sums.operands if each[0] is not value and self.is_signal(each[0])]
        of_signal = {label for _, labels in others for label in labels}
        own = views.by_label(sums, value, view)
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
        if with_signal and any(map(_is_one_hot, signals)):
            fan_in, role = 1, "embedding"
        elif any(map(_is_state, signals)):
            role = "recurrent"
        axes = [*dict.fromkeys(inputs)], [*dict.fromkeys(outputs + inner)]
        apart = set(axes[0]).isdisjoint(axes[1])
        several = sum(bool(self._views_of(operand)) for operand, _ in sums.operands) > 1
        use = Use(step, role, Fans(fan_in, fan_out), axes if apart else None, view.scale)
        use = use._replace(places=_places(sums, value), product=several or bool(view.inner))
        return self._kernel(use, signals)

    def _kernel(self, use: Use, signals: list[Value]) -> Use:
        """Note what a kernel puts out, and count what its signal was multiplied by to equalize it."""
        for signal in signals:
            use = _equalized(use, self._factors.get(signal))
        self._outputs[use.step.outputs[0]] = (use,)
        return use

    def _added(self, step: Step, value: Value, signals: list[Value]) -> Use:
        """What is added: a bias where it lies along the units of a kernel's output."""
        for signal in signals:
            for use in self._outputs.get(signal, ()):
                units = use.places[1] if use.places else len(signal.shape) - 1
                shape = (1,) * (len(signal.shape) - len(value.shape)) + value.shape
                if all(size == 1 or axis == units for axis, size in enumerate(shape)):
                    return Use(step, "bias", use.fans)
        return Use(step, "other")

    def _hand_on(self, step: Step, signals: list[Value]) -> None:
        """A kernel's output stays one while it is only moved, added to, or cut into gates."""
        factor = number_in(step) if len(signals) == 1 and step.kind in _FACTORS else None
        if factor:
            factor = factor if step.kind == "Multiply" else 1 / factor
            self._factors[step.outputs[0]] = factor
            for use in self._outputs.get(signals[0], ()):
                if not self._is_compared(step.outputs[0]):
                    by = _equalized(use, factor)
                    self._replace(use, by._replace(behind=by.scale / use.scale))
        found = tuple(use for signal in signals for use in self._outputs.get(signal, ()))
        if not found or not step.outputs:
            return
        for value, axes in mixed(step, self.is_signal):
            moved = (_moved(use, len(value.shape), axes) for use in self._outputs.get(value, ()))
            self._outputs.setdefault(step.outputs[0], tuple(use for use in moved if use is not None))
        rank = len(step.inputs[0].shape)
        if step.kind in _PASSING and all(len(value.shape) == rank for value in step.outputs):
            self._outputs.setdefault(step.outputs[0], found)
        elif step.kind == "Split" and isinstance(step.operation.indices_or_sections, int):
            for use in found:
                if use.places and step.operation.axis % rank == use.places[1]:
                    self._cut(use, step.operation.indices_or_sections)

    def _is_compared(self, value: Value) -> bool:
        """Whether a value goes, moved at most, into a product with another signal, as a query does."""
        for step in onward([value], lambda step: step.kind in _PASSING):
            joins = contraction(step) is not None and len(step.inputs) > 1
            if joins and not any(map(self._views_of, step.inputs)):
                return True
            if step.kind in ("Softmax", "DotProductAttention"):
                return True
        return False

    def _replace(self, use: Use, by: Use) -> None:
        for found in self._uses.values():
            found[:] = [by if each is use else each for each in found]

    def _cut(self, use: Use, gates: int) -> None:
        for found in self._uses.values():
            for index, each in enumerate(found):
                whole = each.step is use.step and each.gates == 1 and _on_last_axis(each)
                if whole and each.fans is not None:
                    fans = Fans(each.fans.fan_in, each.fans.fan_out / gates)
                    found[index] = each._replace(fans=fans, gates=gates)


def _behind(value: Value, *kinds: str) -> Value:
    while value.step is not None and value.step.kind in kinds:
        value = value.step.inputs[0]
    return value


def _is_one_hot(value: Value) -> bool:
    step = _behind(value, "Cast", "Reshape", "Squeeze").step
    return step is not None and step.kind == "OneHot"


def _is_state(value: Value) -> bool:
    return _behind(value, "Cast", "Reshape", "Squeeze", "ExpandDims").source == "state"


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


def _places(sums: Contraction, kernel: Value) -> tuple[int, int] | None:
    """The axis of the signal that is summed over, and that of the output which the kernel puts out."""
    labels = sums.labels(kernel)
    others = [each for operand, each in sums.operands if operand is not kernel]
    if len(others) != 1:
        return None
    inward = [axis for axis, label in enumerate(others[0]) if label in labels and label not in sums.output]
    outward = [axis for axis, label in enumerate(sums.output) if label in labels and label not in others[0]]
    return (inward[0], outward[0]) if len(inward) == len(outward) == 1 else None


def _looks_up(step: Step, value: Value) -> bool:
    """Whether a step takes rows of a tensor by numbers that it is given."""
    if step.kind == "Take":
        return step.inputs[0] is value
    return step.kind == "GetItem" and step.arguments[0] is value
