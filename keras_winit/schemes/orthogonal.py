"""Orthogonal schemes: maps that keep the length of every vector."""

import math
from typing import Any

from keras import ops

from keras_winit.drawing.orthonormal import is_scrambled, orthonormal
from keras_winit.drawing.sharding import side_by_side
from keras_winit.schemes.base import KernelScheme, Scheme
from keras_winit.schemes.registry import register
from keras_winit.support.checks import Shape, as_bool, as_float, check_fits
from keras_winit.theory.fans import MatrixView

# Blocks do not split into as many parts as there are devices, nor does an axis of them, where their
# number is no power of two: such blocks are joined, if they are few.
_JOINED = 24


def centre(shape: Shape) -> tuple[int, ...]:
    """The tap of a kernel (spatial…, in, out) that sits on the output under "same" padding."""
    return tuple((size - 1) // 2 for size in shape[:-2])


def at_centre(matrix: Any, shape: Shape) -> Any:
    """A kernel that is zero but for its centre tap, which is the matrix."""
    before = 0  # taps, all in a row: TensorFlow pads eight axes at most
    for place, size in zip(centre(shape), shape[:-2], strict=True):
        before = before * size + place
    after = math.prod(shape[:-2]) - 1 - before
    taps = ops.pad(ops.reshape(matrix, (1, *shape[-2:])), [[before, after], [0, 0], [0, 0]])
    return ops.reshape(taps, shape)


@register(
    "orthogonal",
    formula="gain · Q, QᵀQ = I (or QQᵀ = I), Q uniform (Haar; large ones nearly)",
    source="Saxe, McClelland, Ganguli 2013, arXiv:1312.6120; Stewart 1980",
)
class Orthogonal(KernelScheme):
    """gain · Q with Q uniform among matrices of orthonormal columns (or rows, where it is wide).

    The weight is read as a matrix of its inputs by its outputs; axes that are neither hold
    independent matrices. A vector keeps its length, times the gain, in a square layer.

    An exact uniform (Haar) draw costs n³. From n = 256 rows, k = 64 columns and n·k² = 2²⁴ on, over all
    matrices of a batch together, Q is a product of random orthogonal matrices that costs less than a normal
    where it is large: a circulant of random phases, a random permutation with random signs, and Kronecker
    products of small Haar matrices. (Where n is no multiple of blocks, as a prime, it is each matrix that
    counts, and from 2²⁶ on but for JAX.) It is as orthogonal, and in its entries, sums, traces, eigenangles
    and singular values not to be told from a uniform one; but it has fewer random numbers in it, and
    `exact=True` is for where that matters.

    Args:
        gain: a positive number; `gain(activation)` undoes an activation.
        {seed}
        {exact}
        {axes}

    Example:

    >>> import numpy as np
    >>> q = np.asarray(Orthogonal(seed=0)((5, 3)))
    >>> bool(np.allclose(q.T @ q, np.eye(3), atol=1e-6))
    True

    Source: A. Saxe, J. McClelland, S. Ganguli 2013, "Exact solutions to the nonlinear dynamics of
    learning in deep linear neural networks", arXiv:1312.6120; drawn as in G. W. Stewart 1980,
    "The efficient generation of random orthogonal matrices", and F. Mezzadri 2007,
    arXiv:math-ph/0609050; in products as in K. Choromanski, M. Rowland, A. Weller 2017, "The
    unreasonable effectiveness of structured random orthogonal embeddings", arXiv:1703.00864, and
    F. Yu et al. 2016, "Orthogonal random features", arXiv:1610.09072.
    """

    ranks = (2, None)
    blockwise = True

    def __init__(
        self,
        gain: float = 1.0,
        seed: Any = None,
        *,
        exact: bool = False,
        input_axes: Any = None,
        output_axes: Any = None,
    ) -> None:
        self.gain = as_float("gain", gain, positive=True)
        self.exact = as_bool("exact", exact)
        super().__init__(seed, input_axes=input_axes, output_axes=output_axes)

    def draw(self, shape: Shape, dtype: str) -> Any:
        view = self.view(shape)
        check_fits("gain", self.gain, dtype)
        return view.restore(self._matrices(view, dtype, view.batch))

    def draw_blocks(self, shape: Shape, dtype: str, blocks: int) -> Any:
        """Independent weights of this shape side by side on the last axis, drawn as one batch."""
        view = self.view(shape)
        check_fits("gain", self.gain, dtype)
        matrices = self._matrices(view, dtype, blocks * view.batch)
        matrices = ops.reshape(matrices, (blocks, view.batch, view.rows, view.columns))
        if blocks & (blocks - 1) and blocks <= _JOINED:
            return side_by_side([view.restore(matrices[i]) for i in range(blocks)])
        # The blocks are one more axis of outputs, which then goes before the last.
        wide = MatrixView((*shape, blocks), view.inputs, [*view.outputs, len(shape)])
        tensor = wide.restore(ops.transpose(matrices, (1, 2, 3, 0)))
        return ops.reshape(ops.swapaxes(tensor, -1, -2), (*shape[:-1], blocks * shape[-1]))

    def _matrices(self, view: MatrixView, dtype: str, count: int) -> Any:
        return orthonormal(
            view.rows, view.columns, dtype, self.seed, count, scale=self.gain, exact=self.exact
        )

    def drawn_whole(self, shape: Shape, blocks: int = 1) -> bool:
        """Whether its matrices are drawn from the Haar distribution, column by column."""
        view = self.view(shape)
        return not is_scrambled(view.rows, view.columns, blocks * view.batch, exact=self.exact)

    def expected_std(self, shape: Any) -> float:
        """gain/√max(rows, columns)."""
        view = self.view(self.check_shape(shape))
        return self.gain / math.sqrt(max(view.rows, view.columns))


@register(
    "delta_orthogonal",
    formula="centre tap gain · Q, QQᵀ = I, all other taps 0",
    source="Xiao et al. 2018, arXiv:1806.05393",
)
class DeltaOrthogonal(Scheme):
    """A convolution kernel that is zero but for its centre tap, which is gain · Q, Q orthogonal.

    The convolution then keeps the length of every pixel's vector, at any depth.

    Args:
        gain: a positive number.
        {seed}
        {exact}

    Raises:
        ValueError: for fewer output than input channels: their map cannot keep lengths.

    Example:

    >>> import numpy as np
    >>> kernel = np.asarray(DeltaOrthogonal(seed=0)((3, 3, 4, 6)))
    >>> bool(np.allclose(kernel[1, 1] @ kernel[1, 1].T, np.eye(4), atol=1e-6))
    True

    Source: L. Xiao, Y. Bahri, J. Sohl-Dickstein, S. Schoenholz, J. Pennington 2018, "Dynamical
    isometry and a mean field theory of CNNs", arXiv:1806.05393.
    """

    ranks = (3, 5)
    blockwise = True

    def __init__(self, gain: float = 1.0, seed: Any = None, *, exact: bool = False) -> None:
        self.gain = as_float("gain", gain, positive=True)
        self.exact = as_bool("exact", exact)
        self.set_seed(seed)

    def check_shape(self, shape: Any) -> Shape:
        """The shape as a tuple, if it has at least as many output as input channels."""
        dims = super().check_shape(shape)
        if dims[-1] < dims[-2]:
            raise ValueError(
                "DeltaOrthogonal needs at least as many output channels as input channels. "
                f"Received: shape={dims!r} with {dims[-2]} in and {dims[-1]} out. "
                "Use `orthogonal` where a layer narrows."
            )
        return dims

    def draw(self, shape: Shape, dtype: str) -> Any:
        check_fits("gain", self.gain, dtype)
        matrix = orthonormal(shape[-2], shape[-1], dtype, self.seed, scale=self.gain, exact=self.exact)
        return at_centre(matrix, shape)

    def drawn_whole(self, shape: Shape) -> bool:
        """Whether its matrix is drawn from the Haar distribution, column by column."""
        return not is_scrambled(shape[-2], shape[-1], exact=self.exact)

    def expected_std(self, shape: Any) -> float:
        """gain/√(taps · outputs): all the variance is in one tap."""
        dims = self.check_shape(shape)
        return self.gain / math.sqrt(math.prod(dims[:-2]) * dims[-1])
