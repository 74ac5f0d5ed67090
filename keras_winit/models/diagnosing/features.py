"""What a layer tells apart: its directions, and what can be read off it of something else."""

import math
from functools import cache
from typing import Any

import numpy as np

from keras_winit.support.products import array_product

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
