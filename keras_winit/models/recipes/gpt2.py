"""GPT-2's initialization."""

import math

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Draw, Recipe, bias, place, recipe
from keras_winit.schemes.basic import RandomNormal

_STD = 0.02  # made for a width of 768 and more


@recipe(
    "gpt2",
    claim="N(0, 0.02²); last kernels of branches 0.02/√L; biases 0",
    source="Radford et al. 2019, Language models are unsupervised multitask learners",
)
class GPT2(Recipe):
    """Kernels, tokens and positions N(0, 0.02²), last kernels of the L branches N(0, 0.02²/L), biases 0.

    What is added to the stream is then as large in all as one branch would be. 0.02 was made for widths from
    768 on.

    Source: A. Radford, J. Wu, R. Child, D. Luan, D. Amodei, I. Sutskever 2019, "Language models are
    unsupervised multitask learners".
    """

    def check(self) -> None:
        self.need_branches()

    def draw(self, slot: Slot) -> Draw | None:
        branch = self.around.ended_by(slot)
        if branch is not None:
            std = _STD / math.sqrt(branch.depth)
            return Draw(RandomNormal(stddev=std), f"last kernel of {place(branch)}, {_STD}/√{branch.depth}")
        if slot.role == "kernel":
            return Draw(RandomNormal(stddev=_STD), f"kernels {_STD}")
        if self.around.is_table(slot):
            return Draw(RandomNormal(stddev=_STD), f"tokens and positions {_STD}")
        return bias(slot)
