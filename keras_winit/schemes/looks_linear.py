"""Kernels that make a network start as a linear one, whatever its activation."""

import math
from typing import Any

from keras import ops

from keras_winit.drawing.orthonormal import is_scrambled, orthonormal
from keras_winit.drawing.seeds import fold
from keras_winit.schemes.base import KernelScheme
from keras_winit.schemes.basic import Constant
from keras_winit.schemes.orthogonal import at_centre
from keras_winit.schemes.registry import register
from keras_winit.support.checks import Shape, as_bool, as_float, as_int, check_fits, one_of
from keras_winit.theory.activations import resolve
from keras_winit.theory.fans import MatrixView
from keras_winit.theory.linearity import is_odd, linear_mean, linear_variance, power

SIDES = ("both", "inputs", "outputs", "none")
PLACES = ("wide", "flat")


@register(
    "looks_linear",
    aliases=("mirrored",),
    formula="[[B, −B], [−B, B]], B orthogonal · √(variance/E[g²]), g(u) = f(u) − f(−u)",
    source="Balduzzi et al. 2017, arXiv:1702.08591, for any activation f",
)
class LooksLinear(KernelScheme):
    """[[B, −B], [−B, B]] with B orthogonal: twins u and −u, read as g(u) = f(u) − f(−u).

    Half of a layer's units are the negatives of the other half, and the next kernel reads their
    difference. The constant and every even part of the activation f then cancel exactly. What is
    left, g, is linear for ReLU, GELU, SiLU and softplus, and so is the network at its start; it is
    tanh(u/2) for sigmoid, and nearly linear at the small variance that is then chosen. B is scaled
    by √(variance/E[g²]), which gives what the layer puts out the variance that is asked for.

    A convolution has this matrix on its centre tap. Of an odd number of units the last has no twin:
    it is drawn as the others, and read with zeros until training uses it. `initialize(model,
    "looks_linear")` gives each layer of a model its arguments.

    Args:
        activation: the one that feeds the layer, f: a name, a callable, or an activation layer.
            None is the identity, for the first layer.
        mirror: which sides have twins: "both", "inputs" (the last layer), "outputs" (the first),
            or "none". None means both; the outputs alone after the identity; and none after any
            other odd function, such as tanh, which has no even part to cancel.
        {seed}
        variance: of what the layer puts out before its own activation, a positive number. None
            means `input_variance`.
        input_variance: of what `activation` was given, a positive number. None chooses up to 1
            what keeps 40 such layers in a row nearly linear: 1 for ReLU and GELU, 0.25 for
            sigmoid, 0.24 for tanh.
        input_mean: m, of what `activation` was given, a number: the bias that the layer before starts with
            (`LooksLinearBias`). Its twins are then m + u and m − u, read as f(m + u) − f(m − u). Give
            `input_variance` with it, which is else chosen for a mean of zero.
        input_blocks: how many blocks, each with its own two halves, the inputs consist of: one for
            each pixel of an image that is flattened, its channels last.
        {exact}
        {axes}

    Raises:
        TypeError, ValueError: for what is no activation, or one without an odd part to read.

    Example:

    >>> import numpy as np
    >>> kernel = np.asarray(LooksLinear("relu", seed=0)((6, 4)))
    >>> bool((kernel[:3] == -kernel[3:]).all() and (kernel[:, :2] == -kernel[:, 2:]).all())
    True

    Source: D. Balduzzi, M. Frean, L. Leary, J. P. Lewis, K. W.-D. Ma, B. McWilliams 2017, "The
    shattered gradients problem: if resnets are the answer, then what is the question?",
    arXiv:1702.08591, for ReLU; on the centre tap as in L. Xiao et al. 2018, arXiv:1806.05393.
    """

    ranks = (2, None)
    blockwise = True

    def __init__(
        self,
        activation: Any = None,
        mirror: str | None = None,
        seed: Any = None,
        *,
        variance: float | None = None,
        input_variance: float | None = None,
        input_mean: float = 0.0,
        input_blocks: int = 1,
        exact: bool = False,
        input_axes: Any = None,
        output_axes: Any = None,
    ) -> None:
        self.activation = activation
        self.mirror = mirror if mirror is None else one_of("mirror", mirror, SIDES)
        self.variance = None if variance is None else as_float("variance", variance, positive=True)
        self.input_variance = (
            None if input_variance is None else as_float("input_variance", input_variance, positive=True)
        )
        self.input_mean = as_float("input_mean", input_mean)
        self.input_blocks = as_int("input_blocks", input_blocks, minimum=1)
        self.exact = as_bool("exact", exact)
        super().__init__(seed, input_axes=input_axes, output_axes=output_axes)
        # Settled here, since nothing can be evaluated where JAX traces.
        sides = mirror or _usual_sides(activation)
        self._reads_twins, self._has_twins = sides in ("both", "inputs"), sides in ("both", "outputs")
        given = self.input_variance or linear_variance(activation)
        read = power(activation, given, twins=self._reads_twins, mean=self.input_mean)
        self._puts_out = self.variance or given
        self._scale = math.sqrt(self._puts_out / read)

    @property
    def output_std(self) -> float:
        """The deviation of what the layer puts out before its own activation."""
        return math.sqrt(self._puts_out)

    def check_shape(self, shape: Any) -> Shape:
        """The shape as a tuple, if its inputs are as many blocks as they should, each with twins."""
        dims = super().check_shape(shape)
        rows, _ = self._sizes(dims)
        if rows % self.input_blocks:
            raise ValueError(
                "`input_blocks` must divide the inputs. "
                f"Received: input_blocks={self.input_blocks} for shape={dims!r} with {rows} inputs."
            )
        if self._reads_twins and rows == self.input_blocks:
            raise ValueError(
                f"LooksLinear reads twins, and one unit alone has none. Received: shape={dims!r} with "
                f'{self.input_blocks} block(s) of one input. Use mirror="outputs" or "none".'
            )
        return dims

    def draw(self, shape: Shape, dtype: str) -> Any:
        view = self._view(shape)
        batch, (rows, columns) = self._batch(shape), self._sizes(shape)
        signals, twins = self._signals(rows), self._twins(columns)
        matrix = self._matrix(signals, twins or columns, dtype, self.seed, batch)
        if twins:
            # Drawn apart: a direction taken from the twins for it would be lost behind it.
            alone = self._matrix(signals, 1, dtype, fold(self.seed, "alone"), batch)[..., : columns % 2]
            matrix = ops.concatenate([matrix, -matrix, alone], axis=-1)
        if self._reads_twins:
            blocks = self.input_blocks
            matrix = ops.reshape(matrix, (batch, blocks, signals // blocks, columns))
            unread = ops.zeros((batch, blocks, rows // blocks % 2, columns), dtype=dtype)
            matrix = ops.concatenate([matrix, -matrix, unread], axis=2)
        return view.restore(matrix) if view else at_centre(matrix, shape)

    def _matrix(self, signals: int, outputs: int, dtype: str, seed: Any, batch: int) -> Any:
        """Orthogonal, and scaled so that every output has the variance that is asked for."""
        scale = self._scale * math.sqrt(max(signals, outputs) / signals)
        check_fits("√(variance/E[g²])", scale, dtype)
        matrices = orthonormal(signals, outputs, dtype, seed, batch, scale=scale, exact=self.exact)
        return ops.reshape(matrices, (batch, signals, outputs))

    def drawn_whole(self, shape: Shape) -> bool:
        """Whether its matrix is drawn from the Haar distribution, column by column."""
        rows, columns = self._sizes(shape)
        outputs = self._twins(columns) or columns
        return not is_scrambled(self._signals(rows), outputs, self._batch(shape), exact=self.exact)

    def expected_std(self, shape: Any) -> float:
        """√(variance/(E[g²]·signals)), less for what is zero: inputs without a twin, and taps."""
        dims = self.check_shape(shape)
        rows, columns = self._sizes(dims)
        signals = self._signals(rows)
        filled = signals * (1 + self._reads_twins) / (math.prod(dims) / columns / self._batch(dims))
        return self._scale * math.sqrt(filled / signals)

    def _view(self, shape: Shape) -> MatrixView | None:
        """The weight as matrices, or None for a convolution, of which only the centre tap is drawn."""
        return self.view(shape) if self.input_axes is not None or len(shape) == 2 else None

    def _sizes(self, shape: Shape) -> tuple[int, int]:
        """How many inputs and outputs the matrix has."""
        view = self._view(shape)
        return (view.rows, view.columns) if view else (shape[-2], shape[-1])

    def _batch(self, shape: Shape) -> int:
        view = self._view(shape)
        return view.batch if view else 1

    def _signals(self, rows: int) -> int:
        """How many signals the inputs hold: each pair of twins is one."""
        return rows // self.input_blocks // 2 * self.input_blocks if self._reads_twins else rows

    def _twins(self, columns: int) -> int:
        return columns // 2 if self._has_twins else 0


@register(
    "looks_linear_bias",
    formula="m where f(m + u) − f(m − u) is most nearly linear, of wide u or where f is flat",
    source="of this library, for any activation f",
)
class LooksLinearBias(Constant):
    """The bias around which twins are most nearly linear: −0.8 for ELU, or, where it is flat, −2 for GELU.

    Twins m + u and m − u, read as f(m + u) − f(m − u), lose what f has of even parts around m. ELU and SELU
    have a bend at zero that no twins cancel; around m, and as wide as a variance of 4, a line explains them
    better. GELU, SiLU, Mish and sigmoid have a flat place, where their slope is at most a quarter and twins
    of a small variance see a line. Kernels that read such units are the larger, and a step of training moves
    the product of all layers the less: a GELU network of 300 layers learns.

    `initialize(model, "looks_linear")` gives it to the layers of long chains, with `LooksLinear` for the
    kernels: `LooksLinear("elu", variance=4, input_variance=4, input_mean=-0.8)` reads such units.

    Args:
        activation: the one that follows the bias, f: a name, a callable, or an activation layer.
        place: "wide", m for u ~ N(0, 4), to a tenth: −0.8 for ELU, −1.3 for SELU, 0 for ReLU; or "flat",
            where the third derivative of f changes its sign and the slope is at most a quarter, to a
            hundredth: −2.01 for GELU, −3.45 for SiLU, −3.28 for Mish, −1.32 for sigmoid.

    Raises:
        TypeError, ValueError: for what is no activation, or one without such a place.

    Example:

    >>> LooksLinearBias("selu").value
    -1.3
    >>> LooksLinearBias("sigmoid", place="flat").value
    -1.32
    """

    def __init__(self, activation: Any = "elu", place: str = "wide") -> None:
        self.activation = activation
        self.place = one_of("place", place, PLACES)
        super().__init__(linear_mean(activation, place))


def _usual_sides(activation: Any) -> str:
    if activation is None or resolve(activation).name == "linear":
        return "outputs"
    return "none" if is_odd(activation) else "both"
