"""Calibrations, comparisons and reports in pictures, told apart by marks and lines, not by colour alone."""

import itertools
import math
import os.path
import statistics
from collections.abc import Sequence
from typing import Any

from keras_winit.support.printing import counted

_FEW = 24  # so many layers can have their names below the picture
_FLOOR = 1e-30  # a logarithm's place for zero

_BLUE, _ORANGE, _GREEN, _GREY = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#666666",
)  # told apart by most colour-blind eyes too


_COLOURS, _STYLES = (_BLUE, _ORANGE, _GREEN, "#cc79a7", _GREY), ("-", "--", ":", "-.")


def plot_calibration(calibration: Any) -> Any:
    """The deviation of each pre-activation before and after, along depth."""
    plt = _pyplot()
    rows = [row for row in calibration.rows if row.before is not None and row.before > 0]
    names = [row.path if row.gate is None else f"{row.path}[{row.gate}]" for row in rows]
    figure, axes = plt.subplots(figsize=(_width(len(rows)), 4.2), layout="constrained")
    places = range(len(rows))
    _line(axes, places, [row.before for row in rows], "before", _ORANGE, marker="o", style="--")
    after = [row.after if row.after is not None else math.nan for row in rows]
    _line(axes, places, after, "after", _BLUE, marker="s", style="-")
    if calibration.normalized:
        size = [row.before if row.normalized else math.nan for row in rows]
        _line(axes, places, size, "divided out by a normalization", _GREY, marker="D", style="")
    targets = [calibration.target_std] if calibration.target_std else []
    for target in targets:
        axes.axhline(target, color=_GREY, linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    _decade(axes, [*[row.before for row in rows], *targets])
    axes.set_ylabel("deviation of the pre-activation")
    axes.set_title(f"Calibrated on {calibration.batch}", loc="left")
    axes.legend(frameon=False)
    _name_places(axes, names)
    return figure


def plot_report(report: Any) -> Any:
    """Signal and gradient along depth, weights against their theory, dead and saturated units."""
    plt = _pyplot()
    count = max(len(report.layers), len(report.weights))
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(_width(count), 11), layout="constrained", height_ratios=(3, 2, 2)
    )
    _draw_signals(top, report)
    _draw_weights(middle, report)
    _draw_shares(bottom, report)
    errors = len(report.errors)
    warnings = sum(finding.severity == "warning" for finding in report.findings)
    figure.suptitle(
        f"{'healthy' if report.ok else 'not healthy'}: {counted(errors, 'error')}, "
        f"{counted(warnings, 'warning')}, on {report.batch}",
        x=0.01,
        ha="left",
    )
    return figure


