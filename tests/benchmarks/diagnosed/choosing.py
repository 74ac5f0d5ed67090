"""Thresholds, chosen on one half of the networks alone, and what they say of the other half.

Every network is judged again by thresholds from a grid, one threshold after the other, until none changes.
A choice costs one for every 5 % of failing networks that are missed, for every 2 % of training ones that are
condemned, for every 20 % of those between without a finding, and without labels for every 15 % and 4 %. A
cost is averaged with those of the neighbours on the grid, half against a quarter each, so that what is chosen
lies in a broad valley and not at its edge.
"""

import math

from diagnosed.figures import findings, unpacked
from diagnosed.record import OF_FIGURES, half
from keras_winit.models.diagnosing.thresholds import THRESHOLDS

_DIGITS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
# What is chosen: (threshold, 0 for its warning and 1 for its error), the least and the largest.
CHOSEN = {
    ("vanishing_gradient", 1): (1e-3, 0.2),
    ("telling_gradient", 1): (1e-5, 1e-2),
    ("exploding_gradient", 1): (10.0, 1e3),
    ("labels_lost", 0): (0.1, 0.7),
    ("labels_lost", 1): (0.02, 0.3),
    ("labels_lost_and_gradient", 1): (0.02, 1.0),
    ("inputs_lost", 0): (0.1, 0.7),
    ("inputs_lost", 1): (0.01, 0.3),
    ("one_direction", 1): (1.05, 1.5),
    ("input_collapse", 1): (1e-7, 1e-3),
}
COSTS = {  # kind → outcome → how large a share of verdicts may be wrong
    "with labels": {"fails": 0.05, "between": 0.2, "trains": 0.02},
    "without": {"fails": 0.15, "trains": 0.04},
}


class Networks:
    """The networks of one half, each judged again by any thresholds.

    Args:
        record: a `Record` with its figures.
        part: which half.
    """

    def __init__(self, record, part):
        self._known = []
        for task, cell, method, end, told in record.rows():
            for kind in COSTS if half(cell) == part else ():
                others = {severity for code, severity in told[kind]["findings"] if code not in OF_FIGURES}
                figures = unpacked(record.figures[f"{task} {cell} | {method} | {kind}"])
                self._known.append((kind, end, others, figures))

    def wrong(self, limits):
        """kind → outcome → (how many verdicts are wrong, of how many)."""
        counts = {kind: {end: [0, 0] for end in ends} for kind, ends in COSTS.items()}
        for kind, end, others, figures in self._known:
            if end in counts[kind]:
                found = others | {severity for _, severity in findings(figures, limits)}
                right = {
                    "fails": "error" in found,
                    "between": bool(found & {"error", "warning"}),
                    "trains": "error" not in found,
                }
                counts[kind][end][0] += not right[end]
                counts[kind][end][1] += 1
        return counts

    def cost(self, limits):
        return sum(
            wrong / total / COSTS[kind][end]
            for kind, ends in self.wrong(limits).items()
            for end, (wrong, total) in ends.items()
            if total
        )


def choose(record):
    """Print thresholds chosen on the first half, and what they say of each half."""
    networks = Networks(record, 0)
    limits = dict(THRESHOLDS)
    for name, place in CHOSEN:  # from the middle of the grid, not from what is in use
        limits = replaced(limits, name, place, middle(grid(name, place)))
    before = None
    while before != limits:
        before = limits
        for name, place in CHOSEN:
            values = grid(name, place)
            costs = [networks.cost(replaced(limits, name, place, value)) for value in values]
            smooth = smoothed(costs)
            best = middle([value for value, each in zip(values, smooth, strict=True) if each == min(smooth)])
            limits = replaced(limits, name, place, best)
            print(f"{name}[{place}] {best:g}, at a cost of {costs[values.index(best)]:.3f}", flush=True)
    for part, title in enumerate(("the half that thresholds were chosen on", "the other half")):
        for kind, ends in Networks(record, part).wrong(limits).items():
            told = ", ".join(
                f"{end} {wrong}/{total} ({wrong / total:.1%})" for end, (wrong, total) in ends.items()
            )
            print(f"{title}, {kind}, wrong: {told}")
    for name, place in CHOSEN:
        print(f"{name}[{place}]: chosen {limits[name][place]:g}, in use {THRESHOLDS[name][place]:g}")


def grid(name, place):
    """The values that are tried, about equally far apart, from the least to the largest."""
    low, high = CHOSEN[name, place]
    if high / low < 2:
        return [round(low + 0.05 * step, 2) for step in range(round((high - low) / 0.05) + 1)]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [digit * 10.0**power for power in powers for digit in _DIGITS]
    return [value for value in values if low <= value * (1 + 1e-9) and value <= high * (1 + 1e-9)]


def middle(values):
    return values[len(values) // 2]


def smoothed(costs):
    """Each cost averaged with its neighbours; beyond an end it goes on as there."""
    padded = [costs[0], *costs, costs[-1]]
    return [
        0.25 * before + 0.5 * here + 0.25 * after
        for before, here, after in zip(padded, padded[1:], padded[2:], strict=False)
    ]


def replaced(limits, name, place, value):
    pair = [*limits[name][:2]]
    pair[place] = value
    return limits | {name: limits[name]._replace(warning=pair[0], error=pair[1])}
