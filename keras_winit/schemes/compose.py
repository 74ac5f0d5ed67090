"""Schemes that wrap another: scaled, drawn per gate, or summed."""

import math
from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_winit.drawing.seeds import fold
from keras_winit.drawing.sharding import side_by_side
from keras_winit.schemes.base import KernelScheme, Scheme, arguments_of, remade
from keras_winit.schemes.registry import get, register
from keras_winit.support.checks import Shape, as_float, as_int, check_fits, shown
from keras_winit.support.host import is_traced

_MOST_NESTED = 16  # wrappers in one another: two or three are of use, and each looks into all it holds
_LARGE = 1e3  # a factor whose product may be infinite; what is drawn keeps that distance
_MOST_TERMS = 1024  # draws that add up to one tensor


class Wrapper(KernelScheme):
    """The base of the wrappers. Axes and a seed given to a wrapper go on to what it wraps.

    Without a seed of its own a wrapper uses that of what it wraps.
    """

    initializer: Any

    def __init__(
        self, initializer: Any, seed: Any = None, *, input_axes: Any = None, output_axes: Any = None
    ) -> None:
        self.initializer = get(initializer)
        self.nesting()
        self.blockwise = getattr(self.initializer, "blockwise", False)
        # One that is not of this package may not bear to be compiled.
        self.whole = getattr(self.initializer, "whole", True)
        super().__init__(seed, input_axes=input_axes, output_axes=output_axes)
        if seed is None:
            self.seed = getattr(self.initializer, "seed", self.seed)

    def nesting(self) -> "list[Wrapper]":
        """This wrapper and those that it wraps, the outermost first."""
        found, innermost = [self], self.initializer
        while isinstance(innermost, Wrapper):
            found.append(innermost)
            innermost = innermost.initializer
            if len(found) > _MOST_NESTED:
                raise ValueError(
                    f"A wrapper must not wrap itself, nor be nested more than {_MOST_NESTED} deep. "
                    f"Received: initializer={shown(self.initializer)}."
                )
        return found

    def drawn_whole(self, shape: Shape) -> bool:
        """Whether the wrapped initializer draws its part whole, or may do so, since nobody knows."""
        inner = self.inner()
        return inner.drawn_whole(self.part(shape)) if isinstance(inner, Scheme) else True

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments, the seed as it was given."""
        self.nesting()
        return super().arguments()

    def inner(self, *place: int | str) -> Any:
        """The wrapped initializer with this one's axes and a seed for the place."""
        arguments, changed = arguments_of(self.initializer), {}
        if "seed" in arguments:
            changed["seed"] = fold(self.seed, *place) if place else self.seed
        if self.input_axes is not None and arguments.get("input_axes", ()) is None:
            changed.update(input_axes=self.input_axes, output_axes=self.output_axes)
        return remade(self.initializer, **changed)

    def part(self, shape: Shape) -> Shape:
        """The shape that the wrapped initializer draws, of a weight of this shape."""
        return shape

    def check_shape(self, shape: Any) -> Shape:
        """The shape as a tuple, if the wrapped scheme can draw its part."""
        dims = super().check_shape(shape)
        inner, part = self.inner(), self.part(dims)
        if isinstance(inner, Scheme):
            inner.check_shape(part)
        return dims

    def expected_std(self, shape: Any) -> float | None:
        """The wrapped scheme's deviation for its part, where it is a scheme of this package."""
        inner, part = self.inner(), self.part(self.check_shape(shape))
        return inner.expected_std(part) if isinstance(inner, Scheme) else None


@register("scaled", formula="factor · initializer", source="Radford et al. 2019, GPT-2")
class Scaled(Wrapper):
    """factor · what the wrapped initializer draws.

    For N residual blocks of two branches each, a factor of 1/√(2N) on the last kernel of each
    branch keeps the sum of all of them at the scale of one.

    Args:
        initializer: what to scale: a name of a scheme, a config or an initializer.
        factor: a finite number.
        {seed}
        {axes}

    Example:

    >>> round(Scaled("he_normal", factor=0.5).expected_std((300, 100)), 6)  # √(2/300)/2
    0.040825

    Source: A. Radford, J. Wu, R. Child, D. Luan, D. Amodei, I. Sutskever 2019, "Language models are
    unsupervised multitask learners".
    """

    def __init__(
        self,
        initializer: Any = "he_normal",
        factor: float = 1.0,
        seed: Any = None,
        *,
        input_axes: Any = None,
        output_axes: Any = None,
    ) -> None:
        self.factor = as_float("factor", factor)
        super().__init__(initializer, seed, input_axes=input_axes, output_axes=output_axes)

    def draw(self, shape: Shape, dtype: str) -> Any:
        check_fits("factor", self.factor, dtype)
        tensor = self.factor * self.inner()(shape, dtype)
        factor = math.prod(abs(each.factor) for each in self.nesting() if isinstance(each, Scaled))
        if factor > _LARGE and not is_traced(tensor) and not ops.all(ops.isfinite(tensor)):
            raise ValueError(f"What it draws would be infinite in {dtype}. Received: {self!r}.")
        return tensor

    def expected_std(self, shape: Any) -> float | None:
        """|factor| times the wrapped deviation."""
        std = super().expected_std(shape)
        return None if std is None else abs(self.factor) * std


