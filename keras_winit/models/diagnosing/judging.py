"""Findings from what each layer does with a batch."""

import itertools
import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace

from keras_winit.models.diagnosing.findings import Remedies, Threshold
from keras_winit.models.diagnosing.reading import Left
from keras_winit.models.diagnosing.report import Finding
from keras_winit.models.diagnosing.seen import Seen
from keras_winit.models.diagnosing.signals import Signals

_SEVERAL = 5  # layers: in fewer, an optimizer that adapts makes up for a small gradient
_LONG = 40  # layers, for which thresholds of whole chains are given
_VERY_LONG = 80  # layers
_NEAR_A_LINE = 2.0  # directions, when the gradient falls too
_SCATTERED = 10.0  # directions that inputs fill which have not collapsed
_HALF, _TELLING = 0.5, 0.7  # of what the labels could be read off the inputs
_SCALE = 100.0  # a deviation up to this, and down to its inverse, is a scale to go by

_FALLS = "falls to 1/{0} of {1} here, and to 1/{2} at {3}."
_GROWS = "grows to {0} times {1} here, and to {2} times at {3}."
_WHAT = {
    "vanishing_signal": (f"The signal {_FALLS}", "what enters the model"),
    "exploding_signal": (f"The signal {_GROWS}", "what enters the model"),
    "input_collapse": (f"What differs between inputs {_FALLS}", "its share in the inputs"),
    "vanishing_gradient": (f"The gradient {_FALLS}", "the last hidden layer's"),
    "exploding_gradient": (f"The gradient {_GROWS}", "the last hidden layer's"),
}
_STANDARDIZE = (
    "Standardize the data: put `keras.layers.Normalization()`, adapted to it, before this layer; or fit the "
    "kernels to it, `calibrate(model, data)`."
)


