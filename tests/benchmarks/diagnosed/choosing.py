"""Thresholds, chosen on one half of the networks alone, and what they say of the other half.

Every network is judged again by thresholds from a grid, one threshold after the other, until none changes;
from what is in use and from four random starts, of which the cheapest end counts.
A choice costs one for every 5 % of failing networks that are missed, for every 2 % of training ones that are
condemned, for every 20 % of those between without a finding and of training ones with a warning; and without
labels for every 15 % missed and 4 % condemned. Of neighbours that cost the same the middle one counts.
"""

import math
import random
from itertools import groupby

from diagnosed.figures import findings, unpacked
from diagnosed.record import OF_FIGURES, half
from keras_winit.models.diagnosing.findings import THRESHOLDS

_DIGITS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
_STEP = 0.05  # of a grid whose ends are less than a factor of two apart
# What is chosen: (threshold, 0 for its warning and 1 for its error), the least and the largest.
CHOSEN = {
    ("vanishing_gradient", 1): (1e-3, 0.2),
    ("exploding_gradient", 1): (10.0, 1e3),
    ("labels_lost", 0): (0.1, 0.5),
    ("labels_lost", 1): (0.02, 0.3),
    ("inputs_lost", 0): (0.1, 0.7),
    ("inputs_lost", 1): (0.01, 0.3),
    ("one_direction", 1): (1.05, 1.4),
    ("input_collapse", 1): (1e-7, 1e-4),
}
STARTS = 4
# kind → what is wrong → the share of networks for which it costs one
COSTS = {
    "with labels": {"missed": 0.05, "condemned": 0.02, "between": 0.2, "warned": 0.2},
    "without": {"missed": 0.15, "condemned": 0.04},
}
_OF = {"missed": "fails", "condemned": "trains", "between": "between", "warned": "trains"}


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
        """kind → what is wrong → (how many verdicts are, of how many)."""
        counts = {kind: {wrong: [0, 0] for wrong in costs} for kind, costs in COSTS.items()}
        for kind, end, others, figures in self._known:
            found = others | {severity for _, severity in findings(figures, limits)}
            is_wrong = {
                "missed": "error" not in found,
                "condemned": "error" in found,
                "between": not found & {"error", "warning"},
                "warned": bool(found & {"error", "warning"}),
            }
            for wrong, count in counts[kind].items():
                if _OF[wrong] == end:
                    count[0] += is_wrong[wrong]
                    count[1] += 1
        return counts

    def cost(self, limits):
        return sum(
            wrong / total / COSTS[kind][which]
            for kind, counts in self.wrong(limits).items()
            for which, (wrong, total) in counts.items()
            if total
        )


def choose(record, part=0):
    """Print thresholds chosen on one half, and what they say of each."""
    networks, ends = Networks(record, part), []
    for start in [dict(THRESHOLDS), *map(random_limits, range(STARTS))]:
        ends.append(descended(networks, start))
        print(f"a start ends at a cost of {networks.cost(ends[-1]):.3f}", flush=True)
    limits = min(ends, key=networks.cost)
    for each, title in ((part, "the half that thresholds were chosen on"), (1 - part, "the other half")):
        for kind, counts in Networks(record, each).wrong(limits).items():
            told = ", ".join(
                f"{which} {wrong} of {total} ({wrong / total:.1%})"
                for which, (wrong, total) in counts.items()
            )
            print(f"{title}, {kind}: {told}")
    for name, place in CHOSEN:
        print(f"{name}[{place}]: chosen {limits[name][place]:g}, in use {THRESHOLDS[name][place]:g}")


def random_limits(seed):
    limits, numbers = dict(THRESHOLDS), random.Random(seed)
    for name, place in CHOSEN:
        limits = replaced(limits, name, place, numbers.choice(grid(name, place)))
    return limits


def descended(networks, limits):
    """Thresholds from some on, one after the other at its best, until none changes."""
    before = None
    while before != limits:
        before = limits
        for name, place in CHOSEN:
            values = grid(name, place)
            costs = [networks.cost(replaced(limits, name, place, value)) for value in values]
            limits = replaced(limits, name, place, cheapest(values, costs))
    return limits


def grid(name, place):
    """The values that are tried, about equally far apart, from the least to the largest."""
    low, high = CHOSEN[name, place]
    if high / low < 2:
        return [round(low + _STEP * step, 2) for step in range(round((high - low) / _STEP) + 1)]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [float(f"{digit}e{power}") for power in powers for digit in _DIGITS]
    return [value for value in values if low <= value <= high]


def cheapest(values, costs):
    """The middle of the longest row of values that cost least."""
    least = min(costs) + 1e-9
    rows = [
        list(row)
        for low, row in groupby(zip(values, costs, strict=True), lambda each: each[1] <= least)
        if low
    ]
    longest = max(rows, key=len)
    return longest[len(longest) // 2][0]


def replaced(limits, name, place, value):
    pair = [*limits[name][:2]]
    pair[place] = value
    return limits | {name: limits[name]._replace(warning=pair[0], error=pair[1])}
