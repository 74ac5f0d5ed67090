"""DeepNorm: post-norm transformers of any depth."""

from typing import Any

import numpy as np

from keras_winit.models.anatomy.branch import Branch
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Draw, Recipe, bias, place, recipe, side_by_side
from keras_winit.models.tracing.trace import number_in
from keras_winit.schemes.variance import VarianceScaling


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
