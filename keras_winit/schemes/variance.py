"""Variance scaling: zero mean, and a variance of scale/n with n a fan or a mean of both."""

import math
from typing import Any

from keras_winit.drawing.sampling import DISTRIBUTIONS
from keras_winit.schemes.registry import register
from keras_winit.schemes.variance_scheme import NormalVariance, VarianceScheme
from keras_winit.support.checks import as_bool, as_float, one_of
from keras_winit.theory.fans import MODES, Fans


@register(
    "fan_in_uniform",
    aliases=("torch_default",),
    formula="U(±1/√fan_in)",
    source="LeCun, Bottou, Orr, Müller 1998, Efficient BackProp",
)
class FanInUniform(VarianceScheme):
    """U(±1/√fan_in), a variance of 1/(3·fan_in): the textbook's uniform, and PyTorch's default.

    Args:
        {seed}
        {axes}
        {fans}

    Example:

    >>> round(FanInUniform().expected_std((300, 100)), 6)  # 1/√900
    0.033333

    Source: Y. LeCun, L. Bottou, G. Orr, K.-R. Müller 1998, "Efficient BackProp".
    """

    scale = 1 / 3


@register(
    "glorot_uniform",
    aliases=("xavier_uniform",),
    formula="U(±√(6/(fan_in + fan_out)))",
    source="Glorot & Bengio 2010, AISTATS",
)
class GlorotUniform(VarianceScheme):
    """U(±√(6/(fan_in + fan_out))): keeps signals and gradients of linear and tanh layers.

    Args:
        {seed}
        {axes}
        {fans}

    Example:

    >>> round(GlorotUniform().expected_std((300, 100)), 6)  # √(2/400)
    0.070711

    Source: X. Glorot, Y. Bengio 2010, "Understanding the difficulty of training deep feedforward
    neural networks", AISTATS.
    """

    mode = "fan_avg"


@register(
    "glorot_normal",
    aliases=("xavier_normal",),
    formula="N(0, 2/(fan_in + fan_out))",
    source="Glorot & Bengio 2010, AISTATS",
)
class GlorotNormal(NormalVariance):
    """N(0, 2/(fan_in + fan_out)): keeps signals and gradients of linear and tanh layers.

    Args:
        {seed}
        {truncated}
        {axes}
        {fans}

    Example:

    >>> round(GlorotNormal().expected_std((300, 100)), 6)  # √(2/400)
    0.070711

    Source: X. Glorot, Y. Bengio 2010, "Understanding the difficulty of training deep feedforward
    neural networks", AISTATS.
    """

    mode = "fan_avg"


@register(
    "he_uniform",
    aliases=("kaiming_uniform",),
    formula="U(±√(6/((1 + a²)·fan_in))), a = negative_slope",
    source="He, Zhang, Ren, Sun 2015, arXiv:1502.01852",
)
class HeUniform(VarianceScheme):
    """U(±√(6/((1 + a²)·fan))): keeps the signal of a ReLU layer, leaky with slope a or not.

    Args:
        {seed}
        negative_slope: a, the slope of the activation below zero; a finite number.
        mode: "fan_in" keeps the signals' scale, "fan_out" the gradients'.
        {axes}
        {fans}

    Example:

    >>> round(HeUniform().expected_std((300, 100)), 6)  # √(2/300)
    0.08165

    Source: K. He, X. Zhang, S. Ren, J. Sun 2015, "Delving deep into rectifiers", arXiv:1502.01852.
    """

    def __init__(
        self,
        seed: Any = None,
        *,
        negative_slope: float = 0.0,
        mode: str = "fan_in",
        input_axes: Any = None,
        output_axes: Any = None,
        fans: Any = None,
    ) -> None:
        self.negative_slope = as_float("negative_slope", negative_slope)
        self.mode = one_of("mode", mode, ("fan_in", "fan_out"))
        self.scale = 2 / (1 + self.negative_slope * self.negative_slope)
        super().__init__(seed, input_axes=input_axes, output_axes=output_axes, fans=fans)


