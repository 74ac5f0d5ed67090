"""From an activation to the scheme for the layer before it, with the reason."""

from dataclasses import dataclass, field
from typing import Any

from keras_winit.schemes.base import Scheme
from keras_winit.schemes.registry import get
from keras_winit.support.checks import one_of
from keras_winit.theory.activations import Activation, resolve
from keras_winit.theory.gains import Balance, balanced, gain

# Activations for which the literature has a choice.
_RECTIFIERS = ("relu", "relu6", "leaky_relu", "prelu", "elu", "celu", "gelu", "silu", "mish", "hard_silu")
_SATURATING = ("sigmoid", "hard_sigmoid", "tanh", "hard_tanh", "softsign")
_LINEAR = ("linear",)
_OUTPUTS = ("softmax", "log_softmax", "sparsemax")

_HE = "He et al. 2015, arXiv:1502.01852"
_GLOROT = "Glorot & Bengio 2010, AISTATS"
_SELU = "Klambauer et al. 2017, arXiv:1706.02515"
# Measured: tests/benchmarks/trainability.py.
_DEEP = "looks_linear trains 60 of 60 plain stacks of 5 to 100 layers; He's start 27, Keras' 21"
# Measured: tests/benchmarks/residual.py.
_RESIDUAL = "of 20 networks `initialize` lets 8 end 10 % lower than Keras' or PyTorch's start, 0 higher"
_EXACT = "E[f(z)²] for z ~ N(0, 1), by quadrature"
_BALANCED = "E[f(z)²] and E[f′(z)²], by quadrature: keras_winit.theory.gains"


@dataclass(frozen=True)
class Recommendation:
    """A scheme for the layer before an activation, and why.

    Attributes:
        activation: the name of the activation.
        name: the canonical name of the scheme.
        arguments: of the scheme's constructor.
        gain: the activation's forward gain.
        reason: one sentence.
        source: where the choice comes from.
        alternatives: names of other schemes that suit it.

    Example:

    >>> recommend("relu").initializer(seed=1)
    HeUniform(seed=1)
    """

    activation: str
    name: str
    gain: float
    reason: str
    source: str
    alternatives: tuple[str, ...]
    arguments: dict[str, Any] = field(default_factory=dict)

    def initializer(self, seed: Any = None) -> Scheme:
        """The recommended scheme, ready for a layer."""
        scheme: Scheme = get(self.name, **self.arguments, seed=seed)
        return scheme

    def __str__(self) -> str:
        arguments = ", ".join(f"{key}={_short(value)}" for key, value in self.arguments.items())
        rows = {
            "scheme": f"winit>{self.name}" + (f"  ({arguments})" if arguments else ""),
            "gain": f"{self.gain:.4f}",
            "reason": self.reason,
            "source": self.source,
            "alternatives": ", ".join(self.alternatives),
        }
        if self.activation not in (*_LINEAR, *_OUTPUTS):
            rows["if deep"] = _DEEP
            rows["if residual"] = _RESIDUAL
        return "\n".join([self.activation, *(f"  {key:<13} {value}" for key, value in rows.items())])


def recommend(
    activation: Any, *, distribution: str | None = None, method: str = "published"
) -> Recommendation:
    """The scheme for a layer that feeds this activation, with its gain, reason and source.

    Args:
        activation: a name, a callable, an activation layer, or None for the identity.
        distribution: "uniform" or "normal". None means uniform, but for SELU, which was derived
            for a normal.
        method: "published" follows the literature where it has a choice: He for ReLU and its
            kin, Glorot for saturating, linear and output activations, LeCun for SELU. For the rest it is
            "exact" where the gains of signals and of gradients are within 1.5 of each other; where they are
            not, as those of sin(30x), a gain that serves both, and the reason says so. "exact" is variance
            scaling by the activation's own forward gain, squared.

    Returns:
        A `Recommendation`; printing it explains.

    Raises:
        TypeError, ValueError: for what is no activation; an unknown name suggests the nearest.

    Example:

    >>> print(recommend("gelu"))
    gelu
      scheme        winit>he_uniform
      gain          1.5335
      reason        gelu rectifies: 43% of the signal's power is kept, and He's factor 2 restores it.
      source        He et al. 2015, arXiv:1502.01852
      alternatives  he_normal, orthogonal, variance_scaling
      if deep       looks_linear trains 60 of 60 plain stacks of 5 to 100 layers; He's start 27, Keras' 21
      if residual   of 20 networks `initialize` lets 8 end 10 % lower than Keras' or PyTorch's start, 0 higher
    """
    known = resolve(activation)
    name, arguments, alternatives, reason, source = _choose(known, distribution, method)
    return Recommendation(known.name, name, gain(known), reason, source, alternatives, arguments)


