"""How linear an activation is: in its odd part, and around a place.

A kernel that reads a unit u together with its twin −u, as f(u) − f(−u), sees no constant and nothing
else that is even in f. Of ReLU, GELU, SiLU and softplus that leaves u itself; of sigmoid tanh(u/2).
An activation that is odd already, such as tanh, needs no twins. And most activations are nearly
linear somewhere, where a bias can take their units.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from keras_winit.theory.activations import Activation, remembered, resolve
from keras_winit.theory.gains import evaluate, features, grid

# How much of an activation's power may be nonlinear at the start, by the number of activations in a
# row. Measured on plain stacks (tests/benchmarks/trainability.py), of 5 to 100 layers. For activations
# that are odd this by the number.
_SHARE_OF_ODD = 0.6
# For the odd part that twins leave this by its square: mish fails at 100 layers with 30 times as much.
# And at a smaller variance than a quarter units carry so little that their biases outrun them:
# sigmoid at 100 layers reaches 0.93 with a quarter, and 0.84 with a sixteenth.
_SHARE_OF_TWINS = 3.0
_LEAST_OF_TWINS = 0.25
# Where that quarter leaves so many times more than is allowed, as for sigmoid from 70 layers on, twins are as
# the odd functions. Convolutions of 100 layers of it reach 0.93 so, and 0.10 with a quarter throughout; of 40
# layers a quarter is better.
_TOO_BENT = 3.0
# A whole chain of odd functions can begin with the variance of one so much shorter, if it falls along it.
_SHORTER = 4.0
# Units around another place are so wide. Measured on 100 layers: with 1, and with 16, ELU and SELU train as
# well or nearly so, with a quarter neither does.
_WIDE = 4.0
_MEANS = tuple(round(mean / 10, 1) for mean in range(-30, 31))
# For how many layers a kernel that is drawn by itself is made.
USUAL_DEPTH = 40

_ROUNDING = 1e-5
_STEPS = 512  # points per unit where a variance is searched for
_HALVINGS = 24
_PLACES = 9
_EQUAL = 1e-3  # shares of variance that make no difference


def is_odd(activation: Any) -> bool:
    """Whether f(−u) = −f(u): there is no even part that twins would cancel."""
    known = resolve(activation)
    points, _ = grid()
    values = _values(known, points)
    return bool(np.max(np.abs(values + values[::-1])) <= _ROUNDING * max(1.0, float(np.max(np.abs(values)))))


class Start(NamedTuple):
    """How units are to start, so that an activation is nearly linear for them: u ~ N(mean, variance)."""

    mean: float
    variance: float


def power(activation: Any, variance: float, *, twins: bool, mean: float = 0.0) -> float:
    """E[(f(m + u) − f(m − u))²] with twins, E[f(m + u)²] without, for u ~ N(0, variance).

    Raises:
        ValueError: where that is zero or not finite: an even activation has no odd part.
    """
    known = resolve(activation)
    found, whole = remembered(_powers, known, variance, twins, mean)
    if not 0 < found < np.inf or found <= _ROUNDING**2 * whole:
        what = "f(u) − f(−u)" if twins else "f(u)"
        raise ValueError(
            f"The activation {known.name!r} carries no signal here: {what} has the power {found:g} for "
            f"u ~ N(0, {variance:g}). Looking linear needs an odd part; use another scheme."
        )
    return found


def linear_variance(activation: Any, depth: float = USUAL_DEPTH) -> float:
    """The variance, up to 1, at which `depth` such activations in a row stay nearly linear.

    It is the largest at which the share of the power of g = f(√q·z) − f(−√q·z) that no linear
    function explains, 1 − E[z·g]²/E[g²], is at most 0.6/depth where f is odd, and 3/depth² where it
    needs twins, but then not less than a quarter.
    """
    known = resolve(activation)
    if is_odd(known):
        return remembered(_linear_variance, known, _SHARE_OF_ODD / depth)
    return max(_LEAST_OF_TWINS, remembered(_linear_variance, known, _SHARE_OF_TWINS / depth**2))


def linear_start(activation: Any, depth: int = USUAL_DEPTH) -> Start:
    """The mean and the variance at which `depth` such activations in a row stay nearly linear.

    The mean is zero, and the variance that of `linear_variance`, where that is linear enough. Where the least
    variance is not, as for ELU and SELU in a long chain, units may lie around another place, as wide as
    ReLU's: twins m + u and m − u cancel what f has of even parts around m, and far from its bend f goes on as
    a line. It is taken where the share that no line explains is a third of the other or less.
    """
    known, variance = resolve(activation), linear_variance(activation, depth)
    excess = _excess(known, depth)
    if excess <= 1:
        return Start(0.0, variance)
    mean, least = remembered(_best_mean, known)
    bent = remembered(_bent_at, known, 0.0, variance)
    return Start(mean, _WIDE) if least <= bent / 3 else Start(0.0, variance)


def are_curves(activations: Iterable[Any], depth: int) -> bool:
    """Whether `depth` of these in a row stay nearly linear only with variances that fall along the chain.

    All are odd, as tanh and softsign are, or so long a chain of them bends even the twins of the least
    variance far too much, as sigmoid does from 70 layers on; and they are not all a line.
    """
    known = [resolve(activation) for activation in activations]
    curves = all(is_odd(each) or _is_too_bent(each, depth) for each in known)
    return curves and any(linear_variance(each) < 1 for each in known)


def curve_variance(activation: Any, depth: int) -> float:
    """The variance, up to 1, with which a chain of `depth` such activations begins, if it falls along it.

    It is the largest at which a chain a quarter as long stays nearly linear, by the share for odd functions.
    """
    return remembered(_linear_variance, resolve(activation), _SHARE_OF_ODD / (depth / _SHORTER))


def wide_mean(activation: Any) -> float:
    """The mean around which f(m + u) − f(m − u) is most nearly linear for u as wide as ReLU's, to a tenth.

    Raises:
        ValueError: where there is none within three of zero.
    """
    known = resolve(activation)
    mean, least = remembered(_best_mean, known)
    if not np.isfinite(least):
        raise ValueError(f"{known.name} has no odd part around any mean: nothing of it is linear.")
    return float(mean)


def linear_place(activation: Any, std: float = 1.0) -> float:
    """The mean, at most one deviation from zero, around which an activation is most nearly linear.

    For u ~ N(mean, std²), the share of f(u)'s variance that no linear function of u explains is least
    there: at one deviation for ReLU and its kin, at zero for tanh and sigmoid. Of equals the nearest
    to zero counts.
    """
    return remembered(_linear_place, resolve(activation), std)


def _excess(activation: Activation, depth: int) -> float:
    """How many times too much twins of the least variance leave nonlinear; 0 for odd functions."""
    if is_odd(activation):
        return 0.0
    return remembered(_bent_at, activation, 0.0, _LEAST_OF_TWINS) * depth**2 / _SHARE_OF_TWINS


def _is_too_bent(activation: Activation, depth: int) -> bool:
    """Whether twins of the least variance are bent far too much, and no mean helps."""
    return _excess(activation, depth) > _TOO_BENT and not linear_start(activation, depth).mean


def _linear_place(activation: Activation, std: float) -> float:
    points, weights = grid(steps_per_unit=_STEPS)
    places = sorted(np.linspace(-std, std, _PLACES), key=abs)

    def bent(place: float) -> float:
        values = _values(activation, place + std * points)
        centred = values - weights @ values
        whole = float(weights @ centred**2)
        return 1 - float(weights @ (points * centred)) ** 2 / whole if whole > 0 else 1.0

    least = min(bent(place) for place in places)
    return float(next(place for place in places if bent(place) <= least + _EQUAL))


def _powers(activation: Activation, variance: float, twins: bool, mean: float) -> tuple[float, float]:
    """The power that is asked for, and that of all of f."""
    points, weights = grid()
    values = _values(activation, mean + np.sqrt(variance) * points)
    whole = float(weights @ values**2)
    return (float(weights @ (values - values[::-1]) ** 2) if twins else whole), whole


def _bent_at(activation: Activation, mean: float, variance: float) -> float:
    """The share of the power of f(m + u) − f(m − u) that no linear function of u explains."""
    points, weights = grid(steps_per_unit=_STEPS)
    values = _values(activation, mean + np.sqrt(variance) * points)
    odd = values - values[::-1]
    whole = float(weights @ odd**2)
    return 1 - float(weights @ (points * odd)) ** 2 / whole if 0 < whole < np.inf else np.inf


def _best_mean(activation: Activation) -> tuple[float, float]:
    """The mean at which an activation is bent least, to a tenth, and how much it is."""
    bends = {mean: _bent_at(activation, mean, _WIDE) for mean in _MEANS}
    best = min(bends, key=lambda mean: (round(bends[mean], 6), abs(mean), mean))  # of equals, one
    return best, bends[best]


def _linear_variance(activation: Activation, allowed: float) -> float:
    def bent(variance: float) -> float:
        share = _bent_at(activation, 0.0, variance)
        return share if np.isfinite(share) else 0.0  # `power` says that there is nothing

    if bent(1.0) <= allowed:
        return 1.0
    low, high = 1e-6, 1.0
    for _ in range(_HALVINGS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if bent(middle) <= allowed else (low, middle)
    return low


def _values(activation: Activation, points: np.ndarray) -> np.ndarray:
    """f at these points, the first and the last of which are opposites."""
    if features(activation) != 2:
        raise ValueError(
            f"The activation {activation.name!r} joins two features into one, and its units have no twins."
        )
    values: np.ndarray = evaluate(activation, points[None, :])[0]
    return values
