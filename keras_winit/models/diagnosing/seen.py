"""The figures of one layer: its values, its units, and what it tells apart."""

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_winit.support.exact import array_product, moments
from keras_winit.support.host import host_array
from keras_winit.theory.activations import Activation, resolve

MOST_ROWS, _MOST_COLUMNS = 256, 4096
_WIDTH = 128  # of a sketch
_RIDGES = (1e-3, 1e-1)  # of the mean eigenvalue: the better one counts


def rows_of(array: Any) -> Any:
    """The samples of an array as the rows of a matrix, at most 256 of them, spread over all."""
    array = np.asarray(array)
    return array.reshape(len(array), -1)[chosen_rows(len(array))]


def chosen_rows(count: int) -> Any:
    """Which rows of so many are looked at."""
    return np.linspace(0, count - 1, min(count, MOST_ROWS)).astype(int)


def sketch(rows: Any) -> Any:
    """The rows, centred, in at most 128 columns: random signs keep distances to a few percent.

    Source: W. Johnson, J. Lindenstrauss 1984; D. Achlioptas 2003, "Database-friendly random projections".
    """
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
    """exp(−Σ pᵢ·log pᵢ), with pᵢ the shares of the variance along the principal axes; None for no variance.

    One where all samples lie on a line, k where they fill k directions alike.

    Source: O. Roy, M. Vetterli 2007, "The effective rank: a measure of effective dimensionality".
    """
    values = np.clip(np.linalg.eigvalsh(_products(centred)), 0, None)
    total = float(values.sum())
    if not total > 0:
        return None
    shares = values[values > 1e-12 * total] / total
    return math.exp(-float(np.sum(shares * np.log(shares))))


def _products(centred: Any) -> Any:
    """XᵀX or XXᵀ, the smaller: the same eigenvalues but for zeros, at a tenth of the price of X's SVD."""
    return array_product(centred, centred.T) if _is_wide(centred) else array_product(centred.T, centred)


def _is_wide(matrix: Any) -> bool:
    return bool(matrix.shape[1] > matrix.shape[0])


def _along_axes(centred: Any) -> tuple[Any, Any]:
    """The samples along their principal axes, the first axis first, and the power along each."""
    power, vectors = np.linalg.eigh(_products(centred))
    power, vectors = np.clip(power[::-1], 0, None), vectors[:, ::-1]
    along = vectors * np.sqrt(power) if _is_wide(centred) else centred @ vectors
    return along, power


def principal(centred: Any, count: int = 10) -> Any:
    """The samples along their first principal axes."""
    return _along_axes(centred)[0][:, :count]


def read_off(centred: Any, answers: Any) -> float | None:
    """The share of the answers' variance that a ridge regression tells, each sample left out once: R².

    With H = X(XᵀX + λI)⁻¹Xᵀ + 1/n the sample i that is left out is missed by (y − Hy)ᵢ / (1 − Hᵢᵢ).

    Source: D. Allen 1974, "The relationship between variable selection and data augmentation" (PRESS).
    """
    power = float(np.sum(np.square(answers - answers.mean(axis=0))))
    found = [float(np.sum(np.square(missed))) for missed in _left_out(centred, answers)]
    return 1 - min(found) / power if found and power > 0 else None


def named_right(centred: Any, classes: Any) -> float | None:
    """How much better than the commonest class a ridge classifier is, each sample left out once: 0 to 1."""
    found, index = np.unique(classes, return_inverse=True)
    if len(found) < 2:
        return None
    answers = np.eye(len(found))[index]
    commonest = float(answers.mean(axis=0).max())
    right = [float(np.mean((answers - miss).argmax(axis=1) == index)) for miss in _left_out(centred, answers)]
    return (max(right) - commonest) / (1 - commonest) if right else None


def _left_out(centred: Any, answers: Any) -> list[Any]:
    """By how much each sample is missed that was left out, for each ridge; nothing where nothing varies."""
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
_FAR = 1e3
_LARGE = 1e6
_PIECE = 2**18  # numbers: a batch of large maps is large


@dataclass
class Seen:
    """What was seen of one layer, at its first call."""

    path: str
    activation: str | None
    weighted: bool
    normalized: bool = False
    answer: bool = False  # whether an output of the model comes out of it
    mean: float = math.nan
    std: float = math.nan
    finite: bool = True
    distinct: float | None = None
    rank: float | None = None
    dead: float | None = None
    saturated: float | None = None
    gradient: float | None = None
    sketch: Any = field(default=None, repr=False)  # of its activations