def for_activation(
    activation: Any, *, distribution: str | None = None, method: str = "published", seed: Any = None
) -> Scheme:
    """The initializer for a layer that feeds this activation: the one that `recommend` names.

    Args:
        activation, distribution, method: as in `recommend`.
        seed: None, an integer, or a `keras.random.SeedGenerator`.

    Returns:
        A scheme, ready to be a layer's `kernel_initializer`.

    Raises:
        TypeError, ValueError: as `recommend`.

    Example:

    >>> for_activation("relu")
    HeUniform()
    >>> for_activation("tanh", distribution="normal", seed=7)
    GlorotNormal(seed=7)
    """
    name, arguments, *_ = _choose(resolve(activation), distribution, method)
    scheme: Scheme = get(name, **arguments, seed=seed)
    return scheme


def _choose(
    known: Activation, distribution: str | None, method: str
) -> tuple[str, dict[str, Any], tuple[str, ...], str, str]:
    """Name and arguments of the scheme, alternatives, reason and source."""
    if distribution is not None:
        one_of("distribution", distribution, ("uniform", "normal"))
    one_of("method", method, ("published", "exact"))
    family, arguments, reason, source = _family(known, method)
    shape = distribution or ("normal" if family == "lecun" else "uniform")
    if family == "variance_scaling":
        arguments = {"scale": arguments["gain"] ** 2, "mode": "fan_in", "distribution": shape}
        return family, arguments, ("orthogonal",), reason, source
    other = f"{family}_{'normal' if shape == 'uniform' else 'uniform'}"
    return f"{family}_{shape}", arguments, (other, "orthogonal", "variance_scaling"), reason, source


def _family(known: Activation, method: str) -> tuple[str, dict[str, Any], str, str]:
    """Family, arguments, reason and source."""
    name, slope = known.name, known.negative_slope
    if method == "published":
        if name in _RECTIFIERS and slope:
            reason = (
                f"{name} with slope {slope:g} keeps (1 + {slope:g}²)/2 of the signal's power; "
                "He's factor 2/(1 + a²) restores it."
            )
            return "he", {"negative_slope": slope}, reason, _HE
        if name in _RECTIFIERS:
            kept = 1 / gain(known) ** 2
            reason = (
                f"{name} rectifies: {kept:.0%} of the signal's power is kept, and He's factor 2 restores it."
            )
            return "he", {}, reason, _HE
        if name in _SATURATING:
            reason = f"{name} saturates: a variance balanced between both fans keeps it near its linear part."
            return "glorot", {}, reason, _GLOROT
        if name in _LINEAR:
            return "glorot", {}, "A linear layer: a variance balanced between both fans.", _GLOROT
        if name in _OUTPUTS:
            reason = (
                f"{name} is an output: a variance balanced between both fans keeps the first logits small."
            )
            return "glorot", {}, reason, _GLOROT
        if name == "selu":
            reason = "selu normalizes itself where the variance of its input is 1: LeCun's 1/fan_in."
            return "lecun", {}, reason, _SELU
    found = Balance(gain(known), 1.0, 1.0) if method == "exact" else balanced(known)
    if method == "exact" or not found.apart:
        reason = f"{name} is undone by its own gain: the variance is gain²/fan_in."
        return "variance_scaling", {"gain": found.gain}, reason, _EXACT
    reason = f"Signals through {name} want a gain of {found.forward:.3g}, gradients {found.backward:.3g}: "
    if found.variance is None:
        reason += "their geometric mean."
    else:
        deviation = found.variance**0.5
        reason += f"{found.gain:.3g} keeps both where pre-activations have a deviation of {deviation:.3g}."
    return "variance_scaling", {"gain": found.gain}, reason, _BALANCED


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else repr(value)
