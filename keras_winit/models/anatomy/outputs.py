"""The layers that a model's outputs come out of: the last kernels on the way to them."""

from typing import Any, NamedTuple

import keras

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.following import activation_after, passes
from keras_winit.models.anatomy.passing import activation_of
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.kinds import NORMALIZATIONS
from keras_winit.models.tracing.trace import Step, Value
from keras_winit.support.losses import CROSSENTROPIES, loss_name, losses_by_output

# The deviation that an answer starts with, before its activation: large, yet with a first loss of at most 1.2
# times that of the best constant. A squared error of standardized labels is then 1.16 times as large, the
# crossentropy of ten classes 1.07 times. Smaller ones learn more slowly: tests/benchmarks/published.py.
NUMBER_STD, CHOICE_STD = 0.4, 0.6
# What stands behind a hidden layer, not before an answer: a model that ends in one hands on features.
_HIDDEN = ("relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hard_silu")


# What makes shares of an answer, whatever it is compared by.
_CHOOSING = ("softmax", "log_softmax", "sparsemax", "sigmoid")


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
                name = loss_name(losses[kernel.output])
                chooses = name in CROSSENTROPIES or (not name and activation.name in _CHOOSING)
                found.append(kernel._replace(std=CHOICE_STD if chooses else NUMBER_STD))
    return found


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
