"""Random tensors: uniform, normal and truncated normal, in float32 or wider.

Everything here is computed in the dtype it is asked for, float32 or float64; schemes ask for
one of these and cast afterwards.
"""

import math
from typing import Any

import keras

from keras_winit.drawing import generators
from keras_winit.drawing.generators import normal, uniform
from keras_winit.drawing.seeds import Seed
from keras_winit.support.checks import Shape

# The deviation of a standard normal cut at two deviations: √(1 − 4·φ(2)/(2·Φ(2) − 1)).
TRUNCATED_STD = 0.8796256610342398


def compute_dtype(dtype: str) -> str:
    """The dtype to compute in: at least float32 for real numbers.

    bfloat16's own uniform takes only 128 values, and is biased; many an operation lacks it.
    """
    if dtype == "float64" or not keras.backend.is_float_dtype(dtype):
        return dtype
    return "float32"


def truncated_normal(shape: Shape, stddev: float, dtype: str, seed: Seed) -> Any:
    """A normal cut at two of its deviations, whose own deviation, after the cut, is `stddev`."""
    return generators.truncated_normal(shape, stddev / TRUNCATED_STD, dtype, seed)


DISTRIBUTIONS = {"uniform": uniform, "normal": normal, "truncated_normal": truncated_normal}


def draw(distribution: str, shape: Shape, stddev: float, dtype: str, seed: Seed) -> Any:
    """A tensor of zero mean and the given standard deviation."""
    if distribution == "uniform":
        return uniform(shape, math.sqrt(3) * stddev, dtype, seed)
    return DISTRIBUTIONS[distribution](shape, stddev, dtype, seed)