def look(seen: Seen, values: Any, apply: Any, channels: int, *, elementwise: bool) -> None:
    """Note the figures of what a layer computes.

    Args:
        seen: where they are noted.
        values: what it computes before its activation.
        apply: its activation, or None.
        channels: the axis of its units.
        elementwise: whether the activation can be tried on a few numbers.
    """
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
        seen.sketch = sketch(rows_of(shown))
        seen.rank = effective_rank(seen.sketch)
    if linear or activated.ndim < 2 or len(activated) < 2:
        return
    if activated.shape != given.shape:  # a gated activation, say
        return
    ends = _ends(apply) if elementwise else None
    _look_at_units(seen, by_unit(given, channels), by_unit(activated, channels), ends)


def _look_at_units(seen: Seen, given: Any, units: Any, ends: tuple[float, float] | None) -> None:
    # A unit that is given the same for every input is not to blame for putting out the same, unless it is
    # given what lies far beyond where its activation answers.
    low, high = given.min(axis=0), given.max(axis=0)
    varies = high - low > _ROUNDING * np.maximum(np.abs(low), np.abs(high))
    far = (np.minimum(np.abs(low), np.abs(high)) > _FAR) & (np.sign(low) == np.sign(high))
    dead = (units.max(axis=0) == units.min(axis=0)) & (varies | far)
    seen.dead = float(np.mean(dead))
    if ends is not None:
        low, high = ends[0] + _ENDS * (ends[1] - ends[0]), ends[1] - _ENDS * (ends[1] - ends[0])
        seen.saturated = float(np.mean((units < low) | (units > high)))


def distinct(array: Any) -> float | None:
    """The share of an array's power that differs from sample to sample."""
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
        rows = flat[start : start + step].reshape(-1)
        differences = (flat[start : start + step] - common).reshape(-1)
        differing += float(array_product(differences, differences))
        power += float(array_product(rows, rows))
    return differing / power


def by_unit(array: Any, channels: int) -> Any:
    """The array as a matrix with a column for each unit."""
    return np.moveaxis(array, channels, -1).reshape(-1, array.shape[channels])


def _ends(apply: Any) -> tuple[float, float] | None:
    """The ends of a function that is bounded on both sides and runs from one to the other, or None."""
    try:
        values = host_array(apply(ops.convert_to_tensor([[-1e4, -0.5, 0.5, 1e4]], "float32"))).reshape(-1)
    except Exception:  # one that only takes the layer's own shape
        return None
    if values.size != 4:
        return None
    low, below, above, high = (float(value) for value in values)
    if not (math.isfinite(low) and math.isfinite(high)) or abs(low) > 10 or abs(high) > 10:
        return None
    return (low, high) if low < below < above < high else None


def is_elementwise(layer: Any, apply: Any) -> bool:
    """Whether an activation can be tried on four numbers."""
    names = ("softmax", "log_softmax", "sparsemax", "glu")
    if isinstance(layer, layers.Activation):
        apply = layer.activation
    kinds = (layers.PReLU, layers.Softmax)
    joins = isinstance(layer, kinds) or isinstance(apply, kinds)
    return not joins and getattr(apply, "__name__", "") not in names


def name_of(activation: Any) -> str | None:
    """The name of an activation; None for none."""
    try:
        found: Activation = resolve(activation)
    except (TypeError, ValueError):
        return type(activation).__name__
    return None if found.name == "linear" else found.name


def variance_read_by(layer: Any, values: Any) -> float:
    """The mean of the variances, or squares, that a normalization divides by."""
    array = host_array(ops.cast(values, "float32")).astype("float64")
    if isinstance(layer, (layers.RMSNormalization, layers.UnitNormalization)):
        return float(np.mean(np.square(array)))
    if isinstance(layer, layers.BatchNormalization):
        axis = layer.axis % array.ndim
        others = tuple(each for each in range(array.ndim) if each != axis)
        return float(np.mean(array.var(axis=others)))
    if isinstance(layer, layers.GroupNormalization):
        array = np.moveaxis(array, layer.axis, 1)
        groups = array.shape[1] if layer.groups == -1 else layer.groups
        return float(np.mean(array.reshape(len(array), groups, -1).var(axis=-1)))
    axes = getattr(layer, "axis", -1)
    return float(np.mean(array.var(axis=tuple(axes) if isinstance(axes, (list, tuple)) else axes)))
