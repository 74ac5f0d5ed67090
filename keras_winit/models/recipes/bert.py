"""BERT's initialization."""

from keras_winit.drawing.sampling import TRUNCATED_STD
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Draw, Recipe, bias, recipe
from keras_winit.schemes.basic import TruncatedNormal

_STD = 0.02


@recipe(
    "bert",
    claim="N(0, 0.02²) cut at two deviations, kernels and embeddings; biases 0",
    source="Devlin et al. 2018, arXiv:1810.04805",
)
class BERT(Recipe):
    """Kernels, tokens, positions and segments N(0, 0.02²), cut at two deviations; biases 0.

    The deviation is 0.02 before the cut and 0.0176 after it.

    Source: J. Devlin, M.-W. Chang, K. Lee, K. Toutanova 2018, "BERT: pre-training of deep bidirectional
    transformers for language understanding", arXiv:1810.04805.
    """

    def check(self) -> None:
        self.need_attention()

    def draw(self, slot: Slot) -> Draw | None:
        if slot.role == "kernel" or self.around.is_table(slot):
            scheme = TruncatedNormal(stddev=_STD * TRUNCATED_STD)
            return Draw(scheme, f"{_STD} before the cut at two deviations")
        return bias(slot)
