"""The figures that a diagnosis judges: kept as numbers, and judged again by other thresholds.

Drawing a network and sending a batch through it takes a tenth of a second or more, judging its figures a
millisecond: `findings` does it with the `Judge` that `diagnose` uses.
"""

import math
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from keras_winit.models.diagnosing import diagnose as diagnosing
from keras_winit.models.diagnosing.judging import Judge
from keras_winit.models.diagnosing.reading import Left
from keras_winit.models.diagnosing.seen import Seen
from keras_winit.models.diagnosing.signals import Signals

OF_LAYERS = (
    "weighted",
    "normalized",
    "answer",
    "finite",
    "std",
    "distinct",
    "rank",
    "dead",
    "saturated",
    "gradient",
)
FLAGS = 4
OF_LEFT = ("labels", "given", "inputs", "chance")
OWN_RANK = 3  # the place of the last features' rank among a network's own figures
DIGITS = 3


@contextmanager
def kept(figures):
    """Append the figures of each diagnosis in the block to a list."""

    class Keeping(Judge):
        def findings(self, seen):
            figures.append(packed(seen, self._left, self.remedies, self.attends))
            return super().findings(seen)

    usual = diagnosing.Judge
    diagnosing.Judge = Keeping
    try:
        yield figures
    finally:
        diagnosing.Judge = usual


def packed(seen, left, remedies, attends):
    """The figures as a matrix: a first row of the network's own, then one for each layer."""
    weighted = [layer for layer in seen.layers if layer.weighted]
    own = (
        seen.input_std,
        seen.input_distinct,
        seen.input_rank,
        seen.rank,
        seen.share,
        len(left.shares),
        remedies.plain + 2 * bool(seen.features) + 4 * (weighted[0].path == seen.input_at) + 8 * attends,
    )
    rows = [[getattr(layer, name) for name in OF_LAYERS] for layer in seen.layers]
    first = [*own, *(getattr(left, name) for name in OF_LEFT)]
    width = max(len(first), len(OF_LAYERS))
    rows = [row + [None] * (width - len(row)) for row in (first, *rows)]
    found = np.array([[math.nan if each is None else float(each) for each in row] for row in rows])
    short = rounded(found)
    # Many ranks are near a threshold: they are kept whole.
    short[0, OWN_RANK] = found[0, OWN_RANK]
    short[1:, OF_LAYERS.index("rank")] = found[1:, OF_LAYERS.index("rank")]
    return short


def rounded(array):
    """As float32 of three digits, which packs well."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 10.0 ** (DIGITS - 1 - np.floor(np.log10(np.abs(array))))
        digits = np.round(array * scale) / scale
    return np.where(np.isfinite(digits), digits, array).astype("float32")


class Recorded(Signals):
    """Signals of which the sketches were not kept, but what follows from them."""

    rank = share = input_rank = None


def unpacked(array):
    """Of a matrix as `packed` makes it: the signals, what is left, remedies without words, `attends`."""
    own = [None if math.isnan(each) else float(each) for each in array[0]]
    flags = int(own[6])
    rows = [
        Seen(
            str(index),
            None,
            **{
                name: bool(each) if place < FLAGS else None if math.isnan(each) else float(each)
                for place, (name, each) in enumerate(zip(OF_LAYERS, row, strict=False))
            },
        )
        for index, row in enumerate(array[1:])
    ]
    seen = Recorded(rows, [], input_distinct=own[1], features=[(None, None)] if flags & 2 else [])
    seen.input_std = math.nan if own[0] is None else own[0]
    seen.input_rank, seen.rank, seen.share = own[2], own[3], own[4]
    first = next((layer.path for layer in rows if layer.weighted), "")
    seen.input_at = first if flags & 4 else "elsewhere"
    labels, given, inputs, chance = own[7:11]
    left = Left(labels, given, (("", 0.0),) * int(own[5]), inputs, chance or 0.0)
    remedies = SimpleNamespace(plain=bool(flags & 1), scale="", size="", places="")
    return seen, left, remedies, bool(flags & 8)


def findings(figures, limits):
    """What a `Judge` finds in unpacked figures: (code, severity)."""
    seen, left, remedies, attends = figures
    judge = Judge(limits, remedies, left, attends=attends)
    return [[each.code, each.severity] for each in judge.findings(seen)]


def save(path, known):
    """Write matrices by their names to one file."""
    names = list(known)
    values = np.concatenate([known[name] for name in names])
    np.savez_compressed(path, names=names, lengths=[len(known[name]) for name in names], values=values)


def load(path):
    """What `save` wrote."""
    with np.load(path) as file:
        ends = np.cumsum(file["lengths"])[:-1]
        return dict(zip(file["names"].tolist(), np.split(file["values"], ends), strict=True))
