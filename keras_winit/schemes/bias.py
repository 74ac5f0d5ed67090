"""Biases that start from what is known: how frequent the classes are, how long the memory."""

from typing import Any

import numpy as np
from keras import ops

from keras_winit.drawing.sampling import uniform
from keras_winit.schemes.base import Scheme
from keras_winit.schemes.registry import register
from keras_winit.support.checks import Shape, as_float, one_of, shown


@register(
    "prior_bias",
    formula="logit p for a sigmoid, log p for a softmax",
    source="Lin, Goyal, Girshick, He, Dollár 2017, arXiv:1708.02002",
)
class PriorBias(Scheme):
    """The output bias that makes a network predict the class frequencies before it learns.

    logit p = log(p/(1 − p)) for a sigmoid output, log p for a softmax. The first loss is then that
    of guessing by frequency, and rare classes do not swamp the first steps.

    Args:
        prior: probabilities between 0 and 1: one number for all outputs, or one for each. The
            paper's 0.01 by default. For a softmax they sum to 1.
        counts: how often each class occurs, positive numbers, in place of `prior`. With a sigmoid
            and a single output, the pair (negatives, positives); with several outputs, one count
            for each class, each held against the sum.
        activation: "sigmoid" or "softmax", what follows the bias.

    Raises:
        TypeError, ValueError: for numbers that are no probabilities or counts, and where their
            number does not fit the shape.

    Example:

    >>> round(float(PriorBias(0.01)((1,))[0]), 4)
    -4.5951
    >>> [round(float(b), 4) for b in PriorBias(counts=[90, 9, 1], activation="softmax")((3,))]
    [-0.1054, -2.4079, -4.6052]

    Source: T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollár 2017, "Focal loss for dense object
    detection", arXiv:1708.02002.
    """

    ranks = (1, None)
    random = False

    def __init__(self, prior: Any = 0.01, counts: Any = None, activation: str = "sigmoid") -> None:
        self.activation = one_of("activation", activation, ("sigmoid", "softmax"))
        self.prior = _numbers("prior", prior)
        self.counts = None if counts is None else _numbers("counts", counts)
        if self.counts is not None:
            if not isinstance(self.counts, list) or len(self.counts) < 2 or min(self.counts) <= 0:
                raise ValueError(
                    "`counts` must hold a positive count for each of two or more classes. "
                    f"Received: counts={shown(counts)}. Count an unseen class as one half or one."
                )
            return
        values = self.prior if isinstance(self.prior, list) else [self.prior]
        if not all(0 < p < 1 for p in values):
            raise ValueError(
                f"`prior` must hold probabilities above 0 and below 1. Received: prior={shown(prior)}. "
                "Pass numbers of occurrences as `counts`."
            )
        if self.activation == "softmax" and isinstance(self.prior, list) and abs(sum(values) - 1) > 1e-3:
            raise ValueError(
                f"`prior` of a softmax must sum to 1. Received: prior={shown(prior)} of sum {sum(values):g}."
            )

    def draw(self, shape: Shape, dtype: str) -> Any:
        p = np.asarray(self.prior, "float64")
        if self.counts is not None:
            with np.errstate(over="ignore"):  # then no bias is finite, as is said below
                p = np.asarray(self.counts, "float64") / np.sum(self.counts)
            if self.activation == "sigmoid" and shape[-1] == 1 and p.size == 2:
                p = p[1:]
        if p.ndim and p.size != shape[-1]:
            given = "prior" if self.counts is None else "counts"
            raise ValueError(
                f"`{given}` must hold one number for each output. Received: {p.size} numbers "
                f"for shape={shape!r}."
            )
        with np.errstate(divide="ignore", over="ignore"):
            bias = np.log(p) if self.activation == "softmax" else np.log(p) - np.log1p(-p)
        if not np.isfinite(bias).all():
            raise ValueError(
                "A class is so much more frequent than another that its bias would be infinite. "
                f"Received: {self!r}."
            )
        return ops.convert_to_tensor(np.broadcast_to(bias, shape), dtype=dtype)


@register(
    "chrono_bias",
    formula="forget gate log U(1, T − 1), input gate its negative, T = timesteps",
    source="Tallec & Ollivier 2018, arXiv:1804.11188",
)
class ChronoBias(Scheme):
    """b_f = log U(1, T − 1), b_i = −b_f: units that remember for up to T steps from the start.

    For Keras' gate order, and for LSTM give `unit_forget_bias=False` to the layer: with True, its
    default, Keras overwrites the forget gate with ones afterwards.

    Args:
        timesteps: T, the longest dependency expected, a number above 2.
        cell: "lstm", or "gru", whose update gate (the first) keeps the state and so gets b_f.
        {seed}

    Raises:
        ValueError: where the shape is not that of the cell's bias.

    Example:

    >>> import numpy as np
    >>> i, f, c, o = np.split(np.asarray(ChronoBias(timesteps=100, seed=0)((32,))), 4)
    >>> bool((i == -f).all()), bool(0 <= f.min() and f.max() <= np.log(99))
    (True, True)

    Source: C. Tallec, Y. Ollivier 2018, "Can recurrent neural networks warp time?",
    arXiv:1804.11188.
    """

    ranks = (1, 2)

    def __init__(self, timesteps: float = 100, cell: str = "lstm", seed: Any = None) -> None:
        self.timesteps = as_float("timesteps", timesteps)
        if self.timesteps <= 2:
            raise ValueError(f"`timesteps` must be greater than 2. Received: timesteps={timesteps!r}.")
        self.cell = one_of("cell", cell, ("lstm", "gru"))
        self.set_seed(seed)

    def check_shape(self, shape: Any) -> Shape:
        """The shape as a tuple, if it is that of the bias of this kind of cell."""
        dims = super().check_shape(shape)
        gates = {"lstm": 4, "gru": 3}[self.cell]
        # A GRU that resets after the product has one bias for inputs and one for the state.
        if dims[-1] % gates or (len(dims) == 2 and (self.cell == "lstm" or dims[0] != 2)):
            wanted = "(4·units,)" if self.cell == "lstm" else "(3·units,) or (2, 3·units)"
            raise ValueError(
                f"ChronoBias of cell={self.cell!r} needs the shape {wanted} of a bias. "
                f"Received: shape={dims!r}."
            )
        return dims

    def draw(self, shape: Shape, dtype: str) -> Any:
        # Gates are not joined, but computed as one array, of which each device can compute its part.
        if self.cell == "lstm":
            signs = ops.convert_to_tensor([[-1], [1], [0], [0]], dtype=dtype)
            return ops.reshape(signs * self._memory(shape[-1] // 4, dtype), shape)
        first = ops.arange(shape[-1], dtype="int32") < shape[-1] // 3
        bias = ops.where(first, self._memory(shape[-1], dtype), ops.zeros((), dtype=dtype))
        return bias if len(shape) == 1 else ops.stack([bias, ops.zeros_like(bias)])

    def _memory(self, units: int, dtype: str) -> Any:
        half = (self.timesteps - 2) / 2
        return ops.log(uniform((units,), half, dtype, self.seed) + (half + 1))


def _numbers(name: str, value: Any) -> float | list[float]:
    try:
        rank = np.ndim(value)
    except (TypeError, ValueError, RecursionError):  # of lists that differ in length, or hold themselves
        rank = 2
    if rank > 1:
        raise TypeError(
            f"`{name}` must be a number or a flat list of numbers. Received: {name}={shown(value)}."
        )
    if rank == 0:
        return as_float(name, value.item() if isinstance(value, np.ndarray) else value)
    return [as_float(name, item) for item in value]
