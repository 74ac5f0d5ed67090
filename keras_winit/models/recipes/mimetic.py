"""Mimetic initialization of attention."""

from keras_winit.models.anatomy.attention import Attention
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Draw, Recipe, recipe
from keras_winit.schemes.factored import MimeticFactor

_QUERY_KEY, _VALUE_OUTPUT = (0.7, 0.7), (0.4, -0.4)  # shares of noise and identity


@recipe(
    "mimetic",
    claim="query·keyᵀ of each head 0.7·Z/√d + 0.7·I, value·output 0.4·Z/√d − 0.4·I, by their SVD",
    source="Trockman & Kolter 2023, arXiv:2305.09828",
)
class Mimetic(Recipe):
    """Attention as trained models have it: a token looks at itself, and its own value is taken from it.

    Query·keyᵀ of each head is the best that d_head columns can hold of 0.7·Z/√d + 0.7·I, and value·output is
    0.4·Z/√d − 0.4·I, Z standard normal, d the width: the halves are U·√S and V·√S of the singular value
    decomposition. All else is drawn as by "auto".

    Source: A. Trockman, J. Z. Kolter 2023, "Mimetic initialization of self-attention layers",
    arXiv:2305.09828.
    """

    def check(self) -> None:
        self.need_attention()
        for each in self.around.attentions:
            self._check(each)

    def draw(self, slot: Slot) -> Draw | None:
        projections = self.around.projections.get(slot, {})
        if not projections:
            return None
        attention = self.around.attention_of(slot)
        query, value = attention.query, attention.value
        if query is None or value is None:
            return None
        if "query" in projections or "key" in projections:
            side = "left" if "query" in projections else "right"
            heads = _columns(query.slot) // attention.width
            scheme = MimeticFactor(*_QUERY_KEY, side, heads)
            return Draw(scheme, "query·keyᵀ of a head 0.7·Z/√d + 0.7·I", query.slot)
        outputs = "output" in projections
        scheme = MimeticFactor(*_VALUE_OUTPUT, "right" if outputs else "left", outputs=outputs)
        return Draw(scheme, "value·output 0.4·Z/√d − 0.4·I", value.slot)

    def _check(self, attention: Attention) -> None:
        found, output = (attention.query, attention.key, attention.value), attention.output
        if None in found or output is None:
            self.refuse(
                "needs to see the kernels of query, key, value and output, and does not in this model."
            )
            return
        query, key, value = (each.slot for each in found if each is not None)
        if len({query, key, value}) < len(found):
            self.refuse(
                f"needs query, key and value in kernels of their own, and {query.path!r} has several."
            )
        if _rows(value) != _columns(output) or _columns(value) != _rows(output):
            self.refuse(
                f"is for attention whose output has the size of what it reads, and {value.path!r} and "
                f"{output.path!r} do not lead there and back."
            )
        if _columns(query) != _columns(key) or _rows(query) != _rows(key):
            self.refuse(
                f"is for self-attention with as many keys as queries, and {query.path!r} and {key.path!r} "
                "are not of one size."
            )


def _rows(slot: Slot) -> int:
    return 0 if slot.fans is None else int(slot.fans.fan_in)


def _columns(slot: Slot) -> int:
    return 0 if slot.fans is None else int(slot.fans.fan_out)