@register(
    "he_normal",
    aliases=("kaiming_normal",),
    formula="N(0, 2/((1 + a²)·fan_in)), a = negative_slope",
    source="He, Zhang, Ren, Sun 2015, arXiv:1502.01852",
)
class HeNormal(HeUniform):
    """N(0, 2/((1 + a²)·fan)): keeps the signal of a ReLU layer, leaky with slope a or not.

    Args:
        {seed}
        negative_slope: a, the slope of the activation below zero; a finite number.
        mode: "fan_in" keeps the signals' scale, "fan_out" the gradients'.
        {truncated}
        {axes}
        {fans}

    Example:

    >>> round(HeNormal(negative_slope=0.2).expected_std((300, 100)), 6)  # √(2/(1.04·300))
    0.080064

    Source: K. He, X. Zhang, S. Ren, J. Sun 2015, "Delving deep into rectifiers", arXiv:1502.01852.
    """

    def __init__(
        self,
        seed: Any = None,
        *,
        negative_slope: float = 0.0,
        mode: str = "fan_in",
        truncated: bool = False,
        input_axes: Any = None,
        output_axes: Any = None,
        fans: Any = None,
    ) -> None:
        given = {"input_axes": input_axes, "output_axes": output_axes, "fans": fans}
        super().__init__(seed, negative_slope=negative_slope, mode=mode, **given)
        self.truncated = as_bool("truncated", truncated)
        self.distribution = "truncated_normal" if self.truncated else "normal"


@register(
    "lecun_uniform",
    formula="U(±√(3/fan_in))",
    source="LeCun, Bottou, Orr, Müller 1998, Efficient BackProp",
)
class LecunUniform(VarianceScheme):
    """U(±√(3/fan_in)), a variance of 1/fan_in: keeps the signal of a linear layer.

    Args:
        {seed}
        {axes}
        {fans}

    Example:

    >>> round(LecunUniform().expected_std((300, 100)), 6)  # √(1/300)
    0.057735

    Source: Y. LeCun, L. Bottou, G. Orr, K.-R. Müller 1998, "Efficient BackProp".
    """


@register(
    "lecun_normal",
    formula="N(0, 1/fan_in)",
    source="Klambauer et al. 2017, arXiv:1706.02515; LeCun et al. 1998",
)
class LecunNormal(NormalVariance):
    """N(0, 1/fan_in): keeps the signal of a linear layer, and is what SELU was derived for.

    Args:
        {seed}
        {truncated}
        {axes}
        {fans}

    Example:

    >>> round(LecunNormal().expected_std((300, 100)), 6)  # √(1/300)
    0.057735

    Source: G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter 2017, "Self-normalizing neural
    networks", arXiv:1706.02515; Y. LeCun et al. 1998, "Efficient BackProp".
    """


@register(
    "variance_scaling",
    formula="variance scale/n, n = fan_in, fan_out, or their mean",
    source="He et al. 2015, arXiv:1502.01852, in general form",
)
class VarianceScaling(VarianceScheme):
    """Variance scale/n, with n a fan or a mean of both, from one of three distributions.

    Args:
        scale: a positive number; gain² undoes an activation of that gain.
        mode: "fan_in", "fan_out", "fan_avg" (the arithmetic mean) or "fan_geo_avg" (the geometric).
        distribution: "normal" (also spelled "untruncated_normal"), "truncated_normal" (cut at two
            deviations, the deviation restored) or "uniform".
        {seed}
        {axes}
        {fans}

    Example:

    >>> round(VarianceScaling(2.0, "fan_out").expected_std((300, 100)), 6)  # √(2/100)
    0.141421
    """

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "normal",
        seed: Any = None,
        *,
        input_axes: Any = None,
        output_axes: Any = None,
        fans: Any = None,
    ) -> None:
        self.scale = as_float("scale", scale, positive=True)
        self.mode = one_of("mode", mode, MODES)
        if distribution == "untruncated_normal":
            distribution = "normal"
        self.distribution = one_of("distribution", distribution, DISTRIBUTIONS)
        super().__init__(seed, input_axes=input_axes, output_axes=output_axes, fans=fans)


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
        super().__init__(seed, input_axes=input_axes, output_axes=output_axes, fans=fans)

    def variance(self, fans: Fans) -> float:
        """1/(3·fan_in²) in the first layer, 2/(fan_in·ω₀²) in the others."""
        return 1 / (3 * fans.fan_in**2) if self.first else super().variance(fans)
