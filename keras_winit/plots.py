"""Calibrations, comparisons and reports in pictures, told apart by marks and lines, not by colour alone."""

import math
import os.path
import statistics
from collections.abc import Sequence
from typing import Any

from keras_winit.support.printing import counted

_FEW = 24  # so many layers can have their names below the picture
_FLOOR = 1e-30  # a logarithm's place for zero

# Told apart by most colour-blind eyes too.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#d55e00", "#009e73", "#666666"
_COLOURS, _STYLES = (_BLUE, _ORANGE, _GREEN, "#cc79a7", _GREY), ("-", "--", ":", "-.")


def plot_calibration(calibration: Any) -> Any:
    """The deviation of each pre-activation before and after, along depth."""
    rows = [row for row in calibration.rows if row.before is not None and row.before > 0]
    before = [row.before for row in rows]
    figure, axes = _pyplot().subplots(figsize=(_width(len(rows)), 4.2), layout="constrained")
    _line(axes, before, "before", _ORANGE, "o--")
    _line(axes, [_or_nan(row.after) for row in rows], "after", _BLUE, "s-")
    if calibration.normalized:
        size = [row.before if row.normalized else math.nan for row in rows]
        _line(axes, size, "divided out by a normalization", _GREY, "D")
    levels = [calibration.target_std] if calibration.target_std else []
    _logarithmic(axes, [*before, *levels], levels)
    axes.set_ylabel("deviation of the pre-activation")
    axes.set_title(f"Calibrated on {calibration.batch}", loc="left")
    axes.legend(frameon=False)
    _name_places(axes, [row.path if row.gate is None else f"{row.path}[{row.gate}]" for row in rows])
    return figure


def plot_report(report: Any) -> Any:
    """Signal and gradient along depth, weights against their theory, dead and saturated units."""
    width = _width(max(len(report.layers), len(report.weights)))
    figure, (top, middle, bottom) = _pyplot().subplots(
        3, 1, figsize=(width, 11), layout="constrained", height_ratios=(3, 2, 2)
    )
    _draw_signals(top, report.layers)
    _draw_weights(middle, [row for row in report.weights if row.expected])
    _draw_shares(bottom, [row for row in report.layers if row.dead is not None])
    warnings = sum(finding.severity == "warning" for finding in report.findings)
    figure.suptitle(
        f"{'healthy' if report.ok else 'not healthy'}: {counted(len(report.errors), 'error')}, "
        f"{counted(warnings, 'warning')}, on {report.batch}",
        x=0.01,
        ha="left",
    )
    return figure


def plot_comparison(comparison: Any) -> Any:
    """The loss from each start, step by step, the mean of as many steps as its last loss is of."""
    figure, axes = _pyplot().subplots(figsize=(8, 4.8), layout="constrained")
    window = comparison.window
    trials = [trial for trial in comparison.trials if trial.losses]
    for index, trial in enumerate(trials):
        ends = range(1, len(trial.losses) + 1)
        smooth = [statistics.fmean(trial.losses[max(0, end - window) : end]) for end in ends]
        label, wide = comparison.name(trial), 1.2
        if trial is comparison.winner:
            label, wide = f"{label}, the winner", 2.4
        if trial.diverged is not None:
            label += f", diverged at step {trial.diverged}"
        # Neighbours differ in colour and line.
        turn, place = divmod(index, len(_COLOURS))
        style = _STYLES[(place + turn) % len(_STYLES)]
        axes.plot(ends, smooth, label=label, color=_COLOURS[place], linestyle=style, linewidth=wide)
    if all(loss > 0 for trial in trials for loss in trial.losses):
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel(f"{comparison.monitor}, mean of {window} steps")
    axes.set_title(f"Steps of {comparison.batch} from each start", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def _draw_signals(axes: Any, rows: Sequence[Any]) -> None:
    signal = [_above_zero(row.std) for row in rows]
    last = next((row.gradient for row in reversed(rows) if row.gradient), math.nan)
    gradient = [_above_zero(_or_nan(row.gradient) / last) for row in rows]
    differs = [_above_zero(_or_nan(row.distinct)) for row in rows]
    _line(axes, signal, "signal: deviation before the activation", _BLUE, "o-")
    _line(axes, gradient, "gradient, against the last layer's", _ORANGE, "^--")
    _line(axes, differs, "share of the signal that differs between inputs", _GREEN, "x:")
    _logarithmic(axes, [*signal, *gradient, *differs], [1])
    axes.set_title("Signal and gradient along depth", loc="left")
    axes.legend(frameon=False)
    _name_places(axes, [row.path for row in rows])


def _draw_weights(axes: Any, rows: Sequence[Any]) -> None:
    axes.set_title("Weights: deviation against the theory of their initializer", loc="left")
    if not rows:
        _say(axes, "no weight whose initializer has a theory")
        return
    ratios = [_above_zero(row.std / row.expected) for row in rows]
    axes.vlines(range(len(rows)), 1, ratios, color=_GREY, linewidth=0.8)
    _line(axes, ratios, None, _BLUE, "D")
    _logarithmic(axes, [0.5, 2, *ratios], [1])
    _name_places(axes, [row.path for row in rows])


def _draw_shares(axes: Any, rows: Sequence[Any]) -> None:
    axes.set_title("Share of units that are dead, of activations that are saturated", loc="left")
    if not rows:
        _say(axes, "no layer with an activation")
        return
    places, dead = range(len(rows)), [row.dead for row in rows]
    looks = {"facecolor": "white", "edgecolor": _GREY, "hatch": "////", "label": "dead"}
    if len(rows) <= 2 * _FEW:
        axes.bar(places, dead, width=0.6, **looks)
    else:
        axes.fill_between(places, dead, step="mid", **looks)
    saturated = [_or_nan(row.saturated) for row in rows]
    if not all(map(math.isnan, saturated)):
        _line(axes, saturated, "saturated", _ORANGE, "v")
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.legend(frameon=False)
    _name_places(axes, [row.path for row in rows])


def _line(axes: Any, values: Sequence[float], label: str | None, color: str, look: str) -> None:
    """Values along depth, of a mark and a line, or a mark alone."""
    size = 6 if len(values) <= _FEW else 3
    axes.plot(range(len(values)), values, look, label=label, color=color, markersize=size, linewidth=1.2)


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


def _logarithmic(axes: Any, values: Sequence[float], levels: Sequence[float]) -> None:
    """At least a decade up and down: small differences look small. Levels are marked."""
    axes.set_yscale("log")
    good = [value for value in values if value > 0 and math.isfinite(value)] or [1.0]
    axes.set_ylim(min(0.1, min(good) / 2), max(10.0, max(good) * 2))
    for level in levels:
        axes.axhline(level, color=_GREY, linewidth=0.8, linestyle=":")


def _say(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=_GREY)
    axes.set_axis_off()


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


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
