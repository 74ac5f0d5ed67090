"""Published initializations of residual networks: what their branches start with."""

import math
from functools import cached_property
from typing import Any

import numpy as np

from keras_winit.models.anatomy.branch import Branch
from keras_winit.models.anatomy.branches import ending_gains
from keras_winit.models.anatomy.normalizing import normalization_at
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Choice, Recipe, bias, meets, place, recipe, side_by_side
from keras_winit.models.tracing.trace import number_in
from keras_winit.schemes.basic import Ones, Zeros
from keras_winit.schemes.variance import HeNormal, VarianceScaling
from keras_winit.theory.fans import Fans


@recipe(
    "zero_gamma",
    claim="every branch starts at zero: γ of the normalization that ends it, or its last kernel",
    source="Goyal et al. 2017, arXiv:1706.02677",
)
class ZeroGamma(Recipe):
    """γ = 0 in the normalization that ends a branch; where none does, its last kernel and bias are 0.

    The network starts as its stream alone, and trains at larger rates. The shortcut's γ stays.

    Source: P. Goyal, P. Dollár, R. Girshick et al. 2017, "Accurate, large minibatch SGD: training ImageNet in
    1 hour", arXiv:1706.02677.
    """

    needs = ("branches",)

    @cached_property
    def _gains(self) -> dict[Slot, Branch]:
        return {slot: branch for slot, branch in ending_gains(self.anatomy).items() if not slot.kept}

    def draw(self, slot: Slot) -> Choice | None:
        if slot in self._gains:
            return Choice(Zeros(), f"γ of the normalization that ends {place(self._gains[slot])}")
        kernel = self.kernel_of(slot)
        branch = None if kernel is None else self.ended_by(kernel)
        if branch is None or branch in self._gains.values():
            return None
        what = "bias" if slot.role == "bias" else "kernel"
        return Choice(Zeros(), f"last {what} of {place(branch)}")


@recipe(
    "fixup",
    claim="He by outputs · L^(−1/(2m−2)) in branches of m kernels, their last 0; head 0; no normalization",
    source="Zhang, Dauphin, Ma 2019, arXiv:1901.09321",
)
class Fixup(Recipe):
    """He's normal by fan_out, times L^(−1/(2m−2)) in L branches of m kernels; scalar multipliers 1, biases 0.

    To do what normalization does, a model needs the scalars that the paper adds before each kernel, which the
    recipe does not add.

    Source: H. Zhang, Y. Dauphin, T. Ma 2019, "Fixup initialization: residual learning without
    normalization", arXiv:1901.09321.
    """

    needs = ("branches",)

    def check(self) -> None:
        anatomy = self.anatomy
        for step in anatomy.trace.steps:
            found = normalization_at(anatomy, step)
            if found is not None:
                self.refuse(f"is for networks without normalization, and this one has {found.name!r}.")

    def draw(self, slot: Slot) -> Choice | None:
        if self.kernel_of(slot) in self.head:
            return Choice(Zeros(), "the head 0")
        if slot.role == "kernel" and slot.fans is not None:
            return self._kernel(slot, slot.fans)
        scalar = math.prod(slot.shape) == 1
        if slot.role == "gain" and scalar:
            return Choice(Ones(), "scalar multipliers 1")
        return Choice(Zeros(), "biases 0") if slot.role == "bias" or (scalar and meets(slot, "Add")) else None

    def _kernel(self, slot: Slot, fans: Fans) -> Choice:
        branch = self.ended_by(slot)
        if branch is not None:
            return Choice(Zeros(), f"last kernel of {place(branch)}, 0")
        # All outputs of one input, of a convolution as if it had no strides: as the paper counts.
        seen = slot.axes is not None or len(slot.shape) < 3
        n = fan_out = fans.fan_out if seen else math.prod(slot.shape) / slot.shape[-2]
        branch = self.branch_of(slot)
        if branch is None:
            reason = "outside of branches, He by fan_out"
        elif (kernels := len(branch.kernels)) == 1:  # a gate of what is added: the rule has no power for it
            reason = f"alone in {place(branch)}, He by fan_out"
        else:
            power = 2 * kernels - 2
            reason = f"in {place(branch)} of {kernels} kernels, He by fan_out · L^(−1/{power})"
            # He's variance is 2/n: what multiplies the deviation divides n.
            n = fan_out / (branch.count ** (-1 / power)) ** 2
        return Choice(HeNormal(fans=(n, fan_out)), reason)


