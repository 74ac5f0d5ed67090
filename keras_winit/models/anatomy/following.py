"""What lies before and behind a kernel: activations, what it reads, how many come in a row, outputs."""

import math
from typing import Any, NamedTuple

import keras
from keras import layers

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.normalizing import normalized
from keras_winit.models.anatomy.passing import activation_of, applied, mixed, normalizes, onward
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.kinds import (
    AVERAGES,
    ELEMENTWISE_OPERATIONS,
    GLOBAL_AVERAGES,
    NORMALIZATIONS,
    TRANSPARENT,
    TRANSPARENT_OPERATIONS,
)
from keras_winit.models.tracing.trace import Step, Value
from keras_winit.support.losses import CROSSENTROPIES, loss_name, losses_by_output
from keras_winit.theory.activations import Activation, resolve


def activation_after(anatomy: Anatomy, slot: Slot) -> tuple[Activation | None, str]:
    """The activation that a slot's kernel feeds, and how it was found; None where that is not seen."""
    steps = anatomy.steps(slot)
    own = getattr(slot.layer, "activation", None)
    if slot.depthwise and any(step.kind.startswith("SeparableConv") for step in steps):
        return resolve(None), "the pointwise kernel follows"
    if own is not None and own is not keras.activations.linear and (slot.use is None or not steps):
        return resolve(own), "the layer's own activation"
    if not steps:
        return None, "what its layer computes is not seen"
    return activation_behind(anatomy, [value for step in steps for value in step.outputs])


def activation_before(anatomy: Anatomy, slot: Slot) -> Activation | None:
    """The activation whose output a slot's kernel reads; None where something else comes first."""
    steps = anatomy.steps(slot)
    value = steps[0].inputs[0] if steps and steps[0].inputs else None
    while value is not None and value.step is not None and not value.step.opaque:
        step = value.step
        found = applied(step)
        if found is not None:
            return resolve(found)
        signals = anatomy.uses.signals(step)
        if isinstance(step.operation, NORMALIZATIONS) or len(signals) != 1 or not passes(anatomy, step):
            return None
        value = signals[0]
    return None


def is_gate(anatomy: Anatomy, slot: Slot) -> bool:
    """Whether what a slot's kernel puts out, between zero and one, multiplies another signal."""
    found = activation_after(anatomy, slot)[0]
    if found is None or found.name not in ("sigmoid", "hard_sigmoid"):
        return False
    behind = onward(
        [value for step in anatomy.steps(slot) for value in step.outputs],
        lambda step: activation_of(step) is not None or passes(anatomy, step),
    )
    return any(step.kind == "Multiply" and len(anatomy.uses.signals(step)) > 1 for step in behind)


def passes(anatomy: Anatomy, step: Step) -> bool:
    """Whether a signal passes a step with its distribution more or less as it was."""
    if step.kind in ELEMENTWISE_OPERATIONS:
        signals = anatomy.uses.signals(step)
        # A sum of what several kernels put out is what one kernel of all their inputs would.
        return len(signals) == 1 or (step.kind == "Add" and all(map(anatomy.is_kernel_output, signals)))
    return isinstance(step.operation, TRANSPARENT) or step.kind in TRANSPARENT_OPERATIONS


def _is_mixed(anatomy: Anatomy, value: Value, step: Step) -> bool:
    """Whether a signal's samples or nodes are mixed, and its units, on its last axis, stay."""
    last = len(value.shape) - 1
    return any(each.value is value and last in each.axes for each in mixed(step, anatomy.uses.is_signal))


def activation_behind(anatomy: Anatomy, start: list[Value]) -> tuple[Activation | None, str]:
    """The activation that signals feed, and how it was found; None where that is not seen."""
    queue, seen, unseen = list(start), set[Value](), ""
    while queue:
        value = queue.pop(0)
        if value in seen:
            continue
        seen.add(value)
        if anatomy.trace.is_lost(value):
            unseen = unseen or "what follows is not seen"
        following: list[Value] = []
        for step in value.readers:
            if step.opaque:
                unseen = unseen or f"what follows is not seen: {step.described}"
                continue
            found = activation_of(step)
            if found is not None:
                activation = resolve(found)
                return activation, f"{step.operation.name if step.in_layer else activation.name} follows"
            if passes(anatomy, step) or _is_mixed(anatomy, value, step):
                following += step.outputs
        if not following and value.readers:
            following = normalized(anatomy, [value]).ends
        queue = [*following, *queue]
    return (None, unseen) if unseen else (resolve(None), "no activation follows")


def sources(anatomy: Anatomy, step: Step) -> list[Value]:
    """The signals that reach a step through what leaves their scale more or less as it is, the last first."""
    waiting, found = anatomy.uses.signals(step), dict[Value, None]()
    while waiting:
        value = waiting.pop(0)
        if value not in found:
            found[value] = None
            if value.step is not None and _hands_on(anatomy, value.step):
                waiting += anatomy.uses.signals(value.step)
    return list(found)


def _hands_on(anatomy: Anatomy, step: Step) -> bool:
    """Whether a step joins signals, is an activation, or lets a signal pass, and does not normalize."""
    if step.opaque or isinstance(step.operation, NORMALIZATIONS):
        return False
    joins = step.kind in ("Concatenate", "Add", "Multiply", "Subtract", "Average", "Maximum")
    return joins or activation_of(step) is not None or passes(anatomy, step)


def averaged(anatomy: Anatomy, step: Step) -> float:
    """How many numbers each of those that a step reads is a mean of."""
    found, kinds = 1.0, (*AVERAGES, *GLOBAL_AVERAGES)
    for before in dict.fromkeys(value.step for value in sources(anatomy, step) if value.step is not None):
        if isinstance(before.operation, kinds) or before.kind in ("Mean", "AveragePool"):
            sizes = [math.prod(value.shape) for value in (before.inputs[0], before.outputs[0])]
            found *= max(1.0, sizes[0] / sizes[1])
    return found


