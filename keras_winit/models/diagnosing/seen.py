"""The figures of one layer."""

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_winit.support.exact import array_product, moments
from keras_winit.support.host import host_array
from keras_winit.theory.activations import resolve

_MOST_ROWS, _MOST_COLUMNS = 256, 4096
_WIDTH = 128  # of a sketch
_RIDGES = (1e-3, 1e-1)  # of the mean eigenvalue: the better one counts


def chosen_rows(count: int) -> Any:
    """Which of so many samples are looked at: at most 256, spread over all."""
    return np.linspace(0, count - 1, min(count, _MOST_ROWS)).astype(int)


def sketch(array: Any) -> Any:
    """Centred samples in at most 128 columns: random signs keep distances to a few percent.

    Source: W. Johnson, J. Lindenstrauss 1984; D. Achlioptas 2003, "Database-friendly random projections".
    """
    rows = array.reshape(len(array), -1)[chosen_rows(len(array))]
    step = -(-rows.shape[1] // _MOST_COLUMNS)
    rows = rows[:, ::step].astype("float32")
    largest = float(np.max(np.abs(rows), initial=0))
    if largest == 0 or not math.isfinite(largest):
        return np.zeros((len(rows), 1))
    rows = rows / largest
    rows = rows - rows[0]  # first, so that what is equal has no difference at all
    rows = rows - rows.mean(axis=0)
    if rows.shape[1] > _WIDTH:
        rows = array_product(rows, _signs()[: rows.shape[1]]) / np.float32(math.sqrt(rows.shape[1]))
    return rows.astype("float64")


@cache
def _signs() -> Any:
    """A random sign for each column and each of those that it is projected to."""
    return 2 * np.random.default_rng(0).integers(0, 2, (_MOST_COLUMNS, _WIDTH)).astype("float32") - 1


def effective_rank(centred: Any) -> float | None:
    """exp(−Σ pᵢ·log pᵢ), with pᵢ the shares of the variance along the principal axes; None without variance.

    One on a line, k where samples fill k directions alike.

    Source: O. Roy, M. Vetterli 2007, "The effective rank: a measure of effective dimensionality".
    """
    values = np.clip(np.linalg.eigvalsh(_products(centred)), 0, None)
    total = float(values.sum())
    if not total > 0:
        return None
    shares = values[values > 1e-12 * total] / total
    return math.exp(-float(np.sum(shares * np.log(shares))))


def _products(centred: Any) -> Any:
    """XᵀX or XXᵀ, the smaller: but for zeros the same eigenvalues, at a tenth of the price of X's SVD."""
    wide = centred.shape[1] > len(centred)
    return array_product(centred, centred.T) if wide else array_product(centred.T, centred)


def _along_axes(centred: Any) -> tuple[Any, Any]:
    """The samples along their principal axes, and the power along each."""
    power, vectors = np.linalg.eigh(_products(centred))
    power, vectors = np.clip(power[::-1], 0, None), vectors[:, ::-1]
    wide = centred.shape[1] > len(centred)
    return vectors * np.sqrt(power) if wide else centred @ vectors, power


def principal(centred: Any, count: int = 10) -> Any:
    """The samples along their first principal axes."""
    return _along_axes(centred)[0][:, :count]


def read_off(centred: Any, answers: Any) -> float | None:
    """R² of a ridge regression, each sample left out once.

    With H = X(XᵀX + λI)⁻¹Xᵀ + 1/n the sample i that is left out is missed by (y − Hy)ᵢ / (1 − Hᵢᵢ).

    Source: D. Allen 1974, "The relationship between variable selection and data augmentation" (PRESS).
    """
    power = float(np.sum(np.square(answers - answers.mean(axis=0))))
    found = [float(np.sum(np.square(missed))) for missed in _left_out(centred, answers)]
    return 1 - min(found) / power if found and power > 0 else None


def named_right(centred: Any, classes: Any) -> float | None:
    """How much better than the commonest class (0 to 1) a ridge classifier is, each sample left out once."""
    found, index = np.unique(classes, return_inverse=True)
    if len(found) < 2:
        return None
    answers = np.eye(len(found))[index]
    commonest = float(answers.mean(axis=0).max())
    right = [float(np.mean((answers - miss).argmax(axis=1) == index)) for miss in _left_out(centred, answers)]
    return (max(right) - commonest) / (1 - commonest) if right else None


def _left_out(centred: Any, answers: Any) -> list[Any]:
    """For each ridge, by how much left out samples are missed; empty where nothing varies."""
    along, power = _along_axes(centred)
    count, total = len(centred), float(power.sum())
    if not total > 0 or count < 3:
        return []
    answers = answers - answers.mean(axis=0)
    missed = []
    for ridge in _RIDGES:
        weight = 1 / (power + ridge * total / count)
        leverage = np.square(along) @ weight + 1 / count
        fitted = along @ (weight[:, None] * (along.T @ answers))
        missed.append((answers - fitted) / np.maximum(1 - leverage, 1e-6)[:, None])
    return missed


_ROUNDING = 1e-5  # of a number, which is no difference
_ENDS = 1 / 80  # of the range of a bounded function
_FAR, _LARGE = 1e3, 1e6
_PIECE = 2**18  # numbers: a batch of large maps is large


@dataclass
class Seen:
    """What was seen of one layer, at its first call."""

    path: str
    activation: str | None
    weighted: bool
    normalized: bool = False
    answer: bool = False  # an output of the model comes out of it
    mean: float = math.nan
    std: float = math.nan
    finite: bool = True
    distinct: float | None = None
    rank: float | None = None
    dead: float | None = None
    saturated: float | None = None
    gradient: float | None = None
    sketch: Any = field(default=None, repr=False)  # of its activations


def look(seen: Seen, values: Any, layer: Any, apply: Any) -> None:
    """Note the figures of what a layer computes before its activation."""
    found = moments(values)
    seen.mean, seen.std = found.mean, found.std
    seen.finite = math.isfinite(found.std)
    if not seen.finite:
        return
    linear = apply is None or apply is keras.activations.linear
    given = host_array(values)
    activated = given if linear else host_array(apply(values)).astype("float32", copy=False)
    shown = given if seen.answer else activated
    seen.distinct = distinct(shown)
    if shown.ndim > 1 and len(shown) > 1:
        seen.sketch = sketch(shown)
        seen.rank = effective_rank(seen.sketch)
    gated = activated.shape != given.shape
    if linear or gated or given.ndim < 2 or len(given) < 2:
        return
    channels = 1 if getattr(layer, "data_format", None) == "channels_first" else -1
    inputs, units = (
        np.moveaxis(each, channels, -1).reshape(-1, each.shape[channels]) for each in (given, activated)
    )
    # A unit that is given the same for every input is not to blame for putting out the same, unless it is
    # given what lies far beyond where its activation answers.
    low, high = inputs.min(axis=0), inputs.max(axis=0)
    least, most = np.minimum(np.abs(low), np.abs(high)), np.maximum(np.abs(low), np.abs(high))
    to_blame = (high - low > _ROUNDING * most) | ((least > _FAR) & (np.sign(low) == np.sign(high)))
    seen.dead = float(np.mean((units.max(axis=0) == units.min(axis=0)) & to_blame))
    ends = _ends(layer, apply)
    if ends is not None:
        margin = _ENDS * (ends[1] - ends[0])
        seen.saturated = float(np.mean((units < ends[0] + margin) | (units > ends[1] - margin)))


def distinct(array: Any) -> float | None:
    """The share of an array's power that differs between samples."""
    if len(array) < 2 or array.ndim < 2:
        return None
    flat = array.reshape(len(array), -1).astype("float32", copy=False)
    scale = float(np.max(np.abs(flat), initial=0))
    if scale == 0 or not math.isfinite(scale):
        return None
    if not 1 / _LARGE < scale < _LARGE:  # float32 may not hold the squares of differences
        flat = flat / scale
    common = flat.mean(axis=0)
    step = max(1, _PIECE // flat.shape[1])
    differing = power = 0.0
    for start in range(0, len(flat), step):
        rows = flat[start : start + step]
        differing += _power(rows - common)
        power += _power(rows)
    return differing / power


def _power(array: Any) -> float:
    flat = array.reshape(-1)
    return float(array_product(flat, flat))


def _ends(layer: Any, apply: Any) -> tuple[float, float] | None:
    """The ends of a function of single numbers that runs from one to the other, or None."""
    named = layer.activation if isinstance(layer, layers.Activation) else apply
    if getattr(named, "__name__", "") in ("softmax", "log_softmax", "sparsemax", "glu"):
        return None
    if any(isinstance(each, (layers.PReLU, layers.Softmax)) for each in (layer, named)):
        return None
    try:
        values = host_array(apply(ops.convert_to_tensor([[-1e4, -0.5, 0.5, 1e4]], "float32"))).reshape(-1)
    except Exception:  # one that only takes the layer's own shape
        return None
    if values.size != 4:
        return None
    low, below, above, high = map(float, values)
    return (low, high) if -10 <= low < below < above < high <= 10 else None


def name_of(activation: Any) -> str | None:
    """The name of an activation; None for none."""
    try:
        name = resolve(activation).name
    except (TypeError, ValueError):
        return type(activation).__name__
    return None if name == "linear" else name


def variance_read_by(layer: Any, values: Any) -> float:
    """The mean variance, or square, that a normalization divides by."""
    array = host_array(ops.cast(values, "float32")).astype("float64")
    if isinstance(layer, (layers.RMSNormalization, layers.UnitNormalization)):
        return float(np.mean(np.square(array)))
    axes = getattr(layer, "axis", -1)
    if isinstance(layer, layers.BatchNormalization):
        axes = [axis for axis in range(array.ndim) if axis != layer.axis % array.ndim]
    if isinstance(layer, layers.GroupNormalization):
        array = np.moveaxis(array, layer.axis, 1)
        groups = array.shape[1] if layer.groups == -1 else layer.groups
        array, axes = array.reshape(len(array), groups, -1), -1
    return float(np.mean(array.var(axis=tuple(axes) if isinstance(axes, (list, tuple)) else axes)))
