"""A model taken apart: its trace, its variables, and what it computes with them."""

from collections.abc import Callable
from typing import Any, TypeVar

import keras
from keras import layers

from keras_winit.models.anatomy.slots import Slot, slots_of
from keras_winit.models.anatomy.uses import Uses
from keras_winit.models.tracing.kinds import LINEAR
from keras_winit.models.tracing.trace import Step, Value
from keras_winit.models.tracing.tracer import trace

T = TypeVar("T")


class Anatomy:
    """A built model, or layer, taken apart, for all questions about what lies around a variable.

    Of the data only the shapes count; None takes those that it was built with.

    Raises:
        TypeError, ValueError: for what is no model, and one that is not built.
    """

    def __init__(self, model: Any, data: Any = None) -> None:
        self.model = model
        self.trace = trace(model, data)
        self.uses = Uses(self.trace)
        self.slots = slots_of(model, self.uses)
        self._found: dict[Any, Any] = {}

    def once(self, find: Callable[["Anatomy"], T]) -> T:
        """What `find` says of the model, looked for once."""
        if find not in self._found:
            self._found[find] = find(self)
        found: T = self._found[find]
        return found

    def steps(self, slot: Slot) -> list[Step]:
        """The steps in which a kernel or embedding meets the signal; none where they are not seen."""
        if slot.use is not None:
            roles = ("kernel", "recurrent", "embedding") if slot.role == "embedding" else (slot.role,)
            uses = [use for use in self.uses.of(slot.variable) if use.role in roles]
            straight = [use for use in uses if not use.bent]
            return [use.step for use in straight or uses]
        around = next((layer for layer in reversed(slot.parents) if isinstance(layer, layers.RNN)), None)
        found = self.trace.of(slot.layer) or self.trace.of(around)
        return [step for step in found if not step.opaque]

    def is_kernel_output(self, value: Value) -> bool:
        """Whether a value is what kernels put out, summed, before anything else is done with it."""
        step = value.step
        if step is None or not step.in_layer:
            return self.uses.is_kernel_output(value)
        linear = getattr(step.operation, "activation", None) in (None, keras.activations.linear)
        return type(step.operation).call in LINEAR and linear
