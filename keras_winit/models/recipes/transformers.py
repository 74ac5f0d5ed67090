"""Published initializations of transformers."""

import math

from keras_winit.drawing.sampling import TRUNCATED_STD, std_after_cut
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Draw, Recipe, bias, place, recipe, side_by_side
from keras_winit.schemes.basic import RandomNormal, TruncatedNormal, Zeros
from keras_winit.schemes.variance import GlorotUniform, LecunNormal

_GPT2_STD = 0.02  # made for a width of 768 and more


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
            std = _GPT2_STD / math.sqrt(branch.depth)
            return Draw(
                RandomNormal(stddev=std), f"last kernel of {place(branch)}, {_GPT2_STD}/√{branch.depth}"
            )
        if slot.role == "kernel":
            return Draw(RandomNormal(stddev=_GPT2_STD), f"kernels {_GPT2_STD}")
        if self.around.is_table(slot):
            return Draw(RandomNormal(stddev=_GPT2_STD), f"tokens and positions {_GPT2_STD}")
        return bias(slot)


_BERT_STD = 0.02


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
            scheme = TruncatedNormal(stddev=_BERT_STD * TRUNCATED_STD)
            return Draw(scheme, f"{_BERT_STD} before the cut at two deviations")
        return bias(slot)


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