@register(
    "per_gate",
    formula="initializer for each of the `gates` blocks of the last axis",
    source="Keras draws the gates of a fused kernel as one matrix, which mixes up its fans",
)
class PerGate(Wrapper):
    """Each gate of a fused LSTM or GRU weight is drawn on its own, with its own fans.

    Keras keeps the gates of a recurrent layer side by side in one kernel. Drawn as one, its
    `fan_out` is as many times too large, and an orthogonal kernel is not orthogonal in any gate.

    Args:
        initializer: what to draw each gate from: a name of a scheme, a config or an initializer.
        gates: the number of gates: 4 for LSTM and ConvLSTM, 3 for GRU, 1 for SimpleRNN; or of other parts
            that lie side by side, as query, key and value do in one kernel.
        {seed}
        {axes}
        factors: a finite number for each gate that what is drawn for it is multiplied by; None for ones.

    Raises:
        ValueError: where the gates do not divide the last dimension, and for other than a factor a gate.

    Example:

    >>> import numpy as np
    >>> gate = np.asarray(PerGate("orthogonal", gates=4, seed=0)((8, 32)))[:, :8]
    >>> bool(np.allclose(gate.T @ gate, np.eye(8), atol=1e-6))
    True
    """

    ranks = (1, None)

    def __init__(
        self,
        initializer: Any = "orthogonal",
        gates: int = 4,
        seed: Any = None,
        *,
        input_axes: Any = None,
        output_axes: Any = None,
        factors: Any = None,
    ) -> None:
        self.gates = as_int("gates", gates, minimum=1)
        self.factors = None if factors is None else _as_factors(factors, self.gates)
        super().__init__(initializer, seed, input_axes=input_axes, output_axes=output_axes)
        self.blockwise = False  # it is what draws them apart

    def part(self, shape: Shape) -> Shape:
        """The shape of one gate."""
        if shape[-1] % self.gates:
            raise ValueError(
                f"`gates` must divide the last dimension. Received: gates={self.gates} for shape={shape!r}."
            )
        return (*shape[:-1], shape[-1] // self.gates)

    def _together(self) -> Any:
        """What draws all gates as one batch, if it can: a convolution may have many groups."""
        inner = self.inner("gates")
        return inner if self.factors is None and hasattr(inner, "draw_blocks") else None

    def drawn_whole(self, shape: Shape) -> bool:
        """Whether a gate is drawn whole, or all of them are."""
        together = self._together()
        return together.drawn_whole(self.part(shape), self.gates) if together else super().drawn_whole(shape)

    def draw(self, shape: Shape, dtype: str) -> Any:
        gate, together = self.part(shape), self._together()
        if together:
            return together.draw_blocks(gate, dtype, self.gates)
        parts = [self.inner("gate", i)(gate, dtype) for i in range(self.gates)]
        if self.factors is not None:
            parts = [factor * part for factor, part in zip(self.factors, parts, strict=True)]
        return side_by_side(parts)

    def expected_std(self, shape: Any) -> float | None:
        """The deviation of a gate, times the root of the mean of the factors' squares."""
        std = super().expected_std(shape)
        if std is None or self.factors is None:
            return std
        return std * math.sqrt(sum(factor**2 for factor in self.factors) / self.gates)


def _as_factors(factors: Any, gates: int) -> list[float]:
    """A finite number for each gate."""
    if isinstance(factors, (str, bytes)) or not isinstance(factors, Sequence):
        raise TypeError(f"`factors` must be a list of numbers or None. Received: factors={shown(factors)}.")
    if len(factors) != gates:
        raise ValueError(
            f"`factors` must have one number for each of {gates} gates. Received: factors={shown(factors)}."
        )
    return [as_float("factors", each) for each in factors]


@register(
    "summed",
    formula="the sum of `terms` independent draws of initializer",
    source="PyTorch's recurrent layers, which have two biases where Keras has their sum",
)
class Summed(Wrapper):
    """The sum of several independent draws of the wrapped initializer.

    Args:
        initializer: what to draw: a name of a scheme, a config or an initializer.
        terms: how many draws to add, a positive integer.
        {seed}
        {axes}

    Example:

    >>> round(Summed("he_normal", terms=2).expected_std((300, 100)), 6)  # √(2·2/300)
    0.11547
    """

    def __init__(
        self,
        initializer: Any = "fan_in_uniform",
        terms: int = 2,
        seed: Any = None,
        *,
        input_axes: Any = None,
        output_axes: Any = None,
    ) -> None:
        self.terms = as_int("terms", terms, minimum=1)
        super().__init__(initializer, seed, input_axes=input_axes, output_axes=output_axes)
        terms = math.prod(each.terms for each in self.nesting() if isinstance(each, Summed))
        if terms > _MOST_TERMS:
            raise ValueError(
                f"`terms` must be at most {_MOST_TERMS}, those in one another multiplied. Received: {self!r}."
            )

    def draw(self, shape: Shape, dtype: str) -> Any:
        return sum(self.inner("term", i)(shape, dtype) for i in range(self.terms))

    def expected_std(self, shape: Any) -> float | None:
        """√terms times the wrapped deviation."""
        std = super().expected_std(shape)
        return None if std is None else math.sqrt(self.terms) * std
