"""Where the signal that a kernel reads comes from, and how many numbers each of it is a mean of."""

import math

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.following import passes
from keras_winit.models.anatomy.passing import activation_of
from keras_winit.models.tracing.kinds import AVERAGES, GLOBAL_AVERAGES, NORMALIZATIONS
from keras_winit.models.tracing.trace import Step, Value

_AVERAGING = (*AVERAGES, *GLOBAL_AVERAGES)
_JOINING = ("Concatenate", "Add", "Multiply", "Subtract", "Average", "Maximum")


def sources(anatomy: Anatomy, step: Step) -> list[Value]:
    """The signals that reach a step through what leaves their scale more or less as it is, the last first."""
    waiting = [value for value in step.inputs if anatomy.uses.is_signal(value)]
    found, seen = [], set()
    while waiting:
        value = waiting.pop(0)
        before = value.step
        if id(value) in seen:
            continue
        seen.add(id(value))
        found.append(value)
        if before is None or before.opaque or isinstance(before.operation, NORMALIZATIONS):
            continue
        if before.kind in _JOINING or activation_of(before) is not None or passes(anatomy, before):
            waiting += [each for each in before.inputs if anatomy.uses.is_signal(each)]
    return found


def averaged(anatomy: Anatomy, step: Step) -> float:
    """How many numbers each of those that a step reads is a mean of."""
    found = 1.0
    steps = {id(value.step): value.step for value in sources(anatomy, step) if value.step is not None}
    for before in steps.values():
        if isinstance(before.operation, _AVERAGING) or before.kind in ("Mean", "AveragePool"):
            sizes = [math.prod(value.shape) for value in (before.inputs[0], before.outputs[0])]
            found *= max(1.0, sizes[0] / sizes[1])
    return found
