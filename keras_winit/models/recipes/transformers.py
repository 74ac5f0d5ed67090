"""Published initializations of transformers."""

import math

from keras_winit.drawing.sampling import TRUNCATED_STD, std_after_cut
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Choice, Recipe, bias, meets, place, recipe, side_by_side
from keras_winit.schemes.basic import RandomNormal, TruncatedNormal, Zeros
from keras_winit.schemes.variance import GlorotUniform, LecunNormal

_GPT2_STD = 0.02  # made for a width of 768 and more


@recipe(
    "gpt2",
    claim="N(0, 0.02²); last kernels of branches 0.02/√L; biases 0",
    source="Radford et al. 2019, Language models are unsupervised multitask learners",
)
class GPT2(Recipe):
    """N(0, 0.02²); last kernels of the L branches N(0, 0.02²/L), so that all add as much as one would.

    Source: A. Radford, J. Wu, R. Child, D. Luan, D. Amodei, I. Sutskever 2019, "Language models are
    unsupervised multitask learners".
    """

    needs = ("branches",)

    def draw(self, slot: Slot) -> Choice | None:
        std, branch = _GPT2_STD, self.ended_by(slot)
        if branch is not None:
            std /= math.sqrt(branch.depth)
            reason = f"last kernel of {place(branch)}, {_GPT2_STD}/√{branch.depth}"
        elif slot.role == "kernel":
            reason = f"kernels {std}"
        elif self.is_table(slot):
            reason = f"tokens and positions {std}"
        else:
            return bias(slot)
        return Choice(RandomNormal(stddev=std), reason)


@recipe(
    "bert",
    claim="N(0, 0.02²) cut at two deviations, kernels and embeddings; biases 0",
    source="Devlin et al. 2018, arXiv:1810.04805",
)
class BERT(Recipe):
    """N(0, 0.02²) cut at two deviations, 0.0176 after the cut; biases 0.

    Source: J. Devlin, M.-W. Chang, K. Lee, K. Toutanova 2018, "BERT: pre-training of deep bidirectional
    transformers for language understanding", arXiv:1810.04805.
    """

    needs = ("attentions",)

    def draw(self, slot: Slot) -> Choice | None:
        if slot.role == "kernel" or self.is_table(slot):
            scheme = TruncatedNormal(stddev=0.02 * TRUNCATED_STD)
            return Choice(scheme, "0.02 before the cut at two deviations")
        return bias(slot)


@recipe(
    "vit",
    claim="each projection ±√(6/(in + out)); biases of MLPs 1e-6; patches LeCun; positions 0.02; head 0",
    source="Dosovitskiy et al. 2020, arXiv:2010.11929",
)
class ViT(Recipe):
    """Each projection Glorot uniform with fans of its own; other biases and the token of the class 0.

    LeCun's normal is cut at two deviations.

    Source: A. Dosovitskiy et al. 2020, "An image is worth 16x16 words", arXiv:2010.11929, as its authors' and
    timm's code has it.
    """

    needs = ("attentions",)

    def draw(self, slot: Slot) -> Choice | None:
        kernel = self.kernel_of(slot)
        if kernel in self.head:
            return Choice(Zeros(), "the head 0")
        if slot.role == "kernel":
            return self._kernel(slot)
        if self.is_table(slot):
            return Choice(RandomNormal(stddev=0.02), "positions 0.02")
        if slot.role == "other" and meets(slot, "Concatenate", "Stack"):
            return Choice(Zeros(), "the token of the class 0")
        in_branch = kernel is not None and self.branch_of(kernel) is not None
        if slot.role == "bias" and in_branch and kernel not in self.projections:
            return Choice(RandomNormal(stddev=1e-6), "biases of an MLP 1e-6")
        return bias(slot)

    def _kernel(self, slot: Slot) -> Choice:
        if slot in self.stems:
            return Choice(LecunNormal(truncated=True), "patches, LeCun's normal")
        packed = self.packed(slot)
        if packed is not None and slot.fans is not None:
            fans = slot.fans.fan_in, slot.shape[-1] / max(len(packed), 3)
            return Choice(GlorotUniform(fans=fans), "query, key and value each ±√(6/(in + out))")
        return Choice(GlorotUniform(), "±√(6/(in + out))")


_CUT = 3.0


