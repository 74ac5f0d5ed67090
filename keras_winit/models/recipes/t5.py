"""T5's initialization."""

import math

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Draw, Recipe, bias, recipe, side_by_side
from keras_winit.schemes.basic import RandomNormal
from keras_winit.schemes.variance import LecunNormal


@recipe(
    "t5",
    claim="variances: query 1/(d·d_kv), all other kernels 1/fan_in; tokens N(0, 1)",
    source="Raffel et al. 2020, arXiv:1910.10683",
)
class T5(Recipe):
    """Kernels N(0, 1/fan_in), those of queries N(0, 1/(d·d_kv)), tokens N(0, 1), biases 0.

    d is the width, d_kv the numbers of a query in one head. T5 does not divide its scores by √d_kv: a small
    query does it at the start. In a model that divides them, scores start that much smaller.

    Source: C. Raffel et al. 2020, "Exploring the limits of transfer learning with a unified text-to-text
    transformer", arXiv:1910.10683, as its code in mesh-tensorflow has it.
    """

    def check(self) -> None:
        self.need_attention()

    def draw(self, slot: Slot) -> Draw | None:
        if slot.role == "kernel":
            return self._kernel(slot)
        if self.around.is_table(slot):
            return Draw(RandomNormal(stddev=1.0), "tokens N(0, 1)")
        return bias(slot)

    def _kernel(self, slot: Slot) -> Draw:
        projections, packed = self.around.projections.get(slot, {}), self.around.packed(slot)
        if packed == []:
            self.refuse(f"draws queries apart, and {slot.path!r} has them in an order not known.")
        if "query" not in projections:
            return Draw(LecunNormal(), "variance 1/fan_in")
        width = self.around.attention_of(slot).width
        factor = 1 / math.sqrt(width)
        if packed:
            factors = [factor if name == "query" else 1.0 for name in packed]
            return Draw(side_by_side(LecunNormal(), factors), f"queries 1/(d·{width}), keys and values 1/d")
        fan_in = slot.fans.fan_in if slot.fans is not None else slot.shape[0]
        return Draw(LecunNormal(fans=(fan_in * width, 1)), f"queries, variance 1/(d·{width})")
