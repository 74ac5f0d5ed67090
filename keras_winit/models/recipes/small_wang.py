"""GPT-NeoX's initialization: small kernels, and smaller ones at the ends of branches."""

import math

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Draw, Recipe, bias, place, recipe
from keras_winit.schemes.basic import RandomNormal


@recipe(
    "small_wang",
    claim="N(0, 2/(5·d)); last kernels N(0, 4/(N²·d)), d the width, N the layers",
    source="Nguyen & Salazar 2019, arXiv:1910.05895; Black et al. 2022, arXiv:2204.06745",
)
class SmallWang(Recipe):
    """Kernels and embeddings N(0, 2/(5d)), last kernels N(0, 4/(N²·d)), biases 0.

    d is the width of the stream, N the number of layers, each of two branches.

    Source: T. Nguyen, J. Salazar 2019, "Transformers without tears", arXiv:1910.05895; S. Black et al. 2022,
    "GPT-NeoX-20B", arXiv:2204.06745.
    """

    def check(self) -> None:
        self.need_branches()

    def draw(self, slot: Slot) -> Draw | None:
        width, branch = self.around.width, self.around.ended_by(slot)
        if branch is not None:
            layers = branch.depth / 2
            scheme = RandomNormal(stddev=2 / (layers * math.sqrt(width)))
            return Draw(scheme, f"last kernel of {place(branch)}, 2/({layers:g}·√{width})")
        if slot.role == "kernel" or self.around.is_table(slot):
            return Draw(RandomNormal(stddev=math.sqrt(2 / (5 * width))), f"√(2/(5·{width}))")
        return bias(slot)
