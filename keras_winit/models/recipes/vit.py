"""The vision transformer's initialization."""

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Draw, Recipe, bias, recipe
from keras_winit.schemes.basic import RandomNormal, Zeros
from keras_winit.schemes.variance import GlorotUniform, LecunNormal


@recipe(
    "vit",
    claim="each projection ±√(6/(in + out)); biases of MLPs 1e-6; patches LeCun; positions 0.02; head 0",
    source="Dosovitskiy et al. 2020, arXiv:2010.11929",
)
class ViT(Recipe):
    """Query, key, value, output and MLP each Glorot uniform with fans of its own; the head 0.

    Biases of MLPs are N(0, 1e-6²), all others 0; the kernel that reads the patches is LeCun's normal, cut at
    two deviations; positions N(0, 0.02²); the token of the class 0.

    Source: A. Dosovitskiy et al. 2020, "An image is worth 16x16 words", arXiv:2010.11929, as its authors' and
    timm's code has it.
    """

    def check(self) -> None:
        self.need_attention()

    def draw(self, slot: Slot) -> Draw | None:
        around = self.around
        kernel = around.kernel_of(slot) if slot.role == "bias" else slot
        if kernel in around.head:
            return Draw(Zeros(), "the head 0")
        if slot.role == "kernel":
            return self._kernel(slot)
        if around.is_table(slot):
            return Draw(RandomNormal(stddev=0.02), "positions 0.02")
        if around.is_joined(slot):
            return Draw(Zeros(), "the token of the class 0")
        if slot.role == "bias" and kernel is not None and self._is_in_mlp(kernel):
            return Draw(RandomNormal(stddev=1e-6), "biases of an MLP 1e-6")
        return bias(slot)

    def _is_in_mlp(self, kernel: Slot) -> bool:
        return self.around.branch_of(kernel) is not None and kernel not in self.around.projections

    def _kernel(self, slot: Slot) -> Draw:
        if slot in self.around.stems:
            return Draw(LecunNormal(truncated=True), "patches, LeCun's normal")
        packed = self.around.packed(slot)
        if packed is not None and slot.fans is not None:
            fans = slot.fans.fan_in, slot.shape[-1] / max(len(packed), 3)
            return Draw(GlorotUniform(fans=fans), "query, key and value each ±√(6/(in + out))")
        return Draw(GlorotUniform(), "±√(6/(in + out))")
