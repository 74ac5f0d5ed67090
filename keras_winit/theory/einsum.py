"""The equation of an einsum, taken apart."""

import functools
import re
from collections.abc import Sequence

Labels = tuple[str, ...]


def einsum_labels(equation: str, ranks: Sequence[int]) -> tuple[tuple[Labels, ...], Labels]:
    """A label for every axis of the operands of an einsum, and of its output.

    Args:
        equation: such as "abc,cd->abd" or "...c,cd->...d"; without an arrow the output has the letters
            that are there once, in their order.
        ranks: the number of axes of each operand.

    Example:

    >>> einsum_labels("...c,cd->...d", [3, 2])
    ((('0', '1', 'c'), ('c', 'd')), ('0', '1', 'd'))
    """
    return _labels(equation, tuple(ranks))


@functools.lru_cache(maxsize=1024)
def _labels(equation: str, ranks: tuple[int, ...]) -> tuple[tuple[Labels, ...], Labels]:
    inputs, arrow, output = re.sub(r"\s", "", equation).partition("->")
    terms = inputs.split(",")
    if not arrow:
        letters = sorted(set(inputs) - set(",."))
        output = "..." * ("..." in inputs) + "".join(each for each in letters if inputs.count(each) == 1)
    hidden = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    dots = [str(index) for index in range(max(0, *hidden))]

    def spread(term: str, count: int) -> Labels:
        before, inside, after = term.partition("...")
        return (*before, *(dots[len(dots) - count :] if inside else ()), *after)

    labels = tuple(spread(term, count) for term, count in zip(terms, hidden, strict=True))
    return labels, spread(output, len(dots))
