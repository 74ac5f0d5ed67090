"""Schemes that know nothing of fans: constants and small random numbers."""

import math
from typing import Any

import numpy as np
from keras import ops

from keras_winit.drawing.sampling import normal, truncated_normal, uniform
from keras_winit.schemes.base import Scheme
from keras_winit.schemes.registry import register
from keras_winit.support.checks import Shape, as_float, check_fits, shown

_LARGEST_CUT = 5  # beyond it float32 has no numbers left between the cut and one


@register("zeros", aliases=("zero",), formula="0", source="–")
class Zeros(Scheme):
    """All zeros: right for biases, and for the last layer of a residual branch.

    A kernel of zeros passes neither a signal nor a gradient; two zero layers in a row never learn.

    Example:

    >>> Zeros()((2,)).shape == (2,)
    True
    """

    random = False
    value = 0

    def draw(self, shape: Shape, dtype: str) -> Any:
        return (ops.ones if self.value else ops.zeros)(shape, dtype=dtype)  # quicker than `full`

    def expected_std(self, shape: Any) -> float:
        """0: there is no spread."""
        return 0.0


@register("ones", aliases=("one",), formula="1", source="–")
class Ones(Zeros):
    """All ones: right for the scale of a normalization.

    Example:

    >>> float(Ones()((2,))[1])
    1.0
    """

    value = 1


@register("constant", formula="value", source="–")
class Constant(Scheme):
    """One value, or an array that broadcasts to the shape.

    Args:
        value: a finite number, or a (nested) list or array of them. Default 0.01, the small
            positive bias that keeps ReLU units alive at the start.

    Raises:
        TypeError, ValueError: where the value is not made of finite numbers, or does not
            broadcast to the shape.

    Example:

    >>> Constant([1.0, 2.0])((3, 2)).shape == (3, 2)
    True
    """

    random = False

    def __init__(self, value: Any = 0.01) -> None:
        try:
            array = np.asarray(value, dtype="float64")
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise TypeError(
                f"`value` must be a number or an array of numbers. Received: value={shown(value)}."
            ) from error
        if not np.isfinite(array).all():
            raise ValueError(f"`value` must be finite. Received: value={shown(value)}.")
        self.value = float(array) if array.ndim == 0 else array.tolist()

    def draw(self, shape: Shape, dtype: str) -> Any:
        check_fits("value", self.value, dtype)
        array = np.asarray(self.value, dtype=dtype)
        try:
            return ops.convert_to_tensor(np.broadcast_to(array, shape), dtype=dtype)
        except ValueError as error:
            raise ValueError(
                f"`value` has shape {array.shape}, which does not broadcast to shape={shape}. "
                f"Received: value={shown(self.value)}."
            ) from error

    def expected_std(self, shape: Any) -> float | None:
        """0 for a number, None for an array."""
        return 0.0 if isinstance(self.value, float) else None


@register("random_uniform", aliases=("uniform",), formula="U(minval, maxval), default ±0.05·√3", source="–")
class RandomUniform(Scheme):
    """U(minval, maxval); the default ±0.05·√3 has deviation 0.05.

    Args:
        minval, maxval: finite numbers, the first below the second.
        {seed}

    Example:

    >>> RandomUniform(-0.1, 0.1, seed=0)((2, 3)).shape == (2, 3)
    True
    """

    def __init__(
        self, minval: float = -0.05 * math.sqrt(3), maxval: float = 0.05 * math.sqrt(3), seed: Any = None
    ) -> None:
        self.minval = as_float("minval", minval)
        self.maxval = as_float("maxval", maxval)
        if self.minval >= self.maxval:
            raise ValueError(
                f"`minval` must be below `maxval`. Received: minval={minval!r}, maxval={maxval!r}."
            )
        self.rounds = self.minval == -self.maxval  # nothing is added to what is drawn
        self.set_seed(seed)

    def draw(self, shape: Shape, dtype: str) -> Any:
        check_fits("minval", self.minval, dtype)
        check_fits("maxval", self.maxval, dtype)
        middle, limit = self.maxval / 2 + self.minval / 2, self.maxval / 2 - self.minval / 2
        sample = uniform(shape, limit, dtype, self.seed)
        return sample + middle if middle else sample

    def expected_std(self, shape: Any) -> float:
        """(maxval − minval)/√12."""
        return (self.maxval - self.minval) / math.sqrt(12)


@register("random_normal", aliases=("normal",), formula="N(mean, stddev²), default stddev 0.05", source="–")
class RandomNormal(Scheme):
    """N(mean, stddev²), untruncated.

    Args:
        mean: a finite number.
        stddev: a positive number.
        {seed}

    Example:

    >>> RandomNormal(stddev=0.02, seed=0)((2, 3)).shape == (2, 3)
    True
    """

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: Any = None) -> None:
        self.mean = as_float("mean", mean)
        self.stddev = as_float("stddev", stddev, positive=True)
        self.rounds = self.mean == 0  # nothing is added to what is drawn
        self.set_seed(seed)

    def draw(self, shape: Shape, dtype: str) -> Any:
        check_fits("mean", self.mean, dtype)
        sample = self._sample(shape, dtype)
        return sample + self.mean if self.mean else sample

    def _sample(self, shape: Shape, dtype: str) -> Any:
        return normal(shape, self.stddev, dtype, self.seed)

    def expected_std(self, shape: Any) -> float:
        """`stddev`, whatever the shape."""
        return self.stddev


@register(
    "truncated_normal",
    formula="N(mean, stddev²) cut at 2 deviations, its deviation restored, default stddev 0.05",
    source="–",
)
class TruncatedNormal(RandomNormal):
    """A normal cut at two deviations whose own deviation, after the cut, is `stddev`.

    Keras' initializer of this name does not restore it: there 0.05 comes out as 0.044.

    Args:
        mean: a finite number.
        stddev: a positive number, the deviation of what is drawn.
        {seed}
        cut: at how many deviations of the normal it is cut, from 1 to 5.

    Example:

    >>> TruncatedNormal(stddev=0.02, seed=0)((2, 3)).shape == (2, 3)
    True
    """

    def __init__(
        self, mean: float = 0.0, stddev: float = 0.05, seed: Any = None, *, cut: float = 2.0
    ) -> None:
        super().__init__(mean, stddev, seed)
        self.cut = as_float("cut", cut, minimum=1)
        if self.cut > _LARGEST_CUT:
            raise ValueError(f"`cut` must be at most {_LARGEST_CUT}. Received: cut={shown(cut)}.")

    def _sample(self, shape: Shape, dtype: str) -> Any:
        return truncated_normal(shape, self.stddev, dtype, self.seed, self.cut)
