"""Schemes of a given structure: identity maps, few connections, bilinear upsampling."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_winit.drawing.sampling import normal, uniform
from keras_winit.drawing.seeds import fold
from keras_winit.schemes.base import KernelScheme, Scheme
from keras_winit.schemes.orthogonal import at_centre
from keras_winit.schemes.registry import register
from keras_winit.support.checks import Shape, as_float, as_int, check_fits
from keras_winit.support.host import is_traced, layer_being_built
from keras_winit.theory.fans import MatrixView, gates


@register(
    "identity",
    aliases=("eye",),
    formula="gain · I; in a convolution, on the centre tap",
    source="Zagoruyko & Komodakis 2017, arXiv:1706.00388",
)
class Identity(KernelScheme):
    """gain · I, so that the layer starts as the identity, as far as its widths allow.

    A matrix has ones on its diagonal. A larger rank is a convolution kernel (spatial…, in, out)
    with the identity on its centre tap, unless axes are given, which make it a matrix.

    Args:
        gain: a finite number.
        {axes}
        seed: not used; Keras gives it to every scheme that takes axes.

    Example:

    >>> Identity()((2, 3)).shape == (2, 3)
    True
    >>> float(Identity()((3, 3, 4, 4))[1, 1, 2, 2])
    1.0

    Source: S. Zagoruyko, N. Komodakis 2017, "DiracNets: training very deep neural networks without
    skip-connections", arXiv:1706.00388.
    """

    ranks = (2, None)
    random = False
    blockwise = True

    def __init__(
        self, gain: float = 1.0, seed: Any = None, *, input_axes: Any = None, output_axes: Any = None
    ) -> None:
        self.gain = as_float("gain", gain)
        super().__init__(seed, input_axes=input_axes, output_axes=output_axes)

    def draw(self, shape: Shape, dtype: str) -> Any:
        check_fits("gain", self.gain, dtype)
        _check_gates(shape)
        if self.input_axes is not None:
            view = self.view(shape)
            eye = _diagonal(self.gain, view.rows, view.columns, dtype)
            return view.restore(ops.broadcast_to(eye, (view.batch, view.rows, view.columns)))
        return at_centre(_diagonal(self.gain, shape[-2], shape[-1], dtype), shape)


def _diagonal(value: float, rows: int, columns: int, dtype: str, period: int | None = None) -> Any:
    """The value where the column, counted anew after each period, is the row; else zero.

    It is computed, not copied from an array, so that each of several devices computes its part.
    """
    places = ops.arange(columns, dtype="int32")
    places = places if period is None else places % period
    return _where(ops.expand_dims(ops.arange(rows, dtype="int32"), 1) == places, value, dtype)


def _where(mask: Any, value: float, dtype: str) -> Any:
    """The value where the mask is true, else zero; of integers the part before the point."""
    filled, zero = (ops.convert_to_tensor(np.asarray(each).astype(dtype)) for each in (value, 0))
    return ops.where(mask, filled, zero)


def _check_gates(shape: Shape) -> None:
    """Refuse a fused kernel of a recurrent layer, of which only the first gate would be the identity."""
    cell = layer_being_built()
    count = len(gates(cell))
    if count > 1 and shape[-1] == count * getattr(cell, "units", getattr(cell, "filters", 0)):
        raise ValueError(
            f"The kernel of {cell.name!r} holds {count} gates side by side: the identity would reach one "
            f'of them. Received: Identity for shape={shape!r}. Pass `PerGate("identity", gates={count})`.'
        )


@register(
    "dirac",
    formula="centre tap gain · I for each group, all other taps 0",
    source="Zagoruyko & Komodakis 2017, arXiv:1706.00388",
)
class Dirac(Scheme):
    """A convolution kernel that starts as the identity: its centre tap is gain · I for each group.

    Args:
        groups: the `groups` of the layer, a positive integer that divides the output channels; or
            "depthwise" for the kernel (spatial…, channels, multiplier) of a depthwise convolution,
            whose first output of each channel is then the channel.
        gain: a finite number.

    Raises:
        ValueError: where the groups do not divide the output channels.

    Example:

    >>> float(Dirac()((3, 3, 4, 4))[1, 1, 2, 2])
    1.0

    Source: S. Zagoruyko, N. Komodakis 2017, "DiracNets: training very deep neural networks without
    skip-connections", arXiv:1706.00388.
    """

    ranks = (3, 5)
    random = False
    blockwise = True

    def __init__(self, groups: int | str = 1, gain: float = 1.0) -> None:
        self.groups = groups if groups == "depthwise" else as_int("groups", groups, minimum=1)
        self.gain = as_float("gain", gain)

    def draw(self, shape: Shape, dtype: str) -> Any:
        check_fits("gain", self.gain, dtype)
        inputs, outputs = shape[-2:]
        if self.groups == "depthwise":  # each channel's first output
            first = _where(ops.arange(outputs, dtype="int32") == 0, self.gain, dtype)
            tap = ops.broadcast_to(first, (inputs, outputs))
        else:
            groups = int(self.groups)
            if outputs % groups:
                raise ValueError(
                    f"`groups` must divide the output channels. Received: groups={groups} "
                    f"for shape={shape!r} with {outputs} output channels."
                )
            tap = _diagonal(self.gain, inputs, outputs, dtype, period=outputs // groups)
        return at_centre(tap, shape)


@register(
    "sparse",
    formula="per output, `connections` weights from N(0, stddev²), the rest 0",
    source="Martens 2010, ICML",
)
class Sparse(KernelScheme):
    """Each output has `connections` weights from N(0, stddev²); its others are zero.

    The total input of a unit then does not grow with the layer before it.

    Args:
        connections: a positive integer; a unit with fewer inputs uses them all.
        stddev: a positive number.
        {seed}
        {axes}

    Example:

    >>> import numpy as np
    >>> weights = np.asarray(Sparse(connections=3, seed=0)((10, 4)))
    >>> (weights != 0).sum(axis=0).tolist()
    [3, 3, 3, 3]

    Source: J. Martens 2010, "Deep learning via Hessian-free optimization", ICML.
    """

    ranks = (2, None)

    def __init__(
        self,
        connections: int = 15,
        stddev: float = 1.0,
        seed: Any = None,
        *,
        input_axes: Any = None,
        output_axes: Any = None,
    ) -> None:
        self.connections = as_int("connections", connections, minimum=1)
        self.stddev = as_float("stddev", stddev, positive=True)
        super().__init__(seed, input_axes=input_axes, output_axes=output_axes)

    def draw(self, shape: Shape, dtype: str) -> Any:
        view = self.view(shape)
        # Only the inputs matter here: whatever else there is counts units.
        units = MatrixView(
            shape, [axis for axis in range(len(shape)) if axis not in view.inputs], view.inputs
        )
        count = min(self.connections, view.rows)
        ranking = uniform((units.rows, view.rows), 1.0, dtype, fold(self.seed, "places"))
        values = normal((units.rows * count,), self.stddev, dtype, fold(self.seed, "values"))
        if is_traced(ranking) and keras.backend.backend() == "jax":
            return units.restore(_sorted_into_place(ranking, ops.reshape(values, (units.rows, count))))
        _, chosen = ops.top_k(ranking, count)
        unit = ops.convert_to_tensor(np.repeat(np.arange(units.rows, dtype="int32"), count))
        places = ops.stack([unit, ops.reshape(ops.cast(chosen, "int32"), (-1,))], axis=1)
        return units.restore(ops.scatter(places, values, (units.rows, view.rows)))

    def expected_std(self, shape: Any) -> float:
        """stddev · √(connections/fan_in)."""
        rows = self.view(self.check_shape(shape)).rows
        return self.stddev * math.sqrt(min(self.connections, rows) / rows)


def _sorted_into_place(ranking: Any, values: Any) -> Any:
    """Each row's values where its ranking is highest, zeros elsewhere: by sorting, which devices share."""
    import jax  # noqa: PLC0415 - the backend in use

    order = ops.argsort(-ranking, axis=1)
    padded = ops.pad(values, [[0, 0], [0, ranking.shape[1] - values.shape[1]]])
    return jax.lax.sort((order, padded), dimension=1, num_keys=1)[1]


@register(
    "bilinear",
    formula="the kernel that upsamples each channel linearly",
    source="Long, Shelhamer, Darrell 2015, arXiv:1411.4038",
)
class Bilinear(Scheme):
    """The kernel with which a transposed convolution upsamples each channel (bi-, tri-) linearly.

    For a factor f use a kernel of size 2f − f mod 2, strides f and "same" padding.

    Example:

    >>> [float(x) for x in Bilinear()((4, 1, 1))[:, 0, 0]]
    [0.25, 0.75, 0.75, 0.25]

    Source: J. Long, E. Shelhamer, T. Darrell 2015, "Fully convolutional networks for semantic
    segmentation", arXiv:1411.4038.
    """

    ranks = (3, 5)
    random = False

    def draw(self, shape: Shape, dtype: str) -> Any:
        taps = np.ones(())
        for size in shape[:-2]:
            factor = (size + 1) // 2
            middle = factor - 1 if size % 2 else factor - 0.5
            taps = np.multiply.outer(taps, 1 - np.abs(np.arange(size) - middle) / factor)
        return ops.convert_to_tensor(taps[..., None, None], dtype=dtype) * _diagonal(
            1, shape[-2], shape[-1], dtype
        )
