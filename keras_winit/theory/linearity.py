"""How linear an activation is: in its odd part, and around a place.

A kernel that reads a unit u with its twin −u, as f(u) − f(−u), sees nothing that is even in f. Of ReLU,
GELU, SiLU and softplus that leaves u itself; of sigmoid tanh(u/2). What is odd already, such as tanh, needs
no twins. Most are nearly linear around another place, too, to which a bias can take units: best where they
are nearly flat, as GELU around −2.
"""

from typing import Any, NamedTuple

import numpy as np

from keras_winit.theory.activations import Activation, remembered, resolve
from keras_winit.theory.gains import evaluate, features, grid

# How much of an activation's power may be nonlinear at the start: if it is odd, this over the number of
# activations in a row, with twins over its square. Measured on plain stacks of 5 to 100 layers
# (tests/benchmarks/trainability.py): at 100 mish fails with 30 times as much. (`Mirroring` lets a whole chain
# begin with more.)
_SHARE_OF_ODD = 0.6
_SHARE_OF_TWINS = 3.0
# The least variance with twins. With less, biases outrun units: sigmoid at 100 layers reaches 0.93 with a
# quarter, 0.84 with a sixteenth.
_LEAST_OF_TWINS = 0.25
# The variance around another place. On 100 layers ELU and SELU train nearly as well with 1 and with 16, but
# not with a quarter.
_WIDE = 4.0
_MEANS = tuple(round(mean / 10, 1) for mean in range(-30, 31))
# The largest slope of a flat place. The smaller it is, the larger are kernels, and the less a step of
# training moves the product of all layers: 300 layers that are lines learn with 1/6 (0.98), hardly with 1/2
# (0.53), and not with 1 (0.25).
_FLAT = 0.25
_LEAST_SLOPE = 1e-3
# What twins around a flat place may leave nonlinear. With 25 times as much one GELU network of 300 layers in
# three fails.
_SHARE_OF_FLAT = 3e-9
_LEAST_OF_FLAT = 1e-3
_SPACING = 0.2  # of four points whose third difference is the change of the bend
_NOISE = 1e-5
# Layers times the slope that twins see. GELU, of the slope 1/2, learns with 160 layers around zero, not with
# 200. Around a flat place it learns with 100 to 300, but only from data of the size that is reckoned with:
# fifteen times that leaves the place, and grows from layer to layer.
_MOST_STEEP = 90.0
# Twins that leave so many times too much go to a flat place: sigmoid's from 70 layers on. 100 convolutions
# with it reach 0.1 around zero.
_TOO_BENT = 3.0
USUAL_DEPTH = 40  # in layers, of a kernel that is drawn by itself

_ROUNDING = 1e-5
_STEPS = 512  # per unit, where a variance is searched for
_HALVINGS = 24
_PLACES = 9
_EQUAL = 1e-3  # shares that differ by less count as equal


def is_odd(activation: Any) -> bool:
    """Whether f(−u) = −f(u), so that twins would cancel nothing."""
    values = _values(resolve(activation), grid()[0])
    return bool(np.abs(values + values[::-1]).max() <= _ROUNDING * max(1.0, float(np.abs(values).max())))


class Start(NamedTuple):
    """Where an activation is nearly linear: for units u ~ N(mean, variance)."""

    mean: float
    variance: float
    place: str = "zero"


def power(activation: Any, variance: float, *, twins: bool, mean: float = 0.0) -> float:
    """E[(f(m + u) − f(m − u))²] with twins, E[f(m + u)²] without, for u ~ N(0, variance).

    Raises:
        ValueError: where that is zero, as for an even activation, or not finite.
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

    The share of the power of g = f(√q·z) − f(−√q·z) that no line explains, 1 − E[z·g]²/E[g²], is there at
    most 0.6/depth where f is odd, and 3/depth² where it needs twins; then a quarter is the least.
    """
    known = resolve(activation)
    if is_odd(known):
        return remembered(_linear_variance, known, _SHARE_OF_ODD / depth)
    return max(_LEAST_OF_TWINS, remembered(_linear_variance, known, _SHARE_OF_TWINS / depth**2))


def linear_start(activation: Any, depth: int = USUAL_DEPTH, *, rough: bool = False) -> Start:
    """The mean and the variance at which `depth` such activations in a row stay nearly linear.

    The mean is zero, and the variance that of `linear_variance`, where that is linear enough and the chain
    not too steep. Else twins may be m + u and m − u, which cancel what is even in f around another place m:
    for long chains a "flat" one, as GELU, SiLU, Mish and sigmoid have; or a "wide" one, far from the bend of
    ELU and SELU, if the share that no line explains is there at most a third of that around zero.

    `rough` units take no flat one: its twins cancel neither noise nor bfloat16's steps, a sixtieth around 2.
    """
    known, variance = resolve(activation), linear_variance(activation, depth)
    if is_odd(known):
        return Start(0.0, variance)
    bent = remembered(_bent_at, known, 0.0, variance) if variance <= _LEAST_OF_TWINS else 0.0
    excess = bent * depth**2 / _SHARE_OF_TWINS
    too_steep = depth * _slope_of_twins(known, variance) > _MOST_STEEP
    if (excess > _TOO_BENT or too_steep) and not rough:
        flat = remembered(_flat_start, known)
        if flat is not None:
            return flat
    if excess > 1:
        mean, least = remembered(_best_mean, known)
        if least <= bent / 3:
            return Start(mean, _WIDE, "wide")
    return Start(0.0, variance)


