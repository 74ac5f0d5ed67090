"""What several tests need: arrays of any backend, and statistics with derived tolerances."""

import inspect
import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from scipy import special, stats

BACKEND = keras.backend.backend()

# E[x⁴]/σ⁴ of each distribution; the truncated normal's from scipy.
KURTOSIS = {
    "normal": 3.0,
    "uniform": 1.8,
    "truncated_normal": 3.0 + float(stats.truncnorm.stats(-2, 2, moments="k")),
}
DISTRIBUTION = {
    "normal": lambda std: stats.norm(0, std),
    "uniform": lambda std: stats.uniform(-math.sqrt(3) * std, 2 * math.sqrt(3) * std),
    "truncated_normal": lambda std: stats.truncnorm(-2, 2, 0, std / float(stats.truncnorm.std(-2, 2))),
}


def distribution_function(distribution: str, std: float):
    """The law's cdf; scipy's own for the truncated normal takes seconds for ten million numbers."""
    if distribution != "truncated_normal":
        return DISTRIBUTION[distribution](std).cdf
    scale, tail = std / float(stats.truncnorm.std(-2, 2)), special.ndtr(-2)
    return lambda x: np.clip((special.ndtr(x / scale) - tail) / (1 - 2 * tail), 0, 1)


def array(tensor) -> np.ndarray:
    """A tensor as a numpy array; half precision as float32, which holds it exactly."""
    if "float16" in keras.backend.standardize_dtype(tensor.dtype):
        tensor = keras.ops.cast(tensor, "float32")
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def std_tolerance(distribution: str, count: int) -> float:
    """Five relative standard errors of a sample's standard deviation."""
    return 5 * math.sqrt((KURTOSIS[distribution] - 1) / (4 * count))


def assert_drawn_from(sample: np.ndarray, distribution: str, std: float) -> None:
    """The sample has this deviation, zero mean and this distribution."""
    flat = np.asarray(sample, "float64").ravel()
    error = flat.std() / std - 1
    assert abs(error) < std_tolerance(distribution, flat.size), f"deviation off by {error:.2%}"
    assert abs(flat.mean()) < 5 * std / math.sqrt(flat.size), f"mean {flat.mean():g}"
    p = stats.kstest(flat, distribution_function(distribution, std)).pvalue
    assert p > 1e-4, f"Kolmogorov-Smirnov p = {p:g} against {distribution}"


def orthogonality_error(matrix: np.ndarray) -> float:
    """The largest entry of QᵀQ − I, or of QQᵀ − I of a wide matrix."""
    matrix = np.asarray(matrix, "float64")
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    return np.abs(gram - np.eye(len(gram))).max()


def assert_semi_orthogonal(matrix, gain: float = 1.0, tolerance: float = 5e-6) -> None:
    """Its columns are orthonormal, or its rows where there are fewer of them, times the gain."""
    matrix = np.asarray(matrix, "float64")
    short = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(short, gain**2 * np.eye(len(short)), atol=tolerance)


def since(major: int, minor: int, why: str):
    """Skip a test under an older Keras, which cannot do what it is about."""
    version = tuple(map(int, keras.__version__.split(".")[:2]))
    return pytest.mark.skipif(version < (major, minor), reason=f"before Keras {major}.{minor}, {why}")


# Whether an initializer of Keras counts fans by axes that it is told.
TAKES_AXES = "input_axes" in inspect.signature(keras.initializers.VarianceScaling).parameters
needs_axes = since(3, 15, "a scheme that is named by a string is not told the axes of an einsum")
needs_renorm = pytest.mark.skipif(
    "renorm" not in inspect.signature(keras.layers.BatchNormalization).parameters,
    reason="an older Keras has no batch renormalization",
)


def run_python(*arguments: str, **environment: str | None) -> subprocess.CompletedProcess:
    """Run Python in a new process, from a folder without this checkout in it; None unsets a variable."""
    variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.run(
        [sys.executable, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=os.path.dirname(__file__),
        env={name: value for name, value in variables.items() if value is not None},
    )
