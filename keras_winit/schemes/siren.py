"""Initialization of networks whose activation is a sine."""

import math
from typing import Any

from keras_winit.schemes.registry import register
from keras_winit.schemes.variance_scheme import VarianceScheme
from keras_winit.support.checks import as_bool, as_float
from keras_winit.theory.fans import Fans


@register(
    "siren",
    formula="first layer U(±1/fan_in), later U(±√(6/fan_in)/ω₀), ω₀ = omega_0",
    source="Sitzmann et al. 2020, arXiv:2006.09661",
)
class Siren(VarianceScheme):
    """For layers sin(ω₀·(W·x + b)): U(±1/fan_in) in the first, U(±√(6/fan_in)/ω₀) in the others.

    Args:
        {seed}
        first: whether this is the layer that reads the coordinates.
        omega_0: ω₀, the positive factor inside the sine; 30 in the paper.
        {axes}
        {fans}

    Example:

    >>> round(Siren().expected_std((300, 100)), 8)  # √(2/300)/30
    0.00272166
    >>> round(Siren(first=True).expected_std((2, 100)), 6)  # 1/(2·√3)
    0.288675

    Source: V. Sitzmann, J. Martel, A. Bergman, D. Lindell, G. Wetzstein 2020, "Implicit neural
    representations with periodic activation functions", arXiv:2006.09661.
    """

    mode = "fan_in"
    distribution = "uniform"

    def __init__(
        self,
        seed: Any = None,
        *,
        first: bool = False,
        omega_0: float = 30.0,
        input_axes: Any = None,
        output_axes: Any = None,
        fans: Any = None,
    ) -> None:
        self.first = as_bool("first", first)
        self.omega_0 = as_float("omega_0", omega_0, positive=True)
        square = self.omega_0 * self.omega_0
        self.scale = 2 / square if square else math.inf
        self.set_axes(input_axes, output_axes)
        self.set_fans(fans)
        self.set_seed(seed)

    def variance(self, fans: Fans) -> float:
        """1/(3·fan_in²) in the first layer, 2/(fan_in·ω₀²) in the others."""
        return 1 / (3 * fans.fan_in**2) if self.first else super().variance(fans)
