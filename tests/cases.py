"""The one table of schemes that the generic tests run over.

A case says what a scheme is asked to draw and what theory says it draws. The deviation is a
formula of its own here, from the fans written out, and never what the scheme computes.
"""

from dataclasses import dataclass, field
from math import prod, sqrt
from typing import Any

import keras

DENSE = (300, 170)
CONV = (3, 5, 24, 40)
VECTOR = (1200,)


@dataclass(frozen=True)
class Case:
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    # For each shape, the deviation that theory gives.
    deviations: dict[tuple[int, ...], float] = field(default_factory=dict)
    distribution: str | None = None
    # A layer in which the scheme is at home, for models that are saved.
    home: str = "dense"
    shapes: tuple[tuple[int, ...], ...] = (DENSE, CONV)

    @property
    def id(self) -> str:
        shown = ",".join(f"{key}={value}" for key, value in self.arguments.items() if key != "initializer")
        return f"{self.name}({shown})"


def _fans(shape):
    if len(shape) == 1:
        return shape[0], shape[0]
    return prod(shape[:-1]), prod(shape[:-2]) * shape[-1]


def _by_fans(name, formula, drawn, /, *, shapes=(DENSE, CONV, VECTOR), **arguments):
    deviations = {shape: formula(*_fans(shape)) for shape in shapes}
    return Case(name, arguments, deviations, drawn, shapes=shapes)


def _plain(name, std, distribution, **arguments):
    return Case(name, arguments, dict.fromkeys((DENSE, CONV, VECTOR), std), distribution)


def _he(a):
    return lambda i, o: sqrt(2 / ((1 + a * a) * i))


