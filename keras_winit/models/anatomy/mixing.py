"""Where a signal's samples, nodes or steps are mixed with one another, and its units stay what they are.

So does a graph's adjacency matrix with its nodes, and attention's softmax with its values.
"""

from collections.abc import Callable
from typing import NamedTuple

from keras_winit.models.anatomy.contractions import contraction
from keras_winit.models.anatomy.passing import activation_of
from keras_winit.models.tracing.kinds import ELEMENTWISE_OPERATIONS, PROPORTIONAL, TRANSPARENT_OPERATIONS
from keras_winit.models.tracing.trace import Step, Value


class Mixed(NamedTuple):
    """A signal that is mixed.

    Attributes:
        value: the signal.
        axes: for each of its axes that the output still has, where it is there.
    """

    value: Value
    axes: dict[int, int]


def mixed(step: Step, is_signal: Callable[[Value], bool]) -> list[Mixed]:
    """The signals that a step sums over with weights that no kernel puts out; none for most steps."""
    sums = contraction(step)
    if sums is None or len(sums.operands) != 2:
        return []
    found = []
    for (value, labels), (other, _) in (sums.operands, sums.operands[::-1]):
        if other is not value and is_signal(value) and _is_weight(other, is_signal):
            axes = {
                axis: sums.output.index(label) for axis, label in enumerate(labels) if label in sums.output
            }
            found.append(Mixed(value, axes))
    return found


def _is_weight(value: Value, is_signal: Callable[[Value], bool]) -> bool:
    """Whether a value is given to the model, or put out by a softmax, and only moved or masked since."""
    while value.step is not None:
        step = value.step
        if (
            step.kind == "Softmax"
            or getattr(activation_of(step), "__name__", activation_of(step)) == "softmax"
        ):
            return True
        passes = step.kind in (TRANSPARENT_OPERATIONS | ELEMENTWISE_OPERATIONS)
        signals = [each for each in step.inputs if is_signal(each)]
        if not (passes or isinstance(step.operation, PROPORTIONAL)) or len(signals) != 1:
            return False
        value = signals[0]
    return value.source in ("input", "constant")
