"""Two kernels whose product is a matrix of a given kind: each is drawn as one half of it."""

import math
from typing import Any

import numpy as np
from keras import ops

from keras_winit.drawing.sampling import normal
from keras_winit.drawing.seeds import Seed, fold
from keras_winit.schemes.base import KernelScheme
from keras_winit.schemes.registry import register
from keras_winit.support.checks import Shape, as_float, as_int, one_of


@register(
    "mimetic_factor",
    formula="U·√S or V·√S of α·Z/√d + β·I = U·S·Vᵀ, Z standard normal",
    source="Trockman & Kolter 2023, arXiv:2305.09828",
    listed=False,
)
class MimeticFactor(KernelScheme):
    """One of two kernels whose product is α·Z/√d + β·I, or what of it so many columns can hold.

    Both are drawn from one matrix where their seeds are equal: the left one is U·√S of its singular value
    decomposition U·S·Vᵀ, the right one V·√S.

    Args:
        alpha: a positive number, the share of noise.
        beta: a finite number, the share of the identity.
        side: "left" or "right".
        heads: in how many parts of its columns, each with a matrix of its own, the kernel is drawn.
        seed: None, an integer, or a `keras.random.SeedGenerator`.
        outputs: whether the d rows of the matrix are the kernel's outputs, not its inputs.
        input_axes, output_axes: the axes of the weight that are summed over, and those that are put out.

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
        self.set_axes(input_axes, output_axes)
        self.set_seed(seed)

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