@dataclass
class Judge:
    """Says of figures whether they are findings."""

    limits: Mapping[str, Threshold]
    remedies: Remedies
    _left: Left
    _inside: Container[str] = ()  # paths in residual branches, whose gradients are as small as their branch
    attends: bool = field(default=False, kw_only=True)  # in a stream long enough to make places alike

    def above(
        self, code: str, figure: float, path: str, message: str, *, figures: dict[str, float], remedy: str
    ) -> Iterator[Finding]:
        """The finding, if the figure is above the threshold."""
        severity = self.limits[code].severity(figure)
        if severity:
            yield Finding(code, severity, path, message, figures, remedy)

    def findings(self, seen: Signals) -> Iterator[Finding]:
        """What is wrong with signals and gradients."""
        broken = next((layer for layer in seen.layers if not layer.finite), None)
        if broken is not None:
            remedy = "Look at its weights and at what feeds it, then draw it anew: `initialize(model)`."
            if seen.input_std > 1 and self.limits["unscaled_data"].severity(seen.input_std):
                remedy = f"What enters the model has a deviation of {seen.input_std:.3g}. {_STANDARDIZE}"
            yield Finding(
                "non_finite", "error", broken.path, "What it computes is NaN or infinite.", {}, remedy
            )
        healthy = [layer for layer in seen.layers if layer.finite]
        weighted = [layer for layer in healthy if layer.weighted]
        unscaled = list(self._of_data(seen, weighted)) if weighted else []
        yield from unscaled
        if any(finding.severity == "error" for finding in unscaled):
            return  # all else may follow from it
        for layer in healthy:
            yield from self._of_units(layer)
        if weighted:
            # Signals start with `first`, behind a normalization with `behind`; answers have their own size.
            hidden = [layer for layer in weighted if not layer.answer]
            first, behind = weighted[0].std, next((each.std for each in weighted if each.normalized), 0.0)
            yield from self._of_signal(hidden, seen.input_std, first, behind)
            yield from self._of_gradient(hidden, seen, first, behind)
            yield from self._of_differences(hidden, seen)
            yield from self._of_labels(seen.rank)

    def _of_data(self, seen: Signals, weighted: list[Seen]) -> Iterator[Finding]:
        """Data of a scale that no initializer reckons with, and that the first layer hands on."""
        given, first = seen.input_std, weighted[0].std
        of_data = weighted[0].path == seen.input_at  # and not of an embedding
        if not of_data or not given > 0 or not first > 0 or (len(weighted) > 1 and weighted[1].normalized):
            return
        yield from self.above(
            "unscaled_data",
            # How far both are from one, in the same direction.
            min(given, first) if given > 1 else min(1 / given, 1 / first),
            weighted[0].path,
            f"What enters it has a deviation of {given:.3g}, and it hands that on: {first:.3g}.",
            figures={"input": given, "first": first},
            remedy=_STANDARDIZE,
        )

    def _of_units(self, layer: Seen) -> Iterator[Finding]:
        dead, flat = layer.dead, layer.saturated
        if dead is not None:
            yield from self.above(
                "dead_units",
                dead,
                layer.path,
                f"{dead:.0%} of its units give the same for every input.",
                figures={"share": dead},
                remedy="Draw it anew with biases of zero, `initialize(model)`, or use leaky_relu.",
            )
        if flat is not None and not layer.answer:  # what is rare starts near zero
            yield from self.above(
                "saturated",
                flat,
                layer.path,
                f"{flat:.0%} of its activations are at the ends of the function, where it is flat.",
                figures={"share": flat},
                remedy=self.remedies.size,
            )

    def _of_signal(self, hidden: list[Seen], given: float, first: float, behind: float) -> Iterator[Finding]:
        """How the signal grows or falls along depth."""
        start = first if 1 / _SCALE <= first <= _SCALE or not given > 0 else given
        if not start > 0 or not hidden:
            return
        normal = min(start, behind) if behind > 0 else start
        ratios = [layer.std / (normal if layer.normalized else start) for layer in hidden]
        yield from self._first_beyond("vanishing_signal", hidden, ratios)
        yield from self._first_beyond("exploding_signal", hidden, ratios)

    def _of_gradient(
        self, hidden: list[Seen], seen: Signals, first: float, behind: float
    ) -> Iterator[Finding]:
        """How a sample's gradient grows or falls from the last hidden layer to the first."""
        graded = [layer for layer in reversed(hidden) if layer.gradient is not None]
        outside = [layer for layer in graded if layer.path not in self._inside]
        last = next((layer.gradient for layer in (*outside, *graded) if layer.gradient), None)
        if last is None:
            return
        ratios, least = [], min(first, behind)
        for layer in graded:
            # Before a normalization, a gradient is as much smaller as the signal is larger.
            share = layer.std / least if least > 0 and not layer.normalized else 1.0
            ratios.append((layer.gradient or 0.0) / last * max(share, 1.0))
        length, plain = len(graded), self.remedies.plain
        suffix = "" if plain and length >= _SEVERAL else "_elsewhere"
        for finding in self._first_beyond("vanishing_gradient", graded, ratios, suffix):
            # Worse where inputs lie near a line.
            near_a_line = not suffix and bool(seen.features) and seen.rank < _NEAR_A_LINE
            yield replace(finding, severity="error") if near_a_line else finding
        if not plain:
            yield from self._first_beyond("exploding_gradient", graded, ratios, "_elsewhere")
            return
        left = self._left
        kept = -1.0 if left.inputs is None else left.inputs
        lost = self.limits["inputs_lost"].severity(kept, below=True)
        if not lost:
            return
        grows = length >= _LONG and not ratios[-1] <= 1
        if grows and left.labels is None and left.inputs is not None and lost == "error":
            yield Finding(
                "inputs_lost",
                "error",
                "the last hidden features",
                f"Of the inputs' variance, {max(kept, 0.0):.0%} can be read off them: what is near "
                "comes to lie far apart.",
                {"inputs": kept},
                self.remedies.scale,
            )
        # What all layers learn adds up. And a gradient that is large may tell inputs apart, or scatter them.
        share = length / _LONG
        small = max(ratios) < self.limits["exploding_gradient_elsewhere"].warning
        learns = small and seen.rank >= _SCATTERED and length < _VERY_LONG
        for finding in self._first_beyond("exploding_gradient", graded, [share * each for each in ratios]):
            figures = {name: each / share for name, each in finding.figures.items()}
            milder = "warning" if lost == "warning" or learns else finding.severity
            yield replace(finding, severity=milder, figures=figures)

    def _of_differences(self, hidden: list[Seen], seen: Signals) -> Iterator[Finding]:
        """Whether different inputs still look different, and in more than one way."""
        known = [layer for layer in hidden if layer.distinct is not None]
        power = seen.input_distinct or next((layer.distinct for layer in known if layer.distinct), None)
        if power and known:
            # What is whole in what the last layers read has not collapsed.
            final = seen.share or 0.0
            shares = [max((layer.distinct or 0.0) / power, final) for layer in known]
            yield from self._first_beyond("input_collapse", known, shares)
        ranked = [layer for layer in hidden if layer.rank is not None]
        if not ranked:
            return
        ranks = _still_to_come([max(layer.rank or 1.0, seen.rank) for layer in ranked])
        given = seen.input_rank
        if given is not None and given > 2 * self.limits["one_direction"].warning:
            yield from self._near_a_line(ranked, ranks, given)
        if self.attends:
            yield from self._places_alike(ranked, ranks)

    def _near_a_line(self, ranked: list[Seen], ranks: list[float], given: float) -> Iterator[Finding]:
        """Whether all inputs, of the rank that is given, come to lie near a line."""
        severity = self.limits["one_direction"].severity(ranks[-1], below=True)
        told = self._left.labels or 0.0
        # After training they may lie there as they should.
        if severity is None or told >= _TELLING:
            return
        # Measured in plain chains: few units behind a recurrent layer may lie near a line, and learn.
        if not self.remedies.plain or told >= _HALF:
            severity = "warning"
        first = self._first_below("one_direction", severity, ranked, ranks)
        yield Finding(
            "one_direction",
            severity,
            first.path,
            f"All inputs come to lie near a line: their differences, which fill {given:.3g} directions "
            f"in the inputs, fill {first.rank:.3g} here, and {ranked[-1].rank:.3g} at {ranked[-1].path}.",
            {"rank": first.rank or 1.0, "worst": ranks[-1], "input": given},
            self.remedies.scale,
        )

    def _places_alike(self, ranked: list[Seen], ranks: list[float]) -> Iterator[Finding]:
        """Whether attention makes all places alike."""
        start = ranked[0].rank or 1.0
        ratios = [rank / start for rank in ranks]
        severity = self.limits["rank_collapse"].severity(ratios[-1], below=True)
        if severity is None or start < _SCATTERED:
            return
        first = self._first_below("rank_collapse", severity, ranked, ratios)
        yield Finding(
            "rank_collapse",
            severity,
            first.path,
            f"All places come to look alike: what differs between them fills {start:.3g} directions at "
            f"{ranked[0].path}, {first.rank:.3g} here, and {ranked[-1].rank:.3g} at {ranked[-1].path}.",
            {"ratio": (first.rank or 1.0) / start, "worst": ratios[-1]},
            self.remedies.places,
        )

    def _of_labels(self, rank: float) -> Iterator[Finding]:
        """Labels that can be read off the inputs, and no longer off the last features."""
        left = self._left
        if left.labels is None or left.given is None or not left.shares:
            return
        warning, error = self.limits["labels_lost"][:2]
        length = len(left.shares)
        warning, error = warning * min(2 * length / _LONG, 1.0), error * length / _LONG
        if left.labels >= warning:
            return
        # What is scattered can yet be learned, if not through very many layers.
        if length >= _VERY_LONG:
            error = warning
        elif rank >= _SCATTERED:
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

    def _first_beyond(
        self, code: str, layers: list[Seen], figures: list[float], suffix: str = ""
    ) -> Iterator[Finding]:
        """The first layer whose figure is beyond the threshold, and how far it goes; a fall has to last."""
        message, against = _WHAT[code]
        warning, error = self.limits[code + suffix][:2]
        if message.endswith(_FALLS):
            warning, error = _inverse(warning), _inverse(error)
            figures = [_inverse(peak) for peak in _still_to_come(figures)]
        worst = max(figures)
        if not worst > warning:
            return
        severity, bound = ("error", error) if worst > error else ("warning", warning)
        first = next(index for index, figure in enumerate(figures) if figure > bound)
        at = layers[figures.index(worst)].path
        text = message.format(f"{figures[first]:.3g}", against, f"{worst:.3g}", at)
        figure = {"ratio": figures[first], "worst": worst}
        yield Finding(code, severity, layers[first].path, text, figure, self.remedies.scale)

    def _first_below(self, code: str, severity: str, layers: list[Seen], figures: list[float]) -> Seen:
        bound = getattr(self.limits[code], severity)
        return next(layer for layer, figure in zip(layers, figures, strict=True) if figure < bound)


def _inverse(figure: float) -> float:
    return 1 / figure if figure > 0 else math.inf


def _still_to_come(figures: list[float]) -> list[float]:
    """Of each figure and those behind it the largest.

    What is small in a gate or a scaled residual, and whole again behind it, has not vanished.
    """
    return list(itertools.accumulate(reversed(figures), max))[::-1]
