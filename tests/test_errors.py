"""What is wrong, what was received, and what to do: every argument of every scheme."""

import math
from decimal import Decimal

import keras
import numpy as np
import pytest
from cases import BY_NAME
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_winit as winit
from keras_winit.schemes import scheme_class
from keras_winit.schemes.base import parameters

NUMBERS = ("a string", None, [1.0, 2.0], True, math.nan, math.inf, 1j)
POSITIVE = (*NUMBERS, 0, -1.0)
SEEDS = ("1", 1.5, True, [1], object())
AXES = (3, "01", [1.0], [0, 0], [None])

BAD = {
    "seed": SEEDS,
    "input_axes": AXES,
    "output_axes": AXES,
    "fans": (3, "ab", (1,), (1, 2, 3), (0, 2), (3, -1), (math.nan, 1), ("a", 2), (True, 2)),
    "mode": ("fan", None, 3, "FAN_IN"),
    "distribution": ("gaussian", None, 3),
    "truncated": (1, "yes", None),
    "exact": (1, "yes", None),
    "first": (1, "yes", None),
    "gain": NUMBERS,
    "negative_slope": NUMBERS,
    "mean": NUMBERS,
    "factor": NUMBERS,
    "minval": (*NUMBERS, 9.0),
    "maxval": (*NUMBERS, -9.0),
    "scale": POSITIVE,
    "stddev": POSITIVE,
    "omega_0": POSITIVE,
    "cut": (*NUMBERS, 0.9, 5.1, 1e300),
    "factors": ("ab", 3, True, [1.0], [1.0, 2.0, 3.0, "4"], [1.0, 2.0, 3.0, math.nan]),
    "timesteps": (*NUMBERS, 2, -3),
    "connections": (*NUMBERS, 0, -1, 2.5),
    "gates": (*NUMBERS, 0, -1, 2.5),
    "terms": (*NUMBERS, 0, -1, 2.5),
    "groups": (*NUMBERS, 0, -1, 2.5),
    "cell": ("rnn", None, 3),
    "activation": ("relu", None, 3),
    "mirror": (3, "twice", "input"),
    "place": (3, "zero", None, "FLAT"),
    "variance": POSITIVE,
    "input_variance": POSITIVE,
    "input_mean": NUMBERS,
    "input_blocks": (*NUMBERS, 0, -1, 2.5),
    "prior": (*[n for n in NUMBERS if not isinstance(n, list)], 0, 1, 1.5, [0.2, 0.0], [[0.2]]),
    "counts": ("a string", 3, [1], [1, 0], [1, -2], [[1, 2]], [1, math.nan]),
    "value": ("a string", math.nan, math.inf, [1, [2, 3]], {"a": 1}, object()),
    "initializer": ("no_such_scheme", None, 3, object()),
}
ALSO_BAD = {("orthogonal", "gain"): (0, -1.0), ("delta_orthogonal", "gain"): (0, -1.0)}
# An integer factor, for which a number that is no integer is wrong too.
ALSO_BAD[("icnr", "factor")] = (0, -1, 2.5)
OPTIONAL = (
    *("seed", "input_axes", "output_axes", "fans", "counts"),
    *("mirror", "variance", "input_variance"),
)
# Any activation is good but one that has no odd part, or none around any mean.
INSTEAD = {
    ("looks_linear", "activation"): (3, "rleu", "softmax", "glu", keras.ops.square),
    ("looks_linear_bias", "activation"): (3, "rleu", "softmax", "glu", keras.ops.ones_like),
}

ARGUMENTS = [
    (name, key, value)
    for name in winit.names()
    for key in parameters(scheme_class(name))
    for value in (*INSTEAD.get((name, key), BAD[key]), *ALSO_BAD.get((name, key), ()))
    if value is not None or key not in OPTIONAL
]


@pytest.mark.parametrize(("name", "key", "value"), ARGUMENTS)
def test_a_bad_argument_is_named_with_what_was_received(name, key, value):
    with pytest.raises((TypeError, ValueError)) as caught:
        winit.get(name, **{**BY_NAME[name].arguments, key: value})
    message = str(caught.value)
    told = "Received" in message or "no scheme named" in message
    assert told or key == "initializer" or (name, key) in INSTEAD
    if key != "initializer":
        assert f"`{key}`" in message or (name, key) in INSTEAD


@pytest.mark.parametrize("name", winit.names())
def test_a_bad_shape_is_an_error(name):
    scheme = winit.get(name, **BY_NAME[name].arguments)
    rank = len(BY_NAME[name].shapes[0])
    for dim in (0, -3, None, 2.5, "4", True):
        shape = (*BY_NAME[name].shapes[0][: rank - 1], dim)
        with pytest.raises((TypeError, ValueError), match="`shape` must hold .* Received: shape="):
            scheme(shape)
    for shape in (7, "34", None):
        with pytest.raises(TypeError, match="`shape` must be a tuple of positive integers"):
            scheme(shape)
    with pytest.raises(ValueError, match="`dtype` must be the name of a dtype.* Received: dtype="):
        scheme(BY_NAME[name].shapes[0], dtype="float31")