@recipe(
    "deepnorm",
    claim="value, output and MLP Xavier · β, query and key Xavier; β = (8N)^−¼, for LN(αx + f), α = (2N)^¼",
    source="Wang et al. 2022, arXiv:2203.00555",
)
class DeepNorm(Recipe):
    """Xavier normal, value, output and MLP kernels · β, biases 0; for one stream of N layers of two branches.

    Where the stream x is not multiplied by α, last kernels take 1/α: LN(αx + f) = LN(x + f/α).

    Source: H. Wang, S. Ma, L. Dong, S. Huang, D. Zhang, F. Wei 2022, "DeepNet: scaling transformers to 1,000
    layers", arXiv:2203.00555.
    """

    needs = ("branches", "attentions")

    def check(self) -> None:
        for branch in self.branches:
            if branch.behind is None or branch.begins:
                self.refuse(
                    "is for post-norm transformers, where a normalization reads each sum; "
                    f"branch {branch.number} of {branch.count} of this model is {branch.kind}."
                )
        if any(branch.stream > 1 for branch in self.branches):
            self.refuse("is for an encoder or a decoder alone, and this model has more than one stream.")

    def draw(self, slot: Slot) -> Choice | None:
        branch = self.branch_of(slot) if slot.role == "kernel" else None
        if branch is None:
            return bias(slot)
        packed = self.ordered(slot, "query, key and value")
        beta = (4 * branch.depth) ** -0.25
        if packed:
            fans = (slot.fans.fan_in, slot.shape[-1] / len(packed)) if slot.fans else None
            scheme = side_by_side(_xavier(1.0, fans), packed, "value", beta)
            return Choice(scheme, f"query and key Xavier, value Xavier · β = {beta:.3g}")
        if {"query", "key"} & set(self.projections.get(slot, ())):
            return Choice(_xavier(1.0), "query and key Xavier")
        rule = f"Xavier · β = {beta:.3g}"
        if self.ended_by(slot) is None:
            return Choice(_xavier(beta), rule)
        rule = f"last kernel of {place(branch)}, {rule}"
        alpha, given = branch.depth**0.25, _multiplied(branch)
        factor = given / alpha
        if abs(factor - 1) < 0.01:
            return Choice(_xavier(beta), rule)
        lacks = "not multiplied" if given == 1 else f"multiplied by {given:.3g}"
        reason = f"{rule}, and · {factor:.3g}: the stream is {lacks}, by α = {alpha:.3g} it would be"
        return Choice(_xavier(beta * factor), reason)


def _xavier(factor: float, fans: Any = None) -> VarianceScaling:
    return VarianceScaling(scale=factor**2, mode="fan_avg", distribution="normal", fans=fans)


_MULTIPLYING = ("Multiply", "Divide", "TrueDivide", "Cast", "Rescaling")


def _multiplied(branch: Branch) -> float:
    """What a stream is multiplied by before a branch is added to it."""
    factor, value = 1.0, branch.carried
    while (step := value.step) is not None and step.kind in _MULTIPLYING:
        if step.kind == "Rescaling":
            if np.ndim(step.operation.scale) or np.any(step.operation.offset):
                break
            factor *= float(step.operation.scale)
        elif number := number_in(step):
            factor = factor * number if step.kind == "Multiply" else factor / number
        elif step.kind != "Cast":
            break
        value = step.inputs[0]
    return factor
