"""Which kernels `calibrate` leaves alone, and why."""

from keras import layers

from keras_winit.models.anatomy.following import is_gate
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.initializing.initialize import Drawing


def reason_to_leave(slot: Slot, drawing: Drawing) -> str | None:
    """Why a kernel is not to be rescaled; None for one that is."""
    if slot.kept:
        return slot.kept
    if slot in drawing.untouched:
        return "kept: the mapping does not give it a scheme"
    if slot in drawing.asked:
        return f"{drawing.asked[slot]}: its size is what is asked for"
    if any(isinstance(layer, layers.SpectralNormalization) for layer in slot.parents):
        return "SpectralNormalization divides it by its norm at each step"
    if slot.role == "embedding":
        return "an embedding: it has the size that its scheme gives it"
    # At a deviation of one, gate after gate makes one sample ten times as large as the next.
    if is_gate(drawing.anatomy, slot):
        return "a gate: it multiplies the signal, and would scatter it"
    return None
