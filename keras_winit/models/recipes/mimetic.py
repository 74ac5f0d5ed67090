"""Mimetic initialization of attention: the recipe, and the scheme of the two halves of a product."""

import math
from typing import Any

import numpy as np
from keras import ops

from keras_winit.drawing.sampling import normal
from keras_winit.drawing.seeds import Seed, fold
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Choice, Recipe, parts_of, recipe
from keras_winit.schemes.base import KernelScheme
from keras_winit.schemes.registry import register
from keras_winit.support.checks import Shape, as_float, as_int, one_of

_QUERY_KEY, _VALUE_OUTPUT = (0.7, 0.7), (0.4, -0.4)  # shares of noise and identity


@register(
    "mimetic_factor",
    formula="U·√S or V·√S of α·Z/√d + β·I = U·S·Vᵀ, Z standard normal",
    source="Trockman & Kolter 2023, arXiv:2305.09828",
    listed=False,
)
class MimeticFactor(KernelScheme):
    """One of two kernels whose product is α·Z/√d + β·I, or what of it so many columns can hold.

    Where their seeds are equal, both are drawn from one matrix: the left one is U·√S of its singular value
    decomposition U·S·Vᵀ, the right one V·√S.

    Args:
        alpha: a positive number, the share of noise.
        beta: a finite number, the share of the identity.
        heads: how many parts of its columns have a matrix of their own.
        outputs: whether the matrix's d rows are the kernel's outputs, not its inputs.

    Source: A. Trockman, J. Z. Kolter 2023, "Mimetic initialization of self-attention layers",
    arXiv:2305.09828.
    """

    ranks = (2, None)
    whole = True

    def __init__(
        self,
        alpha: float = 0.7,
        beta: float = 0.7,
        side: str = "left",
        heads: int = 1,
        seed: Any = None,
        *,
        outputs: bool = False,
        input_axes: Any = None,
        output_axes: Any = None,
    ) -> None:
        self.alpha, self.beta = as_float("alpha", alpha, positive=True), as_float("beta", beta)
        self.side = one_of("side", side, ("left", "right"))
        self.heads = as_int("heads", heads, minimum=1)
        self.outputs = bool(outputs)
        super().__init__(seed, input_axes=input_axes, output_axes=output_axes)

    def draw(self, shape: Shape, dtype: str) -> Any:
        view = self.view(shape)
        size, count = (view.columns, view.rows) if self.outputs else (view.rows, view.columns)
        each = min(count // self.heads, size)
        parts = [self._part(size, each, dtype, fold(self.seed, "head", head)) for head in range(self.heads)]
        matrix = ops.concatenate(parts, axis=1)
        if matrix.shape[1] < count:  # more columns than the matrix has: what is left passes nothing
            matrix = ops.pad(matrix, ((0, 0), (0, count - matrix.shape[1])))
        return view.restore((ops.transpose(matrix) if self.outputs else matrix)[None])

    def _part(self, size: int, columns: int, dtype: str, seed: Seed) -> Any:
        noise = normal((size, size), self.alpha / math.sqrt(size), dtype, seed)
        matrix = noise + ops.convert_to_tensor(self.beta * np.eye(size), dtype=dtype)
        left, values, right = ops.svd(matrix, full_matrices=False)
        vectors = left if self.side == "left" else ops.transpose(right)
        return vectors[:, :columns] * ops.sqrt(values[:columns])


@recipe(
    "mimetic",
    claim="query·keyᵀ of each head 0.7·Z/√d + 0.7·I, value·output 0.4·Z/√d − 0.4·I, by their SVD",
    source="Trockman & Kolter 2023, arXiv:2305.09828",
)
class Mimetic(Recipe):
    """Attention as trained models have it: a token looks at itself, and its own value is taken from it.

    Query·keyᵀ of each head is the best that d_head columns can hold of 0.7·Z/√d + 0.7·I, Z standard normal,
    d the width. All else is drawn as by "auto".

    Source: A. Trockman, J. Z. Kolter 2023, "Mimetic initialization of self-attention layers",
    arXiv:2305.09828.
    """

    needs = ("attentions",)

    def check(self) -> None:
        for attention in self.attentions:
            parts = [part.slot for part in parts_of(attention).values()]
            if len(parts) < 4:
                self.refuse(
                    "needs to see the kernels of query, key, value and output, and does not in this model."
                )
            query, key, value, output = parts
            if len({query, key, value}) < 3:
                self.refuse(
                    f"needs query, key and value in kernels of their own, and {query.path!r} has several."
                )
            if _size(value) != _size(output)[::-1]:
                self.refuse(
                    "is for attention whose output has the size of what it reads, and "
                    f"{value.path!r} and {output.path!r} do not lead there and back."
                )
            if _size(query) != _size(key):
                self.refuse(
                    "is for self-attention with as many keys as queries, and "
                    f"{query.path!r} and {key.path!r} are not of one size."
                )

    def draw(self, slot: Slot) -> Choice | None:
        projections = self.projections.get(slot, {})
        if not projections:
            return None
        attention = self.attention_of(slot)
        parts = parts_of(attention)
        if "query" in projections or "key" in projections:
            query = parts["query"].slot
            side = "left" if "query" in projections else "right"
            scheme = MimeticFactor(*_QUERY_KEY, side, _size(query)[1] // attention.width)
            return Choice(scheme, "query·keyᵀ of a head 0.7·Z/√d + 0.7·I", pair=query)
        outputs = "output" in projections
        scheme = MimeticFactor(*_VALUE_OUTPUT, "right" if outputs else "left", outputs=outputs)
        return Choice(scheme, "value·output 0.4·Z/√d − 0.4·I", pair=parts["value"].slot)


def _size(slot: Slot) -> tuple[int, int]:
    """Rows and columns of a kernel."""
    return (0, 0) if slot.fans is None else (int(slot.fans.fan_in), int(slot.fans.fan_out))
