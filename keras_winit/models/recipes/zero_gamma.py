"""Branches that start at zero."""

from functools import cached_property

from keras_winit.models.anatomy.branch import Branch
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Draw, Recipe, recipe
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
    def _with_gain(self) -> set[int]:
        """The numbers of the branches whose last normalization has a γ that can be drawn."""
        found = (self._ended_by_gain(slot) for slot in self.around.anatomy.slots if not slot.kept)
        return {branch.number for branch in found if branch is not None}

    def draw(self, slot: Slot) -> Draw | None:
        ended = self._ended_by_gain(slot)
        if ended is not None:
            return Draw(Zeros(), f"γ of the normalization that ends branch {ended.number} of {ended.count}")
        kernel = self.around.kernel_of(slot) if slot.role == "bias" else slot
        branch = None if kernel is None else self.around.ended_by(kernel)
        if branch is None or branch.number in self._with_gain:
            return None
        what = "bias" if slot.role == "bias" else "kernel"
        return Draw(Zeros(), f"last {what} of branch {branch.number} of {branch.count}")

    def _ended_by_gain(self, slot: Slot) -> Branch | None:
        """The branch at whose end a normalization multiplies by a variable."""
        if slot.role not in ("norm", "gain") or slot.variable.name == "beta":
            return None
        for branch in self.around.branches:
            if branch.ends is None or slot.layer is not branch.ends:
                continue
            if slot.role == "norm" or any(
                use.step in branch.tail for use in self.around.anatomy.uses.of(slot.variable)
            ):
                return branch
        return None
