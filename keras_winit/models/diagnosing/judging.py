"""Findings from what each layer does with a batch."""

import itertools
import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from typing import Any

from keras_winit.models.diagnosing.findings import Remedies, Threshold, severity_of
from keras_winit.models.diagnosing.reading import SCATTERED, Left, near_a_line, places_alike
from keras_winit.models.diagnosing.report import Finding
from keras_winit.models.diagnosing.seen import Seen
from keras_winit.models.diagnosing.signals import Signals

_SEVERAL = 5  # layers: in fewer, an optimizer that adapts makes up for a small gradient
_LONG = 40  # layers, for which thresholds of whole chains are given
_VERY_LONG = 80  # layers
_NEAR_A_LINE = 2.0  # directions, when the gradient falls too
_SCALE = 100.0  # a signal of a deviation up to this, and down to its inverse, has a scale to go by

_FALLS = "falls to 1/{0} of {1} here, and to 1/{2} at {3}."
_GROWS = "grows to {0} times {1} here, and to {2} times at {3}."
_SIGNAL, _GRADIENT = "what enters the model", "the last hidden layer's"
# What is seen, and against what.
_WHAT = {
    "vanishing_signal": (f"The signal {_FALLS}", _SIGNAL),
    "exploding_signal": (f"The signal {_GROWS}", _SIGNAL),
    "input_collapse": (f"What differs between inputs {_FALLS}", "its share in the inputs"),
    "vanishing_gradient": (f"The gradient {_FALLS}", _GRADIENT),
    "exploding_gradient": (f"The gradient {_GROWS}", _GRADIENT),
}
_STANDARDIZE = (
    "Standardize the data: put `keras.layers.Normalization()`, adapted to it, before this layer; or fit the "
    "kernels to it, `calibrate(model, data)`."
)
_DOWNWARDS = ("vanishing_signal", "vanishing_gradient", "input_collapse")