@pytest.mark.parametrize("name", winit.names())
@pytest.mark.parametrize(
    "shape", [(), (4,), (4, 6), (3, 4, 8), (3, 3, 4, 8), (2, 3, 3, 4, 8), (2, 2, 2, 2, 4, 8)]
)
def test_any_rank_is_drawn_or_refused(name, shape):
    scheme = winit.get(name, **BY_NAME[name].arguments)
    try:
        tensor = scheme(shape)
    except ValueError as error:
        assert "Received" in str(error)
    else:
        assert tuple(tensor.shape) == shape
        assert np.isfinite(keras.ops.convert_to_numpy(tensor)).all()


@pytest.mark.parametrize(
    ("scheme", "shape", "message"),
    [
        (winit.Orthogonal(), (4,), "2 or more dimensions"),
        (winit.DeltaOrthogonal(), (3, 3, 8, 4), "at least as many output channels"),
        (winit.DeltaOrthogonal(), (3, 4), "3 to 5 dimensions"),
        (winit.Dirac(groups=3), (3, 3, 4, 8), "`groups` must divide"),
        (winit.PerGate(gates=3), (4, 8), "`gates` must divide"),
        (winit.ICNR(factor=2), (3, 3, 4, 6), "divide by factor"),
        (winit.Constant([1.0, 2.0]), (2, 3), "does not broadcast"),
        (winit.PriorBias([0.1, 0.2]), (3,), "one number for each output"),
        (winit.PriorBias(counts=[1, 2], activation="softmax"), (3,), "one number for each output"),
        (winit.ChronoBias(), (7,), "of a bias"),
        (winit.ChronoBias(cell="gru"), (3, 6), "of a bias"),
        (winit.HeNormal(input_axes=[0], output_axes=[5]), (3, 4), "an axis that the shape does not have"),
        (winit.HeNormal(input_axes=[0], output_axes=[-2]), (3, 4), "either an input or an output"),
    ],
)
def test_a_shape_that_does_not_fit_the_arguments(scheme, shape, message):
    with pytest.raises(ValueError, match=f"{message}.*Received") as caught:
        scheme(shape)
    assert str(caught.value)


def test_axes_go_together():
    with pytest.raises(ValueError, match="go together"):
        winit.HeNormal(input_axes=[0])


def test_softmax_priors_sum_to_one():
    with pytest.raises(ValueError, match="sum to 1"):
        winit.PriorBias([0.1, 0.2], activation="softmax")


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ValueError, match='Did you mean "he_uniform"'):
        winit.get("he_unifrom")
    with pytest.raises(ValueError, match='Did you mean "orthogonal"'):
        winit.get("winit>ortogonal")
    with pytest.raises(TypeError, match="Arguments go with a name"):
        winit.get(winit.HeNormal(), seed=1)
    for bad in (3, None, object(), lambda shape, dtype=None: shape, dict):
        with pytest.raises(TypeError, match="Pass the name of a scheme"):
            winit.get(bad)


@pytest.mark.parametrize("name", winit.names())
def test_a_config_with_unknown_keys_is_an_error(name):
    cls = scheme_class(name)
    with pytest.raises(ValueError, match=r"no argument 'sneed'.*It takes"):
        cls.from_config({**cls().get_config(), "sneed": 3})
    with pytest.raises(TypeError, match="must be a dict"):
        cls.from_config([("seed", 3)])


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(winit.names()),
    shape=st.lists(st.integers(-1, 7), max_size=5),
    dtype=st.sampled_from(["float16", "bfloat16", "float32"]),
)
def test_any_shape_is_drawn_exactly_or_refused(name, shape, dtype):
    scheme = winit.get(name, **BY_NAME[name].arguments)
    try:
        tensor = scheme(shape, dtype=dtype)
    except ValueError as error:
        assert "Received" in str(error)
    else:
        assert tuple(tensor.shape) == tuple(shape)
        assert np.isfinite(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))).all()


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(winit.names()),
    data=st.data(),
    value=st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.lists(st.integers(), max_size=3),
    ),
)
def test_any_argument_is_taken_or_refused(name, data, value):
    key = data.draw(st.sampled_from([*parameters(scheme_class(name)), "other"]))
    config = {**winit.get(name).get_config(), key: value}
    cls = scheme_class(name)
    try:
        scheme = cls.from_config(config)
    except (ValueError, TypeError) as error:
        assert str(error)
    else:
        assert cls.from_config(scheme.get_config()).get_config() == scheme.get_config()


def test_numbers_of_other_libraries_are_numbers():
    assert winit.HeNormal(negative_slope=np.float32(0.5)).negative_slope == 0.5
    assert winit.Sparse(connections=np.int64(3)).connections == 3
    with pytest.raises(TypeError, match="`gain` must be a number"):
        winit.Orthogonal(gain=Decimal("1"))
