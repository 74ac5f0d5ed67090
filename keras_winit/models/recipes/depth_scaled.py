"""OLMo's initialization, scaled by the depth of each layer."""

import math

from keras_winit.drawing.sampling import std_after_cut
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Draw, Recipe, bias, place, recipe
from keras_winit.schemes.basic import TruncatedNormal

_CUT = 3.0


@recipe(
    "depth_scaled",
    claim="N(0, 1/fan_in) cut at three deviations; last kernels of layer i N(0, 1/(2·fan_in·(i + 1)))",
    source="Groeneveld et al. 2024, OLMo, arXiv:2402.00838",
)
class DepthScaled(Recipe):
    """Kernels N(0, 1/fan_in), the last ones of the i-th layer, from 0, N(0, 1/(2·fan_in·(i + 1))); biases 0.

    All are cut at three deviations. A layer has two branches. Embeddings are N(0, 1/width).

    Source: D. Groeneveld et al. 2024, "OLMo: accelerating the science of language models", arXiv:2402.00838;
    its code calls this "mitchell".
    """

    def check(self) -> None:
        self.need_branches()

    def draw(self, slot: Slot) -> Draw | None:
        if slot.role == "kernel" and slot.fans is not None:
            branch = self.around.ended_by(slot)
            if branch is None:
                return Draw(_cut(slot.fans.fan_in), "1/√fan_in, cut at three deviations")
            layer = (branch.place + 1) // 2
            rule = f"last kernel of {place(branch)}, 1/√(2·fan_in·{layer})"
            return Draw(_cut(2 * slot.fans.fan_in * layer), rule)
        if self.around.is_table(slot):
            return Draw(_cut(slot.shape[-1]), "1/√width, cut at three deviations")
        return bias(slot)


def _cut(count: float) -> TruncatedNormal:
    """N(0, 1/count) cut at three deviations: its own is a little smaller after the cut."""
    return TruncatedNormal(stddev=std_after_cut(_CUT) / math.sqrt(count), cut=_CUT)
