"""What a variable is to be drawn from, and why."""

from typing import Any, NamedTuple

from keras_winit.models.anatomy.slots import Slot


class Choice(NamedTuple):
    """What a variable is to be drawn from, and why."""

    initializer: Any  # None: the variable is kept
    reason: str
    activation: str | None = None
    forget_bias: bool = True
    own: bool = False  # the layer's own initializer, to be drawn as the layer would
    asked: bool = False  # what the layer asks for on purpose
    named: bool = True  # whether the scheme is about the variable: it, or all, is what is to be drawn
    pair: Slot | None = None  # whose seed it is drawn with, where two are parts of one matrix
