"""Branches that start at zero."""

from functools import cached_property

from keras_winit.models.anatomy.branch import Branch
from keras_winit.models.anatomy.branches import ending_gains
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Draw, Recipe, place, recipe
from keras_winit.schemes.basic import Zeros


@recipe(
    "zero_gamma",
    claim="every branch starts at zero: γ of the normalization that ends it, or its last kernel",
    source="Goyal et al. 2017, arXiv:1706.02677",
)
class ZeroGamma(Recipe):
    """The γ of the normalization that ends a branch is 0; where none ends it, its last kernel and bias.

    The network starts as its stream alone, and trains at larger rates. The shortcut's own normalization
    keeps its γ. All else is drawn as by "auto".

    Source: P. Goyal, P. Dollár, R. Girshick et al. 2017, "Accurate, large minibatch SGD: training ImageNet in
    1 hour", arXiv:1706.02677.
    """

    def check(self) -> None:
        self.need_branches()

    @cached_property
    def _gains(self) -> dict[Slot, Branch]:
        """The γ that end a branch, of those that can be drawn."""
        found = ending_gains(self.around.anatomy)
        return {slot: branch for slot, branch in found.items() if not slot.kept}

    def draw(self, slot: Slot) -> Draw | None:
        if slot in self._gains:
            return Draw(Zeros(), f"γ of the normalization that ends {place(self._gains[slot])}")
        kernel = self.around.kernel_of(slot) if slot.role == "bias" else slot
        branch = None if kernel is None else self.around.ended_by(kernel)
        if branch is None or branch.number in {each.number for each in self._gains.values()}:
            return None
        what = "bias" if slot.role == "bias" else "kernel"
        return Draw(Zeros(), f"last {what} of {place(branch)}")