def linear_mean(activation: Any, place: str = "wide") -> float:
    """The mean around which f(m + u) − f(m − u) is most nearly linear; a ValueError where there is none.

    Args:
        place: "wide", for u as wide as ReLU's, to a tenth, within three of zero; or "flat", where the slope
            of f is at most a quarter and the change of its bend turns, to a hundredth, within 5.9 of zero.
    """
    known = resolve(activation)
    if place == "flat":
        start = remembered(_flat_start, known)
        if start is None:
            raise ValueError(
                f"{known.name} has no flat place: none where its slope is at most {_FLAT:g} and twins see a "
                'line, as GELU has around −2. Use place="wide".'
            )
        return float(start.mean)
    mean, least = remembered(_best_mean, known)
    if not np.isfinite(least):
        raise ValueError(f"{known.name} has no odd part around any mean: nothing of it is linear.")
    return float(mean)


def linear_place(activation: Any, std: float = 1.0) -> float:
    """The mean, at most one deviation from zero, around which an activation is most nearly linear.

    The share of f(u)'s variance that no line explains, u ~ N(mean, std²), is least there: at one deviation
    for ReLU and its kin, at zero for tanh and sigmoid. Of equals it is the nearest to zero.
    """
    return remembered(_linear_place, resolve(activation), std)


def _linear_place(activation: Activation, std: float) -> float:
    points, weights = grid(steps_per_unit=_STEPS)
    bends = {}
    for place in sorted(np.linspace(-std, std, _PLACES), key=abs):
        values = _values(activation, place + std * points)
        centred = values - weights @ values
        whole = float(weights @ centred**2)
        bends[place] = 1 - float(weights @ (points * centred)) ** 2 / whole if whole > 0 else 1.0
    least = min(bends.values())
    return float(next(place for place in bends if bends[place] <= least + _EQUAL))


def _powers(activation: Activation, variance: float, twins: bool, mean: float) -> tuple[float, float]:
    """What `power` gives, and the power of all of f."""
    points, weights = grid()
    values = _values(activation, mean + np.sqrt(variance) * points)
    whole = float(weights @ values**2)
    return (float(weights @ (values - values[::-1]) ** 2) if twins else whole), whole


def _bent_at(activation: Activation, mean: float, variance: float) -> float:
    """The share of the power of f(m + u) − f(m − u) that no line explains."""
    points, weights = grid(steps_per_unit=_STEPS)
    values = _values(activation, mean + np.sqrt(variance) * points)
    odd = values - values[::-1]
    whole = float(weights @ odd**2)
    return 1 - float(weights @ (points * odd)) ** 2 / whole if 0 < whole < np.inf else np.inf


def _best_mean(activation: Activation) -> tuple[float, float]:
    """The mean, to a tenth, at which an activation is bent least, and how much."""
    bends = {mean: _bent_at(activation, mean, _WIDE) for mean in _MEANS}
    best = min(bends, key=lambda mean: (round(bends[mean], 6), abs(mean), mean))  # of equals, one
    return best, bends[best]


def _slope_of_twins(activation: Activation, variance: float) -> float:
    """The slope of the line that (f(u) − f(−u))/2 nearly is."""
    return float(np.sqrt(remembered(_powers, activation, variance, True, 0.0)[0] / variance) / 2)


def _flat_start(activation: Activation) -> Start | None:
    """The place with a small slope, around which f bends as much to either side; None where there is none.

    There the third derivative changes its sign: twins are linear up to the fifth order. Of several it is the
    one where f is nearest to zero, for its slope: what f adds there moves all units at once.
    """
    means = np.arange(-600, 601) / 100
    offsets = _SPACING * np.array([-1.5, -0.5, 0.5, 1.5])
    values = _values(activation, (means[:, None] + offsets).ravel()).reshape(-1, 4)
    turns = np.lib.stride_tricks.sliding_window_view(values @ np.array([-1.0, 3.0, -3.0, 1.0]), 21)
    sizes, means, values = np.abs(turns), means[10:-10], values[10:-10]
    slopes, heights = np.abs(values[:, 2] - values[:, 1]) / _SPACING, np.abs(values[:, 1:3].mean(axis=1))
    found = (turns[:, 0] * turns[:, -1] < 0) & (np.minimum(sizes[:, 0], sizes[:, -1]) > _NOISE)
    found &= (sizes[:, 10] == sizes.min(axis=1)) & (slopes > _LEAST_SLOPE) & (slopes <= _FLAT)
    for index in sorted(np.flatnonzero(found), key=lambda i: (round(heights[i] / slopes[i], 3), means[i])):
        mean = float(means[index])
        variance = _linear_variance(activation, _SHARE_OF_FLAT, mean)
        if variance >= _LEAST_OF_FLAT:
            return Start(mean, variance, "flat")
    return None


def _linear_variance(activation: Activation, allowed: float, mean: float = 0.0) -> float:
    def is_linear(variance: float) -> bool:
        share = _bent_at(activation, mean, variance)
        return share <= allowed or (mean == 0 and not np.isfinite(share))  # else `power` raises

    if is_linear(1.0):
        return 1.0
    low, high = 1e-6, 1.0
    for _ in range(_HALVINGS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if is_linear(middle) else (low, middle)
    return low


def _values(activation: Activation, points: np.ndarray) -> np.ndarray:
    """f at these points."""
    if features(activation) != 2:
        raise ValueError(
            f"The activation {activation.name!r} joins two features into one, and its units have no twins."
        )
    values: np.ndarray = evaluate(activation, points[None, :])[0]
    return values
