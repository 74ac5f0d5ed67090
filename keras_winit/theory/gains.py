"""Gains: the factor on a weight's deviation that undoes the activation, for one direction or both.

Expectations are sums over a fine grid, whose points fall on the kinks and jumps of the usual activations.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_winit.support.checks import one_of, shown
from keras_winit.theory.activations import Activation, remembered, resolve

# z from −12 to 12, where e^(2z) times the density is all there, in steps that float32 holds exactly.
_REACH = 12
_STEPS_PER_UNIT = 2048
_GATE_POINTS = 120  # per axis, for a gated linear unit and what else joins two features
# A slope so many times larger than both its neighbours is a jump; its panel is cut into pieces.
_JUMP = 10
_PIECES = 32

# They join all features: their scale depends on the width. Before them a deviation of 1 is wanted.
_JOINT = ("softmax", "log_softmax", "sparsemax")


class Moments(NamedTuple):
    """Moments of f(z) and f′(z) for a standard normal z."""

    mean: float
    second: float
    derivative_second: float


def gain(activation: Any, direction: str = "forward") -> float:
    """The gain of an activation: 1/√E[f(z)²] forward, 1/√E[f′(z)²] backward, z ~ N(0, 1).

    Args:
        activation: the name of a Keras activation, any callable on tensors, an activation layer
            (`LeakyReLU`, `PReLU`, …), or None for the identity. One that halves its features, such
            as `glu`, is taken over both. `softmax`, `log_softmax` and `sparsemax` join all
            features of a layer, so that no gain undoes them; by convention theirs is 1.
        direction: "forward" keeps the scale of signals, "backward" that of gradients.

    Returns:
        A float, within 1e-4 of the exact value.

    Raises:
        TypeError, ValueError: for what is no activation, joins features in another way, is not
            finite, or is zero everywhere.

    Example:

    >>> round(gain("relu"), 4), round(gain("gelu"), 4), round(gain("gelu", "backward"), 4)
    (1.4142, 1.5335, 1.4811)

    Source: K. He et al. 2015, arXiv:1502.01852, for ReLU; the definition holds for any function.
    """
    one_of("direction", direction, ("forward", "backward"))
    known = resolve(activation)
    found = moments(known)
    what, value = ("f", found.second) if direction == "forward" else ("f′", found.derivative_second)
    if not value > 0:
        raise ValueError(
            f"The {direction} gain of {known.name!r} does not exist: "
            f"E[{what}(z)²] is {value:g} for z ~ N(0, 1)."
        )
    return 1 / math.sqrt(value)


def moments(activation: Any) -> Moments:
    """The moments of what `gain` takes."""
    return remembered(_moments, resolve(activation))


def evaluate(activation: Activation, values: np.ndarray) -> np.ndarray:
    """f of float32 values, as float64."""
    try:
        result = activation.function(ops.convert_to_tensor(values.astype("float32")))
    except Exception as error:  # whatever is raised for a shape that cannot be taken
        raise ValueError(
            f"The activation {activation.name!r} does not act on each element by itself: it cannot be "
            f"evaluated. Received, for inputs of shape {values.shape}: {type(error).__name__}."
        ) from error
    try:
        return np.asarray(ops.convert_to_numpy(result), dtype="float64")
    except Exception as error:  # whatever is raised for what is no tensor
        raise TypeError(
            f"The activation {activation.name!r} must return a tensor of real numbers. "
            f"Received: {shown(result)} of type {type(result).__name__}."
        ) from error


def features(activation: Activation) -> int:
    """How many features come out for two that go in: 2, each by itself, or 1 from both."""
    result = evaluate(activation, np.array([[0.3, -0.7], [0.3, 1.1]]))
    if result.shape == (2, 1):
        return 1
    if result.shape != (2, 2) or not np.isclose(result[0, 0], result[1, 0], rtol=1e-5, atol=1e-6):
        raise ValueError(
            f"The activation {activation.name!r} has no gain: it does not act on each element by "
            f"itself. Received, for inputs of shape (2, 2), outputs of shape {result.shape}."
        )
    return 2


@cache
def grid(reach: int = _REACH, steps_per_unit: int = _STEPS_PER_UNIT) -> tuple[np.ndarray, np.ndarray]:
    """Points around zero, and the standard normal's weights at them."""
    points = np.arange(-reach * steps_per_unit, reach * steps_per_unit + 1) / steps_per_unit
    weights = np.exp(-points * points / 2)
    return points, weights / weights.sum()


def _moments(known: Activation) -> Moments:
    if known.name in _JOINT:
        return Moments(0.0, 1.0, 1.0)
    result = sampled(known).moments() if features(known) == 2 else _gated(known)
    if not all(map(math.isfinite, result)):
        raise ValueError(
            f"The activation {known.name!r} has no finite moments: it returned NaN or infinity "
            f"for inputs between −{_REACH} and {_REACH}."
        )
    return result


