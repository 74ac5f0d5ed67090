"""The layers that a model's outputs come out of: the last kernels on the way to them."""

import math
from typing import Any, NamedTuple

import keras

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.following import activation_after, passes
from keras_winit.models.anatomy.passing import activation_of
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.kinds import NORMALIZATIONS
from keras_winit.models.tracing.trace import Step, Value
from keras_winit.support.losses import CROSSENTROPIES, loss_name, losses_by_output

# The deviation that an answer starts with, before its activation: as large as lets the first loss be 1.2
# times that of the best constant. Smaller ones learn more slowly: tests/benchmarks/published.py. A squared
# error of standardized labels is then 1.09 times as large, a yes or no 1.18 times.
NUMBER_STD, YES_STD = 0.3, 1.0
_EXCESS = 0.18  # of the crossentropy of one of many


# What stands behind a hidden layer, not before an answer: a model that ends in one hands on features.
_HIDDEN = ("relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hard_silu")


# What makes shares of an answer.
_ONE_OF_MANY = ("softmax", "log_softmax", "sparsemax")


class OutputKernel(NamedTuple):
    """A kernel that a model's output comes out of.

    Attributes:
        slot: the kernel.
        output: the place of the output among the model's outputs.
        straight: whether the output is what it puts out, and at most an activation of that: nothing is
            added, and no other signal multiplies it.
        between: the steps from it to the output, the last first.
        std: the deviation that it is to start with, where it puts out answers.
    """

    slot: Slot
    output: int
    straight: bool
    between: tuple[Step, ...] = ()
    std: float = NUMBER_STD

    @property
    def units(self) -> int:
        """How many numbers the kernel puts out side by side: of a transposed one, its last axis but one."""
        return self.slot.shape[-2 if self.slot.transposed else -1]


def answers(anatomy: Anatomy, loss: Any = None, *, hidden: bool = False) -> list[OutputKernel]:
    """The kernels that put out a model's answers: those that an output comes straight from.

    Args:
        anatomy: the model taken apart.
        loss: what they are compared by; None for the model's compiled one, if it has one.
        hidden: whether those with an activation of hidden layers count, behind which a model without
            answers hands on features.
    """
    found: list[OutputKernel] = []
    if not isinstance(anatomy.model, keras.Model):  # a layer alone gives no answers
        return found
    losses = losses_by_output(anatomy.model, loss, len(anatomy.trace.outputs))
    for kernel in output_kernels(anatomy):
        slot = kernel.slot
        if kernel.straight and slot.role == "kernel" and slot.blocks == 1 and not slot.depthwise:
            activation = activation_after(anatomy, slot)[0]
            if activation is not None and (hidden or activation.name not in _HIDDEN):
                std = _std(kernel, activation.name, loss_name(losses[kernel.output]))
                found.append(kernel._replace(std=std))
    return found


def _std(kernel: OutputKernel, activation: str, loss: str) -> float:
    """The deviation that an answer is to start with, by what it is compared by."""
    if loss not in CROSSENTROPIES and (loss or activation not in (*_ONE_OF_MANY, "sigmoid")):
        return NUMBER_STD
    units = kernel.units
    if loss.startswith("binary") or activation == "sigmoid" or units == 1:
        return YES_STD
    # A softmax of logits of variance s² is s²/2·(1 − 1/units) above log(units).
    return min(1.0, math.sqrt(2 * _EXCESS * math.log(units) / (1 - 1 / units)))


def output_kernels(anatomy: Anatomy) -> list[OutputKernel]:
    """The kernels that a model's outputs come out of, with nothing but activations and the like between.

    A normalization in between gives the signal a scale of its own; what is before it is not listed. Where
    signals are added, joined or multiplied, all that puts them out is.
    """
    kernels: dict[int, list[Slot]] = {}
    for slot in anatomy.slots:
        if slot.role not in ("kernel", "embedding", "recurrent"):
            continue
        for step in anatomy.steps(slot):
            if not (slot.depthwise and step.kind.startswith("SeparableConv")):
                kernels.setdefault(id(step), []).append(slot)
    found: dict[tuple[Any, int], OutputKernel] = {}
    for place, output in enumerate(anatomy.trace.outputs):
        waiting: list[tuple[Value, bool, tuple[Step, ...]]] = [(output, True, ())]
        seen: set[int] = set()
        while waiting:
            value, straight, between = waiting.pop()
            last = value.step
            if last is None or last.opaque or id(last) in seen:
                continue
            seen.add(id(last))
            if id(last) in kernels:
                for slot in kernels[id(last)]:
                    found.setdefault((slot, place), OutputKernel(slot, place, straight, between))
                continue
            signals = [each for each in last.inputs if anatomy.uses.is_signal(each)]
            if isinstance(last.operation, NORMALIZATIONS) or not _hands_on(anatomy, last):
                continue
            alone = straight and len(signals) == 1
            waiting += [(each, alone, (*between, last)) for each in reversed(signals)]
    return list(found.values())


def _hands_on(anatomy: Anatomy, step: Step) -> bool:
    joins = step.kind in ("Add", "Subtract", "Multiply", "Concatenate", "Average", "Maximum", "Dot")
    return joins or activation_of(step) is not None or passes(anatomy, step)