# Chains of this many kernels are long. ReLU stacks of up to six hidden layers learn faster from Glorot's
# kernels, by SGD and Adam alike; from nine on from He's, which keep the size of what many layers pass on.
DEEP = 10


class Depths:
    """For each kernel, the length of the longest plain chain of kernels that it is in.

    A chain ends where a signal is normalized, goes through a recurrent layer, or is added to one that
    did not pass the same kernels, as a residual is.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        kernels = [slot for slot in anatomy.slots if slot.role == "kernel"]
        met = {step for slot in kernels for step in anatomy.steps(slot)}
        steps = anatomy.trace.steps
        ends = set(filter(self._ends_a_chain, steps))
        self._before: dict[Step | None, int] = {}  # kernels up to a step, it included
        for step in steps:
            known = [0, *(self._before.get(value.step, 0) for value in step.inputs)]
            self._before[step] = (0 if step in ends else max(known)) + (step in met)
        self._behind: dict[Step, int] = {}  # kernels behind a step
        for step in reversed(steps):
            readers = {reader for value in step.outputs for reader in value.readers} - ends
            known = [self._behind[each] + (each in met) for each in readers if each in self._behind]
            self._behind[step] = max(known, default=0)

    def of(self, slot: Slot) -> int:
        """The length of a kernel's chain, in kernels; 0 where it is not seen."""
        steps = self._anatomy.steps(slot)
        return max((self._before[step] + self._behind[step] for step in steps), default=0)

    def is_short(self, slot: Slot) -> bool:
        """Whether it is seen that a kernel is in a short chain. Of a layer alone it is not."""
        return isinstance(self._anatomy.model, keras.Model) and 0 < self.of(slot) < DEEP

    def _ends_a_chain(self, step: Step) -> bool:
        if isinstance(step.operation, layers.RNN) or normalizes(step):
            return True
        signals = self._anatomy.uses.signals(step) if step.kind == "Add" else []
        return len(signals) > 1 and not all(map(self._anatomy.is_kernel_output, signals))


# The deviation that an answer starts with, before its activation: as large as lets the first loss be 1.2
# times that of the best constant. Smaller ones learn more slowly: tests/benchmarks/published.py. A squared
# error of standardized labels is then 1.09 times as large, a yes or no 1.18 times.
NUMBER_STD, YES_STD = 0.3, 1.0
_EXCESS = 0.18  # of the crossentropy of one of many

# What stands behind a hidden layer, not before an answer: a model that ends in one hands on features.
_HIDDEN = ("relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hard_silu")


class OutputKernel(NamedTuple):
    """A kernel that a model's output comes out of.

    It is straight where the output is what it puts out, and at most an activation of that: nothing is
    added, and no other signal multiplies it.
    """

    slot: Slot
    output: int  # the place among the model's outputs
    straight: bool
    between: tuple[Step, ...] = ()  # the steps from it to the output, the last first
    std: float = NUMBER_STD  # the deviation that it is to start with, where it puts out answers

    @property
    def units(self) -> int:
        """How many numbers the kernel puts out side by side: of a transposed one, its last axis but one."""
        return self.slot.shape[-2 if self.slot.transposed else -1]


def answers(anatomy: Anatomy, loss: Any = None, *, hidden: bool = False) -> list[OutputKernel]:
    """The kernels that put out a model's answers: those that an output comes straight from.

    Args:
        loss: what they are compared by; None for the model's compiled one, if it has one.
        hidden: whether those with an activation of hidden layers count, behind which a model without
            answers hands on features.
    """
    if not isinstance(anatomy.model, keras.Model):  # a layer alone gives no answers
        return []
    found = []
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
    shares = activation in ("softmax", "log_softmax", "sparsemax", "sigmoid")
    if loss not in CROSSENTROPIES and (loss or not shares):
        return NUMBER_STD
    units = kernel.units
    if loss.startswith("binary") or activation == "sigmoid" or units == 1:
        return YES_STD
    # A softmax of logits of variance s² is s²/2·(1 − 1/units) above log(units).
    return min(1.0, math.sqrt(2 * _EXCESS * math.log(units) / (1 - 1 / units)))


def output_kernels(anatomy: Anatomy) -> list[OutputKernel]:
    """The kernels that a model's outputs come out of, with nothing but activations and the like between.

    What is before a normalization, which gives the signal a scale of its own, is not listed. Where signals
    are added, joined or multiplied, all that puts them out is.
    """
    kernels: dict[Step, list[Slot]] = {}
    for slot in anatomy.slots:
        for step in anatomy.steps(slot) if slot.role in ("kernel", "embedding", "recurrent") else []:
            if not (slot.depthwise and step.kind.startswith("SeparableConv")):
                kernels.setdefault(step, []).append(slot)
    found: dict[tuple[Slot, int], OutputKernel] = {}
    for place, output in enumerate(anatomy.trace.outputs):
        waiting: list[tuple[Value, bool, tuple[Step, ...]]] = [(output, True, ())]
        seen = set[Step]()
        while waiting:
            value, straight, between = waiting.pop()
            last = value.step
            if last is None or last.opaque or last in seen:
                continue
            seen.add(last)
            for slot in kernels.get(last, []):
                found.setdefault((slot, place), OutputKernel(slot, place, straight, between))
            if last not in kernels and (last.kind == "Dot" or _hands_on(anatomy, last)):
                signals = anatomy.uses.signals(last)
                alone = straight and len(signals) == 1
                waiting += [(each, alone, (*between, last)) for each in reversed(signals)]
    return list(found.values())
