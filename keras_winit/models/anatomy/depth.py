"""How many kernels a signal passes in a row, with nothing between that gives it a scale of its own."""

import keras
from keras import layers

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.kinds import NORMALIZATIONS, NORMALIZING_OPERATIONS
from keras_winit.models.tracing.trace import Step

# Chains of this many kernels are long. ReLU stacks of up to six hidden layers learn faster from Glorot's
# kernels, by SGD and Adam alike; from nine on from He's, which keep the size of what many layers pass on.
DEEP = 10


class Depths:
    """For each kernel, the length of the longest plain chain of kernels that it is in.

    A chain ends where a signal is normalized, goes through a recurrent layer, or is added to one that
    did not pass the same kernels, as a residual is.

    Args:
        anatomy: the model taken apart.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        kernels = [slot for slot in anatomy.slots if slot.role == "kernel"]
        self._kernels = {id(step) for slot in kernels for step in anatomy.steps(slot)}
        steps = anatomy.trace.steps
        self._ends = {id(step) for step in steps if self._ends_a_chain(step)}
        self._before: dict[int, int] = {}  # kernels up to a step, it included
        for step in steps:
            known = [self._before[id(value.step)] for value in step.inputs if id(value.step) in self._before]
            longest = 0 if id(step) in self._ends else max(known, default=0)
            self._before[id(step)] = longest + (id(step) in self._kernels)
        self._behind: dict[int, int] = {}  # kernels behind a step
        for step in reversed(steps):
            found = [0]
            for value in step.outputs:
                for reader in value.readers:
                    if id(reader) in self._behind and id(reader) not in self._ends:
                        found.append(self._behind[id(reader)] + (id(reader) in self._kernels))
            self._behind[id(step)] = max(found)

    def of(self, slot: Slot) -> int:
        """The length of a kernel's chain, in kernels; 0 where it is not seen."""
        steps = self._anatomy.steps(slot)
        return max((self._before[id(step)] + self._behind[id(step)] for step in steps), default=0)

    def is_short(self, slot: Slot) -> bool:
        """Whether it is seen that a kernel is in a short chain. Of a layer alone it is not."""
        return isinstance(self._anatomy.model, keras.Model) and 0 < self.of(slot) < DEEP

    def _ends_a_chain(self, step: Step) -> bool:
        if isinstance(step.operation, (*NORMALIZATIONS, layers.RNN)) or step.kind in NORMALIZING_OPERATIONS:
            return True
        signals = [value for value in step.inputs if self._anatomy.uses.is_signal(value)]
        joined = step.kind == "Add" and len(signals) > 1
        return joined and not all(map(self._anatomy.is_kernel_output, signals))
