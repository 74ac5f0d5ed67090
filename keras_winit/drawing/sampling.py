"""Random tensors: uniform, normal and truncated normal, in float32 or wider.

Everything here is computed in the dtype it is asked for, float32 or float64; schemes ask for
one of these and cast afterwards. What is asked for in bfloat16 is computed in float32 and rounded.
"""

import math
from typing import Any

from keras import ops

from keras_winit.drawing import generators
from keras_winit.drawing.generators import normal, uniform
from keras_winit.drawing.precision import compute_dtype
from keras_winit.drawing.seeds import Seed
from keras_winit.support.checks import Shape

# The deviation of a standard normal cut at two deviations: √(1 − 4·φ(2)/(2·Φ(2) − 1)).
TRUNCATED_STD = 0.8796256610342398


def std_after_cut(cut: float) -> float:
    """The deviation of a standard normal cut at so many deviations: √(1 − 2·cut·φ(cut)/(2·Φ(cut) − 1))."""
    density = math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi)
    return math.sqrt(1 - 2 * cut * density / math.erf(cut / math.sqrt(2)))


def truncated_normal(shape: Shape, stddev: float, dtype: str, seed: Seed, cut: float = 2.0) -> Any:
    """A normal cut at two of its deviations, or more, whose own deviation, after the cut, is `stddev`."""
    if cut == 2:
        return generators.truncated_normal(shape, stddev / TRUNCATED_STD, dtype, seed)
    whole = stddev / std_after_cut(cut)
    quantile = ops.erfinv(uniform(shape, math.erf(cut / math.sqrt(2)), compute_dtype(dtype), seed))
    return ops.cast(ops.clip(quantile * (math.sqrt(2) * whole), -cut * whole, cut * whole), dtype)


DISTRIBUTIONS = {"uniform": uniform, "normal": normal, "truncated_normal": truncated_normal}


def draw(distribution: str, shape: Shape, stddev: float, dtype: str, seed: Seed) -> Any:
    """A tensor of zero mean and the given standard deviation."""
    if distribution == "uniform":
        return uniform(shape, math.sqrt(3) * stddev, dtype, seed)
    return DISTRIBUTIONS[distribution](shape, stddev, dtype, seed)
