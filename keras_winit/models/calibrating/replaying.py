"""How a layer of the user's own is rescaled: its operations are done again, one by one, as they were traced.

Each of its kernels is then measured where it meets the signal, however many there are.
"""

from collections.abc import Callable
from typing import Any

import keras

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.calibrating.rescaling import (
    TRACED,
    Normalized,
    Settle,
    Target,
)
from keras_winit.models.running.moments import moments
from keras_winit.models.tracing.loops import BODIES
from keras_winit.models.tracing.trace import Call, Step, Value
from keras_winit.support.host import is_traced

_NOT_AGAIN = "the operations of its layer could not be done again one by one"


def call_to_replay(anatomy: Anatomy, slots: list[Slot]) -> Call | None:
    """The first call of a layer, if its kernels are all met by operations that can be done again."""
    call = anatomy.trace.first_call(slots[0].layer)
    if call is None or any(step.in_layer or step.kind in BODIES for step in call.steps):
        return None
    straight = all(slot.use is not None and not slot.use.bent for slot in slots)
    met = all(any(step in call.steps for step in anatomy.steps(slot)) for slot in slots)
    return call if straight and met else None


class Replayer:
    """The hook for one such layer: rescales its kernels when it is first called.

    Args:
        call: the call that was traced, with what the pass will call it with.
        anatomy: the model taken apart.
        slots: the kernels.
        target: which deviation each is to give.
        settle: what to tell of each.
        most: the largest factor on each.
        normalized: what divides by the size of a kernel's output at once, or None.
    """

    def __init__(
        self,
        call: Call,
        anatomy: Anatomy,
        *,
        slots: list[Slot],
        target: Target,
        settle: Settle,
        most: Callable[[Slot], float],
        normalized: Callable[[Slot], Normalized | None],
    ) -> None:
        self._call = call
        self._target, self._settle, self._most, self._normalized = target, settle, most, normalized
        self._open = list(slots)
        self._at: dict[int, list[Slot]] = {}
        for slot in slots:
            first = next(step for step in anatomy.steps(slot) if step in call.steps)
            self._at.setdefault(id(first), []).append(slot)

    def __call__(self, call: Any, *arguments: Any, **options: Any) -> Any:
        """What the layer answers, by its rescaled kernels."""
        given = [item for item in keras.tree.flatten((arguments, options)) if keras.ops.is_tensor(item)]
        if self._open and any(map(is_traced, given)):
            self._leave(TRACED)
        elif self._open:
            try:
                self._replay(given)
            except Exception:  # whatever an operation may raise that is given numbers
                self._leave(_NOT_AGAIN)
            self._leave(_NOT_AGAIN)
        return call(*arguments, **options)

    def _leave(self, reason: str) -> None:
        for slot in self._open:
            self._settle(slot, [None], None, reason)
        self._open.clear()

    def _replay(self, given: list[Any]) -> None:
        expected = self._call.inputs
        if [tuple(tensor.shape) for tensor in given] != [value.shape for value in expected]:
            return
        numbers = {id(value): tensor for value, tensor in zip(expected, given, strict=True)}

        def number(item: Any) -> Any:
            if not isinstance(item, Value):
                return item
            return item.variable.value if item.variable is not None else numbers[id(item)]

        for step in self._call.steps:
            arguments = keras.tree.map_structure(number, list(step.arguments))
            options = {key: keras.tree.map_structure(number, item) for key, item in step.options.items()}
            outputs = keras.tree.flatten(_compute(step, arguments, options))
            if id(step) in self._at:
                outputs[0] = self._rescaled(step, outputs[0])
            numbers.update((id(value), out) for value, out in zip(step.outputs, outputs, strict=True))

    def _rescaled(self, step: Step, output: Any) -> Any:
        """What a step puts out by the kernels that give it the target's deviation."""
        slots = self._at[id(step)]
        self._open = [slot for slot in self._open if slot not in slots]
        normalized = self._normalized(slots[0])
        found = moments(output) if normalized is None else normalized.moments(output)
        if normalized is not None and found.varies and found.std**2 <= normalized.most:
            for slot in slots:
                self._settle(slot, [found.std], None, normalized.reason, normalized=True)
            return output
        behind = max(abs(slot.use.behind) if slot.use else 1.0 for slot in slots)
        factor = self._target(slots[0]) / (found.std * behind) if found.varies else 0.0
        wanted, factor = factor, min(factor, *map(self._most, slots))
        if not 0 < factor < float("inf"):
            for slot in slots:
                self._settle(slot, [found.std], None, found.why_not)
            return output
        product = [slot for slot in slots if slot.use is not None and slot.use.product]
        done, then = True, found.std * behind * factor
        for slot in slots:  # of a product of kernels each takes its share
            share = factor ** (1 / len(product)) if slot in product else factor
            done = self._settle(slot, [found.std * behind], [share], "", wanted=wanted, after=then) and done
        return output * keras.ops.cast(factor, output.dtype) if done else output


def _compute(step: Step, arguments: list[Any], options: dict[str, Any]) -> Any:
    """What the operation of a step makes of numbers."""
    operation = step.operation
    if step.kind != "ConvTranspose":
        return operation.call(*arguments, **options)
    # Whose own `call` takes its padding for another argument.
    names = ("strides", "padding", "output_padding", "data_format", "dilation_rate")
    return keras.ops.conv_transpose(*arguments, **{name: getattr(operation, name) for name in names})
