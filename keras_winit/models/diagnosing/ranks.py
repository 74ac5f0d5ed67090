"""Findings from the effective rank of what differs between inputs, and between places."""

import itertools
from collections.abc import Iterator, Mapping

from keras_winit.models.diagnosing.remedies import Remedies
from keras_winit.models.diagnosing.report import Finding
from keras_winit.models.diagnosing.seen import Seen
from keras_winit.models.diagnosing.thresholds import Threshold, severity_of

SCATTERED = 10.0  # directions that inputs fill which have not collapsed
_HALF, _TELLING = 0.5, 0.7  # of what the labels could be read off the inputs

Limits = Mapping[str, Threshold]


def near_a_line(
    limits: Limits, remedies: Remedies, ranked: list[Seen], *, given: float, last: float, told: float | None
) -> Iterator[Finding]:
    """Whether all inputs come to lie near a line.

    Args:
        limits, remedies: of the diagnosis.
        ranked: the hidden layers whose rank is known, in order.
        given: the rank of the inputs.
        last: that of what the last layers read.
        told: how much of what the labels could be read off the inputs is left; None without labels.
    """
    lasting = _lasting(ranked, last)
    severity = severity_of(limits["one_direction"], lasting[-1], below=True)
    # What lies on a line may lie there as it should: after training.
    if severity is None or (told is not None and told >= _TELLING):
        return
    # Measured in plain chains: few units behind a recurrent layer may lie near a line, and learn.
    if not remedies.plain or (told is not None and told >= _HALF):
        severity = "warning"
    first = _first_below(ranked, lasting, getattr(limits["one_direction"], severity))
    yield Finding(
        "one_direction",
        severity,
        first.path,
        f"All inputs come to lie near a line: their differences, which fill {given:.3g} directions "
        f"in the inputs, fill {first.rank:.3g} here, and {ranked[-1].rank:.3g} at {ranked[-1].path}.",
        {"rank": first.rank or 1.0, "worst": lasting[-1], "input": given},
        remedies.scale,
    )


def places_alike(limits: Limits, remedies: Remedies, ranked: list[Seen], last: float) -> Iterator[Finding]:
    """Whether attention makes all places alike, so that the layers behind it cannot tell them apart.

    Args:
        limits, remedies, ranked, last: as of `near_a_line`.
    """
    start = ranked[0].rank or 1.0
    lasting = [rank / start for rank in _lasting(ranked, last)]
    severity = severity_of(limits["rank_collapse"], lasting[-1], below=True)
    if severity is None or start < SCATTERED:
        return
    first = _first_below(ranked, lasting, getattr(limits["rank_collapse"], severity))
    yield Finding(
        "rank_collapse",
        severity,
        first.path,
        f"All places come to look alike: what differs between them fills {start:.3g} directions at "
        f"{ranked[0].path}, {first.rank:.3g} here, and {ranked[-1].rank:.3g} at {ranked[-1].path}.",
        {"ratio": (first.rank or 1.0) / start, "worst": lasting[-1]},
        remedies.places,
    )


def _lasting(ranked: list[Seen], last: float) -> list[float]:
    """The rank that each layer leaves for good: the largest that is still to come."""
    ranks = [max(layer.rank or 1.0, last) for layer in ranked]
    return list(itertools.accumulate(reversed(ranks), max))[::-1]


def _first_below(ranked: list[Seen], lasting: list[float], bound: float) -> Seen:
    return next(layer for layer, rank in zip(ranked, lasting, strict=True) if rank < bound)