@recipe(
    "depth_scaled",
    claim="N(0, 1/fan_in) cut at three deviations; last kernels of layer i N(0, 1/(2·fan_in·(i + 1)))",
    source="Groeneveld et al. 2024, OLMo, arXiv:2402.00838",
)
class DepthScaled(Recipe):
    """N(0, 1/fan_in); last kernels of layer i, from 0, N(0, 1/(2·fan_in·(i + 1))); biases 0.

    A layer has two branches. Embeddings are N(0, 1/width).

    Source: D. Groeneveld et al. 2024, "OLMo: accelerating the science of language models", arXiv:2402.00838;
    its code calls this "mitchell".
    """

    needs = ("branches",)

    def draw(self, slot: Slot) -> Choice | None:
        if slot.role == "kernel" and slot.fans is not None:
            branch = self.ended_by(slot)
            if branch is None:
                return Choice(_cut(slot.fans.fan_in), "1/√fan_in, cut at three deviations")
            layer = (branch.place + 1) // 2
            rule = f"last kernel of {place(branch)}, 1/√(2·fan_in·{layer})"
            return Choice(_cut(2 * slot.fans.fan_in * layer), rule)
        if self.is_table(slot):
            return Choice(_cut(slot.shape[-1]), "1/√width, cut at three deviations")
        return bias(slot)


def _cut(count: float) -> TruncatedNormal:
    """N(0, 1/count) before a cut at three deviations."""
    return TruncatedNormal(stddev=std_after_cut(_CUT) / math.sqrt(count), cut=_CUT)


@recipe(
    "small_wang",
    claim="N(0, 2/(5·d)); last kernels N(0, 4/(N²·d)), d the width, N the layers",
    source="Nguyen & Salazar 2019, arXiv:1910.05895; Black et al. 2022, arXiv:2204.06745",
)
class SmallWang(Recipe):
    """N(0, 2/(5·d)); last kernels N(0, 4/(N²·d)), d the stream's width, N layers of two branches; biases 0.

    Source: T. Nguyen, J. Salazar 2019, "Transformers without tears", arXiv:1910.05895; S. Black et al. 2022,
    "GPT-NeoX-20B", arXiv:2204.06745.
    """

    needs = ("branches",)

    def draw(self, slot: Slot) -> Choice | None:
        width, branch = self.width, self.ended_by(slot)
        if branch is not None:
            layers = branch.depth / 2
            scheme = RandomNormal(stddev=2 / (layers * math.sqrt(width)))
            return Choice(scheme, f"last kernel of {place(branch)}, 2/({layers:g}·√{width})")
        if slot.role == "kernel" or self.is_table(slot):
            return Choice(RandomNormal(stddev=math.sqrt(2 / (5 * width))), f"√(2/(5·{width}))")
        return bias(slot)


@recipe(
    "t5",
    claim="variances: query 1/(d·d_kv), all other kernels 1/fan_in; tokens N(0, 1)",
    source="Raffel et al. 2020, arXiv:1910.10683",
)
class T5(Recipe):
    """N(0, 1/fan_in); queries N(0, 1/(d·d_kv)), d the width, d_kv that of a head; tokens N(0, 1); biases 0.

    A small query does at the start what T5 leaves out: dividing scores by √d_kv. In a model that divides
    them, they start that much smaller.

    Source: C. Raffel et al. 2020, "Exploring the limits of transfer learning with a unified text-to-text
    transformer", arXiv:1910.10683, as its code in mesh-tensorflow has it.
    """

    needs = ("attentions",)

    def draw(self, slot: Slot) -> Choice | None:
        if slot.role == "kernel":
            return self._kernel(slot)
        if self.is_table(slot):
            return Choice(RandomNormal(stddev=1.0), "tokens N(0, 1)")
        return bias(slot)

    def _kernel(self, slot: Slot) -> Choice:
        packed = self.ordered(slot, "queries")
        if "query" not in self.projections.get(slot, {}):
            return Choice(LecunNormal(), "variance 1/fan_in")
        width = self.attention_of(slot).width
        if packed:
            scheme = side_by_side(LecunNormal(), packed, "query", 1 / math.sqrt(width))
            return Choice(scheme, f"queries 1/(d·{width}), keys and values 1/d")
        fan_in = slot.fans.fan_in if slot.fans is not None else slot.shape[0]
        return Choice(LecunNormal(fans=(fan_in * width, 1)), f"queries, variance 1/(d·{width})")
