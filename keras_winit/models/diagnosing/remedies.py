"""What helps against a finding: a call that was not just made, and that the model at hand can take."""

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.depth import Depths
from keras_winit.models.anatomy.slots import ASKED, Slot
from keras_winit.models.initializing.asked import asked_for
from keras_winit.schemes.compose import Scaled
from keras_winit.schemes.looks_linear import LooksLinear

_LINEAR = (
    'Let it start as a linear map, which keeps signals and gradients: `initialize(model, "looks_linear")`.'
)
_CALIBRATE = "Give every layer the same deviation: `calibrate(model, data)`."
_BRANCHES = "Let residual branches start small beside what they are added to: `calibrate(model, data)`."
_NORMALIZE = (
    "Put a normalization behind its kernels, or add what layers read to what they put out: "
    "`keras.layers.BatchNormalization()`, `keras.layers.Add()`; or build it with fewer layers."
)


class Remedies:
    """The remedies for one model.

    Args:
        anatomy: the model taken apart.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        depths = anatomy.once(Depths)
        kernels = [slot for slot in anatomy.slots if slot.role == "kernel"]
        longest = max(map(depths.of, kernels), default=0)
        # A plain chain: every kernel of the model is in it.
        self.plain = 1 < len(kernels) <= longest and anatomy.trace.reason is None
        self.plain = self.plain and not any(slot.role == "recurrent" for slot in anatomy.slots)
        records = [slot.configured for slot in kernels if hasattr(slot.configured, ASKED)]
        inner = [each.initializer if isinstance(each, Scaled) else each for each in records]
        self.calibrated = sum(isinstance(each, Scaled) for each in records) > len(kernels) / 2
        self.linear = any(isinstance(each, LooksLinear) for each in inner)
        # Of what starts as a linear map of each place by itself, pooling may leave little to tell apart.
        self._pools = any("Pool" in step.kind for step in anatomy.trace.steps)

    @property
    def scale(self) -> str:
        """Against signals and gradients that grow or fall, and what differs between inputs and is lost."""
        if self.plain and not self.linear and not self._pools:
            return _LINEAR
        return _NORMALIZE if self.calibrated or self.linear else _CALIBRATE

    @property
    def places(self) -> str:
        """Against attention that makes all places alike."""
        return _NORMALIZE if self.calibrated else _BRANCHES

    @property
    def size(self) -> str:
        """Against what is too large or too small at one place."""
        return _NORMALIZE if self.calibrated else _CALIBRATE


def draw_anew(slot: Slot) -> str:
    """Against values that no kernel should have."""
    asked = asked_for(slot)
    if asked:
        return f"Draw it anew, for {asked}: `initialize(model, overwrite=True)`."
    return "Draw it anew: `initialize(model)`."
