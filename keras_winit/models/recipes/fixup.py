"""Fixup: residual networks without normalization."""

import math

from keras_winit.models.anatomy.normalizing import normalization_at
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Draw, Recipe, place, recipe
from keras_winit.schemes.basic import Ones, Zeros
from keras_winit.schemes.variance import HeNormal
from keras_winit.theory.fans import Fans


@recipe(
    "fixup",
    claim="He by outputs · L^(−1/(2m−2)) in branches of m kernels, their last 0; head 0; no normalization",
    source="Zhang, Dauphin, Ma 2019, arXiv:1901.09321",
)
class Fixup(Recipe):
    """He's normal by fan_out; in a branch of m kernels times L^(−1/(2m−2)), the last 0; the head 0.

    L is the number of branches. Scalar multipliers are 1 and scalar biases 0. It needs what the paper adds
    to a model, such scalars before each kernel, to reach what normalization does; it does not add them.

    Source: H. Zhang, Y. Dauphin, T. Ma 2019, "Fixup initialization: residual learning without
    normalization", arXiv:1901.09321.
    """

    def check(self) -> None:
        self.need_branches()
        anatomy = self.around.anatomy
        found = (normalization_at(anatomy, step) for step in anatomy.trace.steps)
        first = next((each for each in found if each is not None), None)
        if first is not None:
            self.refuse(f"is for networks without normalization, and this one has {first.name!r}.")

    def draw(self, slot: Slot) -> Draw | None:
        kernel = self.around.kernel_of(slot) if slot.role == "bias" else slot
        if kernel in self.around.head:
            return Draw(Zeros(), "the head 0")
        if slot.role == "kernel" and slot.fans is not None:
            return self._kernel(slot, _fan_out(slot))
        if slot.role == "gain" and self.around.is_scalar(slot):
            return Draw(Ones(), "scalar multipliers 1")
        return Draw(Zeros(), "biases 0") if slot.role == "bias" or self.around.is_added_scalar(slot) else None

    def _kernel(self, slot: Slot, fan_out: float) -> Draw:
        branch = self.around.ended_by(slot)
        if branch is not None:
            return Draw(Zeros(), f"last kernel of {place(branch)}, 0")
        branch = self.around.branch_of(slot)
        if branch is None:
            return Draw(HeNormal(fans=(fan_out, fan_out)), "outside of branches, He by fan_out")
        kernels = len(branch.kernels)
        if kernels == 1:  # a gate of what is added: the rule has no power for it
            return Draw(HeNormal(fans=(fan_out, fan_out)), f"alone in {place(branch)}, He by fan_out")
        factor = branch.count ** (-1 / (2 * kernels - 2))
        # He's variance is 2/n: what multiplies the deviation divides n.
        scheme = HeNormal(fans=(fan_out / factor**2, fan_out))
        return Draw(
            scheme, f"in {place(branch)} of {kernels} kernels, He by fan_out · L^(−1/{2 * kernels - 2})"
        )


def _fan_out(slot: Slot) -> float:
    """All outputs of one input, of a convolution as if it had no strides: as the paper counts."""
    fans: Fans = slot.fans  # type: ignore[assignment]
    if slot.axes is not None or len(slot.shape) < 3:
        return fans.fan_out
    return math.prod(slot.shape) / slot.shape[-2]
