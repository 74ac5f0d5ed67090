"""What an addition is, where it ends no branch: of a table, of attention's scores, of unlike shapes."""

from keras import tree

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.contractions import contraction
from keras_winit.models.anatomy.passing import moves
from keras_winit.models.tracing.kinds import (
    ADDING,
    ELEMENTWISE_OPERATIONS,
    ENLARGING,
    ENLARGING_OPERATIONS,
    PROPORTIONAL_OPERATIONS,
)
from keras_winit.models.tracing.trace import Step, Value

_MASKS = 3  # that are added to scores, at most, before a softmax
_ERRORS = {"Square", "Power", "Abs", "Absolute", "Multiply"}  # of a difference, as a loss has it


def adds_a_table(anatomy: Anatomy, step: Step) -> bool:
    """Whether what is added to a signal has a row for each place, as no bias has."""
    given = tree.flatten((step.arguments, step.options))
    tables = [each for each in given if not isinstance(each, Value) or not anatomy.uses.is_signal(each)]
    shapes = [tuple(getattr(each, "shape", ())) for each in tables]
    return any(len(shape) > 1 and shape[-2] > 1 and shape[-1] > 1 for shape in shapes)


def is_spread(value: Value, total: Value) -> bool:
    """Whether a value is repeated along an axis of a sum; sizes that are not known are the same."""
    sizes = zip(value.shape, total.shape, strict=False)
    unlike = any(one != other for one, other in sizes if one is not None and other is not None)
    return len(value.shape) != len(total.shape) or unlike


def weighs(total: Value) -> bool:
    """Whether a sum is that of attention's scores: a softmax makes weights of it, for other signals."""
    waiting, seen = [(total, 0)], dict[int, int]()  # by how few sums each step was reached
    while waiting:
        value, sums = waiting.pop()
        for step in value.readers:
            passed = sums + (step.kind in ADDING)
            if passed >= seen.get(step.index, _MASKS + 1):
                continue
            seen[step.index] = passed
            if step.kind == "Softmax":
                return any(
                    contraction(reader) is not None for each in step.outputs for reader in _readers(each)
                )
            if step.kind in ELEMENTWISE_OPERATIONS | PROPORTIONAL_OPERATIONS:
                waiting += [(each, passed) for each in step.outputs]
    return False


def _readers(value: Value) -> list[Step]:
    """The steps that read a value, through dropout and the like."""
    found = []
    for step in value.readers:
        found += [each for output in step.outputs for each in _readers(output)] if moves(step) else [step]
    return found


def enlarges(step: Step) -> bool:
    """Whether a step puts out more places than it reads."""
    return isinstance(step.operation, ENLARGING) or step.kind in ENLARGING_OPERATIONS


def shown(value: Value) -> str:
    """The shape of a value, in words."""
    return "×".join(map(str, value.shape))


def is_compared(step: Step) -> bool:
    """Whether a difference is an error, as that of a loss."""
    return step.kind == "Subtract" and bool({reader.kind for reader in step.outputs[0].readers} & _ERRORS)