CASES = [
    Case("zeros"),
    Case("ones"),
    Case("constant", {"value": 0.25}),
    _plain("random_uniform", 0.05, "uniform"),
    _plain("random_uniform", 0.2 / sqrt(3), "uniform", minval=-0.2, maxval=0.2),
    _plain("random_normal", 0.05, "normal"),
    _plain("random_normal", 0.3, "normal", stddev=0.3),
    _plain("truncated_normal", 0.05, "truncated_normal"),
    _by_fans("fan_in_uniform", lambda i, o: 1 / sqrt(i) / sqrt(3), "uniform"),
    _by_fans("glorot_uniform", lambda i, o: sqrt(6 / (i + o)) / sqrt(3), "uniform"),
    _by_fans("glorot_normal", lambda i, o: sqrt(2 / (i + o)), "normal"),
    _by_fans("glorot_normal", lambda i, o: sqrt(2 / (i + o)), "truncated_normal", truncated=True),
    _by_fans("glorot_normal", lambda i, o: 0.2, "truncated_normal", truncated=True, fans=[30.0, 20.0]),
    _by_fans("glorot_uniform", lambda i, o: 0.2, "uniform", fans=[30.0, 20.0]),
    _by_fans("he_uniform", lambda i, o: sqrt(6 / i) / sqrt(3), "uniform"),
    _by_fans("he_uniform", _he(0.3), "uniform", negative_slope=0.3),
    _by_fans("he_uniform", lambda i, o: sqrt(2 / o), "uniform", mode="fan_out"),
    _by_fans("he_normal", _he(0), "normal"),
    _by_fans("he_normal", _he(0.3), "truncated_normal", negative_slope=0.3, truncated=True),
    _by_fans("he_normal", lambda i, o: sqrt(2 / o), "normal", mode="fan_out"),
    _by_fans("lecun_uniform", lambda i, o: sqrt(3 / i) / sqrt(3), "uniform"),
    _by_fans("lecun_normal", lambda i, o: 1 / sqrt(i), "normal"),
    _by_fans("lecun_normal", lambda i, o: 1 / sqrt(i), "truncated_normal", truncated=True),
    _by_fans("lecun_normal", lambda i, o: 1 / sqrt(77.5), "normal", fans=[77.5, 3.0]),
    _by_fans("variance_scaling", lambda i, o: 1 / sqrt(i), "normal"),
    _by_fans(
        "variance_scaling",
        lambda i, o: sqrt(3 / o),
        "uniform",
        scale=3.0,
        mode="fan_out",
        distribution="uniform",
    ),
    _by_fans(
        "variance_scaling",
        lambda i, o: sqrt(2 / (i + o)),
        "truncated_normal",
        mode="fan_avg",
        distribution="truncated_normal",
    ),
    _by_fans(
        "variance_scaling",
        lambda i, o: (i * o) ** -0.25,
        "normal",
        mode="fan_geo_avg",
        distribution="untruncated_normal",
    ),
    _by_fans("siren", lambda i, o: sqrt(6 / i) / 30 / sqrt(3), "uniform"),
    _by_fans("siren", lambda i, o: 1 / i / sqrt(3), "uniform", first=True),
    # Orthogonal: the mean square of an entry is exactly gain²/max(rows, columns).
    Case("orthogonal", {}, {DENSE: 1 / sqrt(300), (60, 400): 1 / sqrt(400), CONV: 1 / sqrt(360)}),
    Case("orthogonal", {"gain": 1.5}, {DENSE: 1.5 / sqrt(300)}),
    Case("orthogonal", {"exact": True}, {(300, 260): 1 / sqrt(300)}),
    Case("delta_orthogonal", {}, {CONV: 1 / sqrt(15 * 40)}, home="conv", shapes=(CONV,)),
    # Looks linear: every signal, of which twins are one, has the same share of the variance.
    Case("looks_linear", {}, {DENSE: 1 / sqrt(300), (60, 401): 1 / sqrt(60), CONV: 1 / sqrt(15 * 24)}),
    Case(
        "looks_linear",
        {"activation": "relu"},
        {
            DENSE: 1 / sqrt(150),
            (301, 170): sqrt(300 / 301 / 150),
            (60, 401): 1 / sqrt(30),
            CONV: 1 / sqrt(15 * 12),
        },
    ),
    Case("delta_orthogonal", {"exact": True}, {CONV: 1 / sqrt(15 * 40)}, home="conv", shapes=(CONV,)),
    Case("looks_linear", {"exact": True}, {DENSE: 1 / sqrt(300)}),
    Case(
        "looks_linear",
        {"activation": "relu", "mirror": "inputs", "variance": 0.5, "input_blocks": 2},
        {DENSE: sqrt(0.5 / 150), (302, 40): sqrt(0.5 / 150 * 300 / 302)},
    ),
    Case("identity"),
    Case("dirac", home="conv", shapes=(CONV,)),
    Case("sparse", {"connections": 9, "stddev": 0.7}, {DENSE: 0.7 * sqrt(9 / 300)}),
    Case("bilinear", home="conv", shapes=(CONV,)),
    _by_fans("scaled", lambda i, o: 0.5 * sqrt(2 / i), "normal", initializer="he_normal", factor=0.5),
    _by_fans(
        "per_gate",
        lambda i, o: sqrt(2 / (i + o / 4)),
        "normal",
        initializer="glorot_normal",
        gates=4,
        shapes=((300, 160), CONV),
    ),
    # A sum of independent uniforms is no uniform: of normals it stays one.
    _by_fans(
        "summed",
        lambda i, o: sqrt(3 * 2 / (i + o)),
        "normal",
        initializer="glorot_normal",
        terms=3,
    ),
    Case("icnr", {"factor": 2}, {CONV: sqrt(2 / 360)}, home="conv4", shapes=(CONV,)),
    Case("looks_linear_bias", home="bias"),
    Case("looks_linear_bias", {"activation": "selu"}, home="bias"),
    Case("looks_linear_bias", {"activation": "gelu", "place": "flat"}, home="bias"),
    Case("prior_bias", {"prior": 0.2}, home="bias"),
    Case("prior_bias", {"counts": [1.0, 2.0, 5.0], "activation": "softmax"}, home="bias", shapes=((3,),)),
    Case("chrono_bias", {"timesteps": 50.0}, home="lstm_bias", shapes=((1200,),)),
]

BY_NAME = {case.name: case for case in reversed(CASES)}


def home_model(case: Case, initializer: Any) -> keras.Model:
    """A small model with the initializer in a layer where it belongs."""
    layers = keras.layers
    if case.home == "dense":
        stack = [keras.Input((6,)), layers.Dense(4, kernel_initializer=initializer, name="home")]
    elif case.home == "bias":
        stack = [keras.Input((6,)), layers.Dense(3, bias_initializer=initializer, name="home")]
    elif case.home == "lstm_bias":
        stack = [
            keras.Input((5, 3)),
            layers.LSTM(4, bias_initializer=initializer, unit_forget_bias=False, name="home"),
        ]
    else:
        outputs = 8 if case.home == "conv4" else 5
        stack = [
            keras.Input((6, 6, 3)),
            layers.Conv2D(outputs, 3, kernel_initializer=initializer, name="home"),
        ]
    return keras.Sequential(stack)


def home_initializer(case: Case, model: keras.Model) -> Any:
    """The initializer that `home_model` put into the model."""
    layer = model.get_layer("home")
    return layer.bias_initializer if "bias" in case.home else layer.kernel_initializer
