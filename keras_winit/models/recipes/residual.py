"""Published initializations of residual networks: what their branches start with."""

import math
from functools import cached_property
from typing import Any

import numpy as np

from keras_winit.models.anatomy.branch import Branch
from keras_winit.models.anatomy.branches import ending_gains
from keras_winit.models.anatomy.normalizing import normalization_at
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Draw, Recipe, bias, place, recipe, side_by_side
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


@recipe(
    "deepnorm",
    claim="value, output and MLP Xavier · β, query and key Xavier; β = (8N)^−¼, for LN(αx + f), α = (2N)^¼",
    source="Wang et al. 2022, arXiv:2203.00555",
)
class DeepNorm(Recipe):
    """Value, output and MLP kernels Xavier normal · β, query and key Xavier normal, biases 0.

    For an encoder or a decoder alone, of N layers of two branches: β = (8N)^(−¼), and α = (2N)^¼ is what the
    stream is multiplied by before a branch is added to it and both are normalized. In a model that does not,
    the last kernels take 1/α, which is the same: LN(αx + f) = LN(x + f/α).

    Source: H. Wang, S. Ma, L. Dong, S. Huang, D. Zhang, F. Wei 2022, "DeepNet: scaling transformers to 1,000
    layers", arXiv:2203.00555.
    """

    def check(self) -> None:
        self.need_branches()
        self.need_attention()
        other = next((each for each in self.around.branches if each.behind is None or each.begins), None)
        if other is not None:
            self.refuse(
                "is for post-norm transformers, where a normalization reads each sum; "
                f"branch {other.number} of {other.count} of this model is {other.kind}."
            )
        if any(branch.stream > 1 for branch in self.around.branches):
            self.refuse("is for an encoder or a decoder alone, and this model has more than one stream.")

    def draw(self, slot: Slot) -> Draw | None:
        branch = self.around.branch_of(slot) if slot.role == "kernel" else None
        if branch is None:
            return bias(slot)
        packed = self.around.packed(slot)
        if packed == []:
            self.refuse(
                f"draws query, key and value apart, and {slot.path!r} has them in an order not known."
            )
        beta = (4 * branch.depth) ** -0.25
        if packed:
            factors = [beta if name == "value" else 1.0 for name in packed]
            fans = (slot.fans.fan_in, slot.shape[-1] / len(packed)) if slot.fans else None
            scheme = side_by_side(_xavier(1.0, fans), factors)
            return Draw(scheme, f"query and key Xavier, value Xavier · β = {beta:.3g}")
        if {"query", "key"} & set(self.around.projections.get(slot, ())):
            return Draw(_xavier(1.0), "query and key Xavier")
        if self.around.ended_by(slot) is None:
            return Draw(_xavier(beta), f"Xavier · β = {beta:.3g}")
        alpha, given = branch.depth**0.25, _multiplied(branch)
        factor = given / alpha
        rule = f"last kernel of {place(branch)}, Xavier · β = {beta:.3g}"
        if abs(factor - 1) < 0.01:
            return Draw(_xavier(beta), rule)
        lacks = "not multiplied" if given == 1 else f"multiplied by {given:.3g}"
        reason = f"{rule}, and · {factor:.3g}: the stream is {lacks}, by α = {alpha:.3g} it would be"
        return Draw(_xavier(beta * factor), reason)


def _xavier(factor: float, fans: Any = None) -> VarianceScaling:
    return VarianceScaling(scale=factor**2, mode="fan_avg", distribution="normal", fans=fans)


_MULTIPLYING = ("Multiply", "Divide", "TrueDivide", "Cast", "Rescaling")


def _multiplied(branch: Branch) -> float:
    """The number that a stream is multiplied by before a branch is added to it."""
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
