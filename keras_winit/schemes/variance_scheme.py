"""The base of the schemes whose variance follows from the fans."""

import math
from typing import Any

from keras_winit.drawing.sampling import draw
from keras_winit.schemes.base import KernelScheme
from keras_winit.support.checks import Shape, as_bool, shown
from keras_winit.theory.fans import Fans


class VarianceScheme(KernelScheme):
    """The base of the schemes whose variance follows from the fans.

    `scale`, `mode` and `distribution` are attributes of every instance; `variance` is where a
    scheme may depart from scale/n.
    """

    rounds = True
    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "uniform"
    fans: tuple[float, float] | None

    def __init__(
        self, seed: Any = None, *, input_axes: Any = None, output_axes: Any = None, fans: Any = None
    ) -> None:
        super().__init__(seed, input_axes=input_axes, output_axes=output_axes)
        self.fans = None if fans is None else _pair(fans)

    def variance(self, fans: Fans) -> float:
        """The variance for these fans: scale/n."""
        return self.scale / fans.average(self.mode)

    def expected_std(self, shape: Any) -> float:
        """The root of the variance."""
        dims = self.check_shape(shape)
        fans = Fans(*self.fans) if self.fans else self.shape_fans(dims)
        try:
            variance = self.variance(fans)
        except (OverflowError, ZeroDivisionError):
            variance = math.inf
        if not 0 < variance < math.inf:
            raise ValueError(
                f"The variance of {type(self).__name__} is beyond the range of numbers. "
                f"Received: {self!r} for shape={shown(dims)}."
            )
        return math.sqrt(variance)

    def draw(self, shape: Shape, dtype: str) -> Any:
        return draw(self.distribution, shape, self.expected_std(shape), dtype, self.seed)


class NormalVariance(VarianceScheme):
    """A normal scheme without arguments of its own but `truncated`."""

    def __init__(
        self,
        seed: Any = None,
        *,
        truncated: bool = False,
        input_axes: Any = None,
        output_axes: Any = None,
        fans: Any = None,
    ) -> None:
        super().__init__(seed, input_axes=input_axes, output_axes=output_axes, fans=fans)
        self.truncated = as_bool("truncated", truncated)
        self.distribution = "truncated_normal" if self.truncated else "normal"


def _pair(fans: Any) -> tuple[float, float]:
    """Fans that are given in place of the shape's."""
    try:
        fan_in, fan_out = fans
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`fans` must be a pair (fan_in, fan_out) of positive numbers. Received: fans={shown(fans)}."
        ) from error
    try:
        pair = Fans(fan_in, fan_out)
    except (TypeError, ValueError) as error:
        raise type(error)(f"`fans` holds a bad number. {error} Received: fans={shown(fans)}.") from error
    return pair.fan_in, pair.fan_out