class Sampled(NamedTuple):
    """f on the points of the grid, and f′² on the panels between them."""

    values: np.ndarray
    squared_slopes: np.ndarray

    def moments(self, variance: float = 1.0) -> Moments:
        """The moments for a normal z of this variance, at most one."""
        points, weights = grid()
        values, squares = self
        if variance != 1.0:  # beyond ten deviations there is nothing
            middle, reach = len(points) // 2, math.ceil(10 * math.sqrt(variance) * _STEPS_PER_UNIT)
            near = slice(max(0, middle - reach), middle + reach + 1)
            points, values, squares = points[near], values[near], squares[near]
            weights = np.exp(-points * points / (2 * variance))
            weights = weights / weights.sum()
        between = (weights[1:] + weights[:-1]) / 2
        slope = float(between @ squares[: len(between)] / between.sum())
        return Moments(float(weights @ values), float(weights @ values**2), slope)


def sampled(activation: Activation) -> Sampled:
    """f and f′² on the grid, for an activation that acts on each element by itself."""
    points, _ = grid()
    values = evaluate(activation, points[None, :])[0]
    slopes = np.abs(np.diff(values)) * _STEPS_PER_UNIT
    beside = np.maximum(np.append(slopes[1:], 0), np.insert(slopes[:-1], 0, 0))
    squares = slopes**2
    for panel in np.flatnonzero(slopes > _JUMP * (beside + 1)):
        # All of the panel has a slope, but for the piece with the jump in it.
        pieces = np.linspace(points[panel], points[panel + 1], _PIECES + 1)
        rises = np.abs(np.diff(evaluate(activation, pieces[None, :])[0])) * _PIECES * _STEPS_PER_UNIT
        squares[panel] = np.mean(np.sort(rises)[:-1] ** 2)
    return Sampled(values, squares)


def _gated(activation: Activation) -> Moments:
    """The moments over two independent inputs; the derivative's is the mean over both."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_GATE_POINTS)
    weights = weights / weights.sum()
    step = 1 / 256

    def at(shift_a: float, shift_b: float) -> np.ndarray:
        a, b = np.meshgrid(nodes + shift_a, nodes + shift_b, indexing="ij")
        return evaluate(activation, np.stack([a, b], axis=-1).reshape(-1, 2)).reshape(a.shape)

    def mean(values: np.ndarray) -> float:
        return float(weights @ values @ weights)

    values, rises = at(0, 0), (at(step, 0) - at(-step, 0), at(0, step) - at(0, -step))
    return Moments(mean(values), mean(values**2), sum(mean((rise / (2 * step)) ** 2) for rise in rises) / 2)


APART = 1.5  # gains that differ by more than this cannot both be served
_FIFTH = math.log(1.2)  # of a gradient, that a layer may add or take
_LEAST, _STEP, _HALVINGS = 1e-6, math.sqrt(2), 12  # of the variances that are tried


class Balance(NamedTuple):
    """A gain, those of the two directions, and the variance at which it keeps both, or None."""

    gain: float
    forward: float
    backward: float
    variance: float | None = None

    @property
    def apart(self) -> bool:
        """Whether the gains of the two directions are far apart."""
        return max(self.forward / self.backward, self.backward / self.forward) > APART


def balanced(activation: Any) -> Balance:
    """The gain that serves signals and gradients both; the forward gain where the two are near.

    Pre-activations keep a variance q where the squared gain is q / E[f(√q·z)²]; each layer then multiplies
    the gradient's power by χ(q) = q·E[f′(√q·z)²] / E[f(√q·z)²]. The largest q up to one at which χ is within
    a fifth of one gives the gain: sin(30x) starts at inputs so small that its waves are not yet folded. Where
    no q does, as for softplus, whose signal is mostly a constant, it is the geometric mean of the two gains:
    on stacks of 4 to 20 layers softplus ends at 0.07 to 0.77, with the forward gain at 0.11 to 1.34.

    Example:

    >>> from keras import ops
    >>> found = balanced(lambda x: ops.sin(30 * x))
    >>> round(found.forward, 2), round(found.backward, 3), round(found.gain, 3)
    (1.41, 0.047, 0.047)
    """
    return remembered(_balanced, resolve(activation))


def _balanced(known: Activation) -> Balance:
    forward = gain(known)
    if not moments(known).derivative_second > 0:  # a step: no gradient comes back through it
        return Balance(forward, forward, forward)
    found = Balance(forward, forward, gain(known, "backward"))
    if not found.apart:
        return found
    if features(known) == 2:  # else it joins them
        on_grid = sampled(known)
        if variance := _largest_kept(on_grid):
            gain_there = math.sqrt(variance / on_grid.moments(variance).second)
            return found._replace(gain=gain_there, variance=variance)
    return found._replace(gain=math.sqrt(forward * found.backward))


def _largest_kept(on_grid: Sampled) -> float | None:
    """The largest variance up to one at which gradients are kept, first by powers of √2."""

    def keeps(variance: float) -> bool:
        _, second, derivative = on_grid.moments(variance)
        return second > 0 and derivative > 0 and abs(math.log(variance * derivative / second)) <= _FIFTH

    low = 1.0
    while not keeps(low):
        low /= _STEP
        if low < _LEAST:
            return None
    if low == 1.0:
        return low
    high = _STEP * low
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low