def plot_comparison(comparison: Any) -> Any:
    """The loss from each start, step by step, the mean of as many steps as its last loss is of."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    trials = [trial for trial in comparison.trials if trial.losses]
    for trial, (color, style) in zip(trials, itertools.cycle(_looks())):
        smooth = _running_mean(trial.losses, comparison.window)
        label = comparison.name(trial)
        if trial is comparison.winner:
            label += ", the winner"
        if trial.diverged is not None:
            label += f", diverged at step {trial.diverged}"
        wide = 2.4 if trial is comparison.winner else 1.2
        axes.plot(
            range(1, len(smooth) + 1), smooth, label=label, color=color, linestyle=style, linewidth=wide
        )
    if all(loss > 0 for trial in trials for loss in trial.losses):
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel(f"{comparison.monitor}, mean of {comparison.window} steps")
    axes.set_title(f"Steps of {comparison.batch} from each start", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def _looks() -> list[tuple[str, str]]:
    """Colours and lines, neighbours of which differ in both."""
    return [
        (colour, _STYLES[(index + turn) % len(_STYLES)])
        for turn in range(len(_STYLES))
        for index, colour in enumerate(_COLOURS)
    ]


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    """At each place the mean of the values before it, of as many as there are and the window takes."""
    return [statistics.fmean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]


def _draw_signals(axes: Any, report: Any) -> None:
    rows = report.layers
    places = range(len(rows))
    signal = [_above_zero(row.std) for row in rows]
    last = next((row.gradient for row in reversed(rows) if row.gradient), None)
    gradient = [
        _above_zero(row.gradient / last) if last and row.gradient is not None else math.nan for row in rows
    ]
    _line(axes, places, signal, "signal: deviation before the activation", _BLUE, marker="o", style="-")
    _line(axes, places, gradient, "gradient, against the last layer's", _ORANGE, marker="^", style="--")
    differs = [math.nan if row.distinct is None else _above_zero(row.distinct) for row in rows]
    _line(
        axes,
        places,
        differs,
        "share of the signal that differs between inputs",
        _GREEN,
        marker="x",
        style=":",
    )
    axes.set_yscale("log")
    _decade(axes, [*signal, *gradient, *differs])
    axes.axhline(1, color=_GREY, linewidth=0.8, linestyle=":")
    axes.set_title("Signal and gradient along depth", loc="left")
    axes.legend(frameon=False)
    _name_places(axes, [row.path for row in rows])


def _draw_weights(axes: Any, report: Any) -> None:
    rows = [row for row in report.weights if row.expected]
    ratios = [_above_zero(row.std / row.expected) for row in rows if row.expected]
    axes.set_title("Weights: deviation against the theory of their initializer", loc="left")
    if not rows:
        _say(axes, "no weight whose initializer has a theory")
        return
    places = range(len(rows))
    axes.vlines(places, 1, ratios, color=_GREY, linewidth=0.8)
    _line(axes, places, ratios, None, _BLUE, marker="D", style="")
    axes.set_yscale("log")
    _decade(axes, [0.5, 2, *ratios])
    axes.axhline(1, color=_GREY, linewidth=0.8, linestyle=":")
    _name_places(axes, [row.path for row in rows])


def _draw_shares(axes: Any, report: Any) -> None:
    rows = [row for row in report.layers if row.dead is not None]
    axes.set_title("Share of units that are dead, of activations that are saturated", loc="left")
    if not rows:
        _say(axes, "no layer with an activation")
        return
    places = range(len(rows))
    dead = [row.dead if row.dead is not None else math.nan for row in rows]
    saturated = [row.saturated if row.saturated is not None else math.nan for row in rows]
    looks = {"facecolor": "white", "edgecolor": _GREY, "hatch": "////", "label": "dead"}
    if len(rows) <= 2 * _FEW:
        axes.bar(places, dead, width=0.6, **looks)
    else:
        axes.fill_between(places, dead, step="mid", **looks)
    if any(not math.isnan(share) for share in saturated):
        _line(axes, places, saturated, "saturated", _ORANGE, marker="v", style="")
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.legend(frameon=False)
    _name_places(axes, [row.path for row in rows])


def _line(
    axes: Any, places: Any, values: Sequence[Any], label: str | None, color: str, *, marker: str, style: str
) -> None:
    size = 6 if len(values) <= _FEW else 3
    axes.plot(
        places,
        values,
        label=label,
        color=color,
        marker=marker,
        linestyle=style,
        markersize=size,
        linewidth=1.2,
    )


def _name_places(axes: Any, names: Sequence[str]) -> None:
    """Layer names below a few layers; numbers below many."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(-0.5, max(len(names) - 0.5, 0.5))
    if len(names) <= _FEW:
        common = os.path.commonpath(names) if len(names) > 1 else ""
        names = [name.removeprefix(common + "/") for name in names]
        shown = [name if len(name) <= 34 else "…" + name[-33:] for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=40, ha="right", fontsize=8)
    else:
        axes.set_xlabel("layer, in the order in which they are called")


def _decade(axes: Any, values: Sequence[float]) -> None:
    """Never less than a decade up and down: small differences look small."""
    good = [value for value in values if value > 0 and math.isfinite(value)] or [1.0]
    axes.set_ylim(min(0.1, min(good) / 2), max(10.0, max(good) * 2))


def _say(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=_GREY)
    axes.set_axis_off()


def _above_zero(value: float) -> float:
    return max(value, _FLOOR) if math.isfinite(value) else math.nan


def _width(count: int) -> float:
    return min(16.0, max(8.0, 0.45 * count))


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "keras-winit[plots]".') from error
    return plt