class Judge:
    """Says of figures whether they are findings.

    Args:
        limits: the thresholds.
        remedies: those of the model.
        left: what is left of what the inputs tell.
        inside: the paths of layers in residual branches, whose gradients are as small as their branch.
        attends: whether it is a long stream of branches with attention, which can make all places alike.
    """

    def __init__(
        self,
        limits: Mapping[str, Threshold],
        remedies: Remedies,
        left: Left,
        inside: Container[str] = (),
        *,
        attends: bool = False,
    ) -> None:
        self._inside = inside
        self.attends = attends
        self.limits = limits
        self.remedies = remedies
        self._left = left

    def findings(self, seen: Signals) -> Iterator[Finding]:
        """What is wrong with the signals and gradients of a model."""
        broken = next((layer for layer in seen.layers if not layer.finite), None)
        if broken is not None:
            remedy = "Look at its weights and at what feeds it, then draw it anew: `initialize(model)`."
            if seen.input_std > 1 and self.severity("unscaled_data", seen.input_std):
                remedy = f"What enters the model has a deviation of {seen.input_std:.3g}. {_STANDARDIZE}"
            yield Finding(
                "non_finite", "error", broken.path, "What it computes is NaN or infinite.", {}, remedy
            )
        healthy = [layer for layer in seen.layers if layer.finite]
        weighted = [layer for layer in healthy if layer.weighted]
        unscaled = list(self._of_data(seen, weighted)) if weighted else []
        yield from unscaled
        if any(finding.severity == "error" for finding in unscaled):
            return  # all else follows from it, or is seen once it is mended
        for layer in healthy:
            yield from self._of_units(layer)
        if weighted:
            yield from self._of_signal(weighted, seen.input_std)
            graded = self._graded(weighted)
            yield from self._of_gradient(*graded, seen)
            yield from self._of_differences(weighted, seen)
            yield from self._of_labels(seen.rank)

    def _of_data(self, seen: Signals, weighted: list[Seen]) -> Iterator[Finding]:
        """Data of a scale that no initializer reckons with, and that the first layer hands on."""
        given, first = seen.input_std, weighted[0].std
        of_data = weighted[0].path == seen.input_at  # and not of an embedding
        if not of_data or not given > 0 or not first > 0 or (len(weighted) > 1 and weighted[1].normalized):
            return
        # How far both are from one, in the same direction.
        far = min(given, first) if given > 1 else min(1 / given, 1 / first)
        severity = self.severity("unscaled_data", far)
        if severity:
            yield Finding(
                "unscaled_data",
                severity,
                weighted[0].path,
                f"What enters it has a deviation of {given:.3g}, and it hands that on: {first:.3g}.",
                {"input": given, "first": first},
                _STANDARDIZE,
            )

    def _of_signal(self, weighted: list[Seen], input_std: float) -> Iterator[Finding]:
        """How the signal grows or falls along depth, answers apart, which have a size of their own."""
        start, behind = self._starts(weighted, input_std)
        hidden = [layer for layer in weighted if not layer.answer]
        if not start > 0 or not hidden:
            return
        normal = min(start, behind) if behind > 0 else start
        ratios = [layer.std / (normal if layer.normalized else start) for layer in hidden]
        yield from self._first_beyond("vanishing_signal", hidden, _lasting(ratios))
        yield from self._first_beyond("exploding_signal", hidden, ratios)

    @staticmethod
    def _starts(weighted: list[Seen], input_std: float) -> tuple[float, float]:
        """The deviation that signals start with, and that of the first signal behind a normalization."""
        first = weighted[0].std
        start = first if 1 / _SCALE <= first <= _SCALE else input_std if input_std > 0 else first
        return start, next((layer.std for layer in weighted if layer.normalized), 0.0)

    def _graded(self, weighted: list[Seen]) -> tuple[list[Seen], list[float]]:
        """The hidden layers from the last to the first, and their gradients against the last one's."""
        graded = [layer for layer in reversed(weighted) if layer.gradient is not None and not layer.answer]
        outside = [layer for layer in graded if layer.path not in self._inside]
        last = next((layer.gradient for layer in (*outside, *graded) if layer.gradient), None)
        if last is None:
            return [], []
        start, behind = self._starts(weighted, weighted[0].std)
        normal = min(start, behind)
        ratios = []
        for layer in graded:
            # Before a normalization, a gradient is as much smaller as the signal is larger.
            share = layer.std / normal if behind > 0 and not layer.normalized else 1.0
            ratios.append((layer.gradient or 0.0) / last * max(share, 1.0))
        return graded, ratios

    def _of_gradient(self, graded: list[Seen], ratios: list[float], seen: Signals) -> Iterator[Finding]:
        """How the gradient of a sample grows or falls from the last hidden layer to the first."""
        if not graded:
            return
        if not self.remedies.plain:
            yield from self._first_beyond("vanishing_gradient", graded, _lasting(ratios), "_elsewhere")
            yield from self._first_beyond("exploding_gradient", graded, ratios, "_elsewhere")
            return
        suffix = "" if len(graded) >= _SEVERAL else "_elsewhere"  # there the learning rate makes up for it
        for finding in self._first_beyond("vanishing_gradient", graded, _lasting(ratios), suffix):
            # It tells even less where inputs lie near a line.
            near_a_line = not suffix and bool(seen.features) and seen.rank < _NEAR_A_LINE
            yield replace(finding, severity="error") if near_a_line else finding
        yield from self._of_inputs(len(graded), ratios[-1])
        # What all layers learn adds up. And a gradient that is large may tell inputs apart, or scatter them.
        share = len(graded) / _LONG
        kept = self._left.inputs if self._left.inputs is not None else -1.0
        lost = self.severity("inputs_lost", kept, below=True)
        small = max(ratios) < self.limits["exploding_gradient_elsewhere"].warning
        learns = small and seen.rank >= SCATTERED and len(graded) < _VERY_LONG
        for finding in self._first_beyond("exploding_gradient", graded, [share * each for each in ratios]):
            if lost:
                figures = {name: each / share for name, each in finding.figures.items()}
                milder = "warning" if lost == "warning" or learns else finding.severity
                yield replace(finding, severity=milder, figures=figures)

    def _of_inputs(self, length: int, growth: float) -> Iterator[Finding]:
        """Without labels: long chains that scatter inputs, so that nothing of them is read off the end."""
        left = self._left
        if left.labels is not None or left.inputs is None or length < _LONG or growth <= 1:
            return
        if self.severity("inputs_lost", left.inputs, below=True) == "error":
            yield Finding(
                "inputs_lost",
                "error",
                "the last hidden features",
                f"Of the inputs' variance, {max(left.inputs, 0.0):.0%} can be read off them: what is near "
                "comes to lie far apart.",
                {"inputs": left.inputs},
                self.remedies.scale,
            )

    def _of_differences(self, weighted: list[Seen], seen: Signals) -> Iterator[Finding]:
        """Whether different inputs still look different at depth, and in more than one way."""
        hidden = [layer for layer in weighted if not layer.answer]
        known = [layer for layer in hidden if layer.distinct is not None]
        power = seen.input_distinct or next((layer.distinct for layer in known if layer.distinct), None)
        if power and known:
            # What is small in a side branch and whole in what the last layers read has not collapsed.
            final = seen.share or 0.0
            shares = [(layer.distinct or 0.0) / power for layer in known]
            falls = [min(fall, 1 / final if final > 0 else math.inf) for fall in _lasting(shares)]
            yield from self._first_beyond("input_collapse", known, falls)
        ranked = [layer for layer in hidden if layer.rank is not None]
        given = seen.input_rank
        if ranked and given is not None and given > 2 * self.limits["one_direction"].warning:
            yield from near_a_line(
                self.limits, self.remedies, ranked, given=given, last=seen.rank, told=self._left.labels
            )
        if self.attends and ranked:
            yield from places_alike(self.limits, self.remedies, ranked, seen.rank)

    def _of_labels(self, rank: float) -> Iterator[Finding]:
        """Labels that can be read off the inputs, and no longer off the last features, of a rank."""
        left = self._left
        if left.labels is None or left.given is None or not left.shares:
            return
        warning, error = self.limits["labels_lost"][:2]
        length = len(left.shares)
        warning, error = warning * min(2 * length / _LONG, 1.0), error * length / _LONG
        if left.labels >= warning:
            return
        # What is scattered, and has not collapsed, can yet be learned, if not through very many layers.
        if length >= _VERY_LONG:
            error = warning
        elif rank >= SCATTERED:
            error = -math.inf
        lost = left.labels + left.chance < error and self.remedies.plain  # one that pools may yet learn
        yield Finding(
            "labels_lost",
            "error" if lost else "warning",
            left.lost_at(warning),
            f"The labels can be read off the inputs, {left.given:.0%} of the way from guessing to certainty, "
            f"and hardly from here on: {max(left.labels, 0.0) * left.given:.0%} off the last features.",
            {"inputs": left.given, "features": left.labels * left.given, "ratio": left.labels},
            self.remedies.scale,
        )

    def severity(self, code: str, figure: float, *, below: bool = False) -> str | None:
        """How severe a figure is above its threshold, or below it; None where it is none."""
        return severity_of(self.limits[code], figure, below=below)

    def _first_beyond(
        self, code: str, layers: list[Seen], figures: list[float], suffix: str = ""
    ) -> Iterator[Finding]:
        """The first layer whose figure is beyond the threshold, with how far it goes."""
        limit = self.limits[code + suffix]
        warning, error = limit.warning, limit.error
        if code in _DOWNWARDS:
            warning, error = (1 / bound if bound > 0 else math.inf for bound in (warning, error))
        worst = max(figures)
        if not worst > warning:
            return
        severity, bound = ("error", error) if worst > error else ("warning", warning)
        first = next(index for index, figure in enumerate(figures) if figure > bound)
        message, against = _WHAT[code]
        at = layers[figures.index(worst)].path
        text = message.format(f"{figures[first]:.3g}", against, f"{worst:.3g}", at)
        figure = {"ratio": figures[first], "worst": worst}
        yield Finding(code, severity, layers[first].path, text, figure, self.remedies.scale)

    def _of_units(self, layer: Seen) -> Iterator[Finding]:
        dead = "Draw it anew with biases of zero, `initialize(model)`, or use leaky_relu."
        for code, figure, message, remedy in (
            ("dead_units", layer.dead, "{:.0%} of its units give the same for every input.", dead),
            (
                "saturated",
                None if layer.answer else layer.saturated,  # what is rare starts near zero
                "{:.0%} of its activations are at the ends of the function, where it is flat.",
                self.remedies.size,
            ),
        ):
            severity = None if figure is None else self.severity(code, figure)
            if severity and figure is not None:
                yield Finding(code, severity, layer.path, message.format(figure), {"share": figure}, remedy)


def _lasting(ratios: list[float]) -> list[float]:
    """How far each figure has fallen for good: by the largest that is still to come.

    What is small in a side branch, such as a gate or a scaled residual, and is whole again after it,
    has not vanished.
    """
    peaks: list[Any] = list(itertools.accumulate(reversed(ratios), max))[::-1]
    return [1 / peak if peak > 0 else math.inf for peak in peaks]
