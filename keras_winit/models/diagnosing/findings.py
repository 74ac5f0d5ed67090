"""From where on something is a finding, and why; and what helps against it.

The thresholds that tell which plain chains train are chosen by tests/benchmarks/diagnosis.py, on one half of
the networks trained for it; what they say of the other half is on the page of benchmarks.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.following import Depths
from keras_winit.models.anatomy.slots import ASKED, Slot
from keras_winit.models.initializing.fitting import asked_for
from keras_winit.schemes.compose import Scaled
from keras_winit.schemes.looks_linear import LooksLinear
from keras_winit.support.checks import as_float, did_you_mean


class Threshold(NamedTuple):
    """From where on a finding is a warning, and from where on an error."""

    warning: float
    error: float
    reason: str

    def severity(self, figure: float, *, below: bool = False) -> str | None:
        """How severe a figure is above it, or below it; None where it is no finding."""
        sign = -1 if below else 1
        if sign * figure > sign * self.error:
            return "error"
        return "warning" if sign * figure > sign * self.warning else None


THRESHOLDS = {
    "too_small": Threshold(
        2.0,
        10.0,
        "How many times a weight's deviation is below its theory, beyond five standard errors of it, "
        "√(1/2n). Training moves weights, seldom by ten.",
    ),
    "too_large": Threshold(2.0, 10.0, "The same, above its theory."),
    "wrong_fans": Threshold(
        3.0,
        float("inf"),
        "How many times a weight is below what exact fans give, where Keras' are wrong. A normalization may "
        "make up for it, so it is no error.",
    ),
    "repeated_units": Threshold(
        0.0, 0.5, "The share of a layer's units that equal another: two draws never do. Half cripples it."
    ),
    "unscaled_data": Threshold(
        10.0,
        1e3,
        "How many times the deviations of the data and the first layer are above or below one, which schemes "
        "reckon with.",
    ),
    "vanishing_signal": Threshold(
        1e-3,
        1e-6,
        "The deviation of a hidden pre-activation against the first one. With Adam what falls to 1e-2 in "
        "four layers trains: the gradient tells more.",
    ),
    "exploding_signal": Threshold(1e2, 1e4, "The same, upwards: at 1e4 every bounded function saturates."),
    "input_collapse": Threshold(
        5e-3,
        3e-6,
        "The share of the activations' power that differs between inputs, against the inputs. Networks of "
        "softplus and sigmoid train at 2e-4.",
    ),
    "one_direction": Threshold(
        1.6,
        1.15,
        "The effective rank of what differs between inputs: one where all lie on a line. Of networks that "
        "trained, 2 in 100 had 1.5 or less.",
    ),
    "rank_collapse": Threshold(
        0.5,
        0.35,
        "The effective rank of what differs between places and inputs at the end of a stream of 16 residual "
        "branches or more with attention, against its beginning (Dong, Cordonnier & Loukas 2021, "
        "arXiv:2103.03404; Noci et al. 2022, arXiv:2206.03126). Of transformers of 12 blocks those that "
        "fail had at most 0.17, the others at least 0.70, the bound is between; of deeper ones, at which it "
        "was not chosen, those that fail had at most 0.23.",
    ),
    "labels_lost": Threshold(
        0.5,
        0.1,
        "How far labels can be read off the last hidden features against off the inputs. The error is for "
        "chains of forty layers, the warning for twenty and more: for others in proportion; from eighty "
        "layers on, where no network with 0.13 or less learned and all that did had 0.5, the error's bound "
        "is the warning's. In shorter ones the effective rank is below 10 too: convolutions of tanh that "
        "scatter inputs over 70 directions learn at forty layers with 0.02 to 0.06 left. An error is below "
        "its bound by more than the standard error of guessing, √(p/((1 − p)·n)) for a commonest class of "
        "share p among n samples: 0.02 for ten classes and 256 samples, 0.08 for two.",
    ),
    "inputs_lost": Threshold(
        0.15,
        0.05,
        "The share of the inputs' variance, along their first ten principal axes, that can be read off the "
        "last hidden features. A finding without labels, in chains of forty layers and more whose gradient "
        "grows; elsewhere it tells which gradients explode.",
    ),
    "vanishing_gradient": Threshold(
        0.1,
        0.05,
        "The size of a sample's gradient at a pre-activation against that at the last hidden one, in a plain "
        "chain of five kernels or more. Of those that trained, 1 in 100 had 0.05 or less. A warning is an "
        "error where what differs between inputs fills fewer than 2 directions.",
    ),
    "vanishing_gradient_elsewhere": Threshold(
        1e-3,
        1e-5,
        "The same where normalizations or additions give signals a scale. Pooling and strides take about a "
        "hundredth in healthy networks.",
    ),
    "exploding_gradient": Threshold(
        10.0, 20.0, "The same in a plain chain of forty layers, upwards; in longer ones in proportion less."
    ),
    "exploding_gradient_elsewhere": Threshold(1e3, 1e5, "The same elsewhere, upwards."),
    "dead_units": Threshold(
        0.75,
        0.95,
        "The share of a layer's units that give the same for every input. In a deep ReLU network half may "
        "on one batch.",
    ),
    "saturated": Threshold(
        0.3,
        0.6,
        "The share of activations within 1/80 of the ends of a bounded function, where the slope is 5 % of "
        "its largest. At a deviation of one it is 3 % for tanh.",
    ),
    "initial_loss": Threshold(
        3.0,
        30.0,
        "The first loss against that of the best constant guess: 1.2 times is usual, 2 for a regression.",
    ),
    "one_hot_attention": Threshold(
        8.0, 30.0, "The deviation of queries times keys. At 8 the largest of 16 weights is 0.98 on average."
    ),
    "epsilon": Threshold(1.0, 100.0, "A normalization's ε against the variance that it divides by."),
    "penalties": Threshold(2.0, 10.0, "What regularizers add to the first loss, against the rest of it."),
}


def thresholds_with(overrides: Mapping[str, Any] | None) -> dict[str, Threshold]:
    """The thresholds, some replaced by a pair (warning, error) or one number for both.

    Raises:
        TypeError, ValueError: for unknown names, or no numbers.
    """
    result = dict(THRESHOLDS)
    if overrides is None:
        return result
    if not isinstance(overrides, Mapping):
        raise TypeError(f"`thresholds` must be a dict of names to numbers. Received: {overrides!r}.")
    for name, value in overrides.items():
        if name not in THRESHOLDS:
            raise ValueError(
                f"There is no threshold {name!r}.{did_you_mean(str(name), THRESHOLDS)} "
                f"There are: {', '.join(THRESHOLDS)}."
            )
        pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
        if len(pair) != 2:
            raise ValueError(f"The threshold {name!r} is a pair (warning, error). Received: {value!r}.")
        warning, error = (as_float(f"thresholds[{name!r}]", each) for each in pair)
        result[name] = Threshold(warning, error, "as given")
    return result


INITIALIZE = "Draw it anew: `initialize(model)`."
_LINEAR = (
    'Let it start as a linear map, which keeps signals and gradients: `initialize(model, "looks_linear")`.'
)
_CALIBRATE = "Give every layer the same deviation: `calibrate(model, data)`."
_BRANCHES = "Let residual branches start small beside what they are added to: `calibrate(model, data)`."
_NORMALIZE = (
    "Put a normalization behind its kernels, or add what layers read to what they put out: "
    "`keras.layers.BatchNormalization()`, `keras.layers.Add()`; or build it with fewer layers."
)


class Remedies:
    """The remedies for one model."""

    def __init__(self, anatomy: Anatomy) -> None:
        depths = anatomy.once(Depths)
        kernels = [slot for slot in anatomy.slots if slot.role == "kernel"]
        longest = max(map(depths.of, kernels), default=0)
        # A plain chain: every kernel of the model is in it.
        self.plain = (
            1 < len(kernels) <= longest
            and anatomy.trace.reason is None
            and not any(slot.role == "recurrent" for slot in anatomy.slots)
        )
        records = [slot.configured for slot in kernels if hasattr(slot.configured, ASKED)]
        inner = [each.initializer if isinstance(each, Scaled) else each for each in records]
        self.calibrated = sum(isinstance(each, Scaled) for each in records) > len(kernels) / 2
        self.linear = any(isinstance(each, LooksLinear) for each in inner)
        # Of a linear map of each place by itself, pooling may leave little to tell apart.
        self._pools = any("Pool" in step.kind for step in anatomy.trace.steps)

    @property
    def scale(self) -> str:
        """Against what grows, falls or is lost."""
        if self.plain and not self.linear and not self._pools:
            return _LINEAR
        return _NORMALIZE if self.calibrated or self.linear else _CALIBRATE

    @property
    def places(self) -> str:
        """Against attention that makes all places alike."""
        return _NORMALIZE if self.calibrated else _BRANCHES

    @property
    def size(self) -> str:
        """Against what is too large or too small at one place."""
        return _NORMALIZE if self.calibrated else _CALIBRATE


def draw_anew(slot: Slot) -> str:
    """Against values that no kernel should have."""
    asked = asked_for(slot)
    if asked:
        return f"Draw it anew, for {asked}: `initialize(model, overwrite=True)`."
    return INITIALIZE
