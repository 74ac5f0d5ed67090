"""Arguments, configurations, shapes and seeds of any kind: a tensor or a documented error, at once."""

import itertools
import re
import tracemalloc

import keras
import numpy as np
import pytest
from cases import BY_NAME
from hostile import EFFORT, answer, assert_valid, deep, hunting, itself, junk, numbers, state, words
from hypothesis import given
from hypothesis import strategies as st

import keras_winit as winit
from keras_winit.schemes import scheme_class
from keras_winit.schemes.base import parameters

SHAPES = ((4, 8), (3, 3, 4, 8), (8,))
WRAPPERS = ("scaled", "per_gate", "icnr", "summed")
dtypes = st.sampled_from(["float32", "float16", "bfloat16"])

CONFIGS = {name: winit.get(name, **BY_NAME[name].arguments).get_config() for name in winit.names()}

WAYS = {
    "from_config": lambda name, config: scheme_class(name).from_config(config),
    "deserialize": lambda name, config: keras.initializers.deserialize(
        {"class_name": f"winit>{name}", "config": config, "module": None, "registered_name": f"winit>{name}"}
    ),
    "get": lambda name, config: winit.get({"class_name": f"winit>{name}", "config": config}),
    "call": lambda name, config: winit.get(name, **config),
}


@st.composite
def mutated(draw):
    """The name of a scheme and its config, with arguments missing, unknown, or anything at all."""
    name = draw(st.sampled_from(winit.names()))
    config = dict(CONFIGS[name])
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.integers(0, 11))
        if kind == 0:
            config[draw(words)] = draw(junk)
        elif kind == 1 and config:
            del config[draw(st.sampled_from(sorted(config)))]
        elif parameters(scheme_class(name)):
            config[draw(st.sampled_from(sorted(parameters(scheme_class(name)))))] = draw(
                st.one_of(junk, numbers, st.lists(numbers, max_size=3))
            )
    return name, config


@EFFORT
def test_any_config_gives_a_tensor_or_a_documented_error(effort):
    @hunting(1500, effort)
    @given(case=mutated(), way=st.sampled_from(sorted(WAYS)), shape=st.sampled_from(SHAPES), dtype=dtypes)
    def attempt(case, way, shape, dtype):
        scheme = answer(WAYS[way], *case)
        if scheme is None:
            return
        assert repr(scheme)
        tensor = answer(scheme, shape, dtype=dtype)
        if tensor is not None:
            assert_valid(tensor, shape)

    attempt()


@EFFORT
def test_what_is_no_config_is_refused(effort):
    @hunting(500, effort)
    @given(name=st.sampled_from(winit.names()), config=junk)
    def attempt(name, config):
        answer(scheme_class(name).from_config, config)
        answer(keras.initializers.deserialize, {"class_name": f"winit>{name}", "config": config})
        answer(winit.get, config)
        answer(winit.get, {"class_name": f"winit>{name}", "config": config})

    attempt()


@EFFORT
def test_seeds_of_any_kind(effort):
    @hunting(300, effort)
    @given(name=st.sampled_from(winit.names()), seed=st.one_of(junk, st.integers(), numbers))
    def attempt(name, seed):
        if "seed" not in parameters(scheme_class(name)):
            return
        scheme = answer(winit.get, name, **{**BY_NAME[name].arguments, "seed": seed})
        if scheme is None:
            assert isinstance(seed, bool) or not (seed is None or isinstance(seed, int))
            return
        shape = (8,) if name == "chrono_bias" else (3, 3, 4, 8)
        first, second = scheme(shape), scheme(shape)
        assert_valid(first, shape)
        if isinstance(seed, int):
            np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (first, second)))

    attempt()


def test_every_integer_is_a_seed_of_its_own():
    seeds = [0, -1, 2**31 - 2, 2**64, 10**400, 10**5000, 10**5000 + 1]
    drawn = [keras.ops.convert_to_numpy(winit.HeNormal(seed=seed)((4, 8))) for seed in seeds]
    for one, other in itertools.combinations(drawn, 2):
        assert not np.array_equal(one, other)


shapes = st.one_of(
    st.lists(st.one_of(st.integers(-2, 3), numbers), max_size=4).map(tuple),
    st.sampled_from(
        [
            (2**40, 2**40),
            (2**62,),
            (10**400, 3),
            (10**4000, 2),
            (2**51, 1),
            (1,) * 64,
            (1,) * 65,
            (1,) * 10**5,
        ]
    ),
    st.sampled_from([range(3), range(10**9), {3, 4}, {3: 4}, b"34", np.array([3, 4]), np.zeros((2, 2))]),
    junk,
)


def sensible(shape):
    """Whether a shape is not so large, though possible, that memory decides."""
    try:
        return int(np.prod([float(size) for size in shape])) < 2**12
    except (TypeError, ValueError, OverflowError):
        return True


@EFFORT
def test_any_shape_and_dtype(effort):
    @hunting(700, effort)
    @given(
        name=st.sampled_from(winit.names()),
        shape=shapes,
        dtype=st.one_of(
            st.none(), dtypes, dtypes, junk, st.sampled_from(["string", "complex64", "bool", "int8"])
        ),
    )
    def attempt(name, shape, dtype):
        possible = isinstance(shape, tuple) and all(type(size) is int and size > 0 for size in shape)
        if (
            possible
            and not sensible(shape)
            and np.log2(list(map(float, map(min, shape, itertools.repeat(10**300))))).sum() < 50
        ):
            return
        tensor = answer(winit.get(name, **BY_NAME[name].arguments), shape, dtype=dtype)
        if tensor is not None:
            assert tuple(tensor.shape) == tuple(shape)
        fans = answer(winit.compute_fans, shape)
        assert fans is None or min(fans) > 0

    attempt()


def test_a_word_of_megabytes_is_no_name():
    word = "he_" + "normal" * 10**6
    for call in (winit.get, winit.gain, winit.for_activation, lambda word: winit.HeNormal(mode=word)):
        assert answer(call, word) is None


def test_a_shape_without_end_is_refused():
    for shape in (itertools.count(1), itertools.repeat(2)):
        with pytest.raises(ValueError, match="at most 64 dimensions"):
            winit.HeNormal()(shape)
    with pytest.raises(ValueError, match="at most 64 axes"):
        winit.HeNormal(input_axes=itertools.count(), output_axes=[0])
    with pytest.raises(TypeError, match="must be a pair"):
        winit.HeNormal(fans=itertools.count(1))


@pytest.mark.parametrize("name", winit.names())
def test_a_tensor_larger_than_any_memory_is_refused_before_it_is_made(name):
    shape = (4,) if name == "chrono_bias" else (3, 3, 4, 8)
    with pytest.raises(ValueError, match=r"larger than any memory. Received: shape="):
        winit.get(name, **BY_NAME[name].arguments)((*shape[:-1], 2**60))


@EFFORT
def test_wrappers_in_wrappers_are_drawn_to_a_depth(effort):
    @hunting(60, effort)
    @given(
        chain=st.lists(st.sampled_from(WRAPPERS), max_size=20),
        inner=st.sampled_from(["he_normal", "orthogonal", "zeros", "no_such_scheme"]),
        seed=st.one_of(st.none(), st.integers(0, 9)),
    )
    def attempt(chain, inner, seed):
        config = inner
        for name in chain:
            own = {"per_gate": {"gates": 1}, "summed": {"terms": 1 + len(chain) % 2}, "icnr": {"factor": 1}}
            config = {
                "class_name": f"winit>{name}",
                "config": {"initializer": config, "seed": seed, **own.get(name, {})},
            }
        scheme = answer(winit.get, config)
        if inner == "no_such_scheme" or len(chain) > 16:
            assert scheme is None
        elif scheme is not None:
            tensor = answer(scheme, (3, 3, 4, 8))
            assert tensor is None or assert_valid(tensor, (3, 3, 4, 8)) is None

    attempt()


def test_a_wrapper_without_end_is_refused():
    tracemalloc.start()
    for config in (itself()[1], deep(17), deep(1000), deep(10**5)):
        for call in (
            winit.get,
            keras.initializers.deserialize,
            lambda config: winit.Scaled.from_config(config["config"]),
            lambda config: winit.PerGate(config),
            lambda config: winit.HeNormal(seed=config),
            lambda config: winit.Constant.from_config({"value": config}),
        ):
            assert answer(call, config) is None
    for held in (itself()[0], [deep(10**5)]):
        for name in winit.names():
            for key in parameters(scheme_class(name)):
                assert answer(scheme_class(name).from_config, {key: held}) is None
                assert answer(winit.get, name, **{key: held}) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**28, f"{peak / 2**20:.0f} MiB"
    scheme = winit.Scaled("he_normal")
    scheme.initializer = scheme
    for call in (
        scheme.get_config,
        lambda: scheme((4, 8)),
        lambda: winit.Summed(scheme),
        lambda: scheme.clone(),
    ):
        with pytest.raises(ValueError, match="must not wrap itself, nor be nested more than 16 deep"):
            call()
    assert "..." in repr(scheme)


def test_what_would_take_years_is_refused():
    with pytest.raises(ValueError, match="`terms` must be at most 1024"):
        winit.Summed(terms=10**9)
    with pytest.raises(ValueError, match="`terms` must be at most 1024"):
        winit.Summed(winit.Scaled(winit.Summed(terms=100)), terms=100)
    with pytest.raises(ValueError, match="must divide the last dimension"):
        winit.PerGate(gates=10**400)((4, 8))


@pytest.mark.parametrize(
    "scheme",
    [
        winit.RandomNormal(stddev=1e300),
        winit.RandomNormal(mean=1e300),
        winit.RandomUniform(-1e308, 1e308),
        winit.RandomNormal(stddev=1e-300),
        winit.TruncatedNormal(stddev=1e38),
        winit.HeNormal(negative_slope=1e200),
        winit.HeUniform(fans=(1e-300, 1e-300)),
        winit.VarianceScaling(1e300),
        winit.VarianceScaling(mode="fan_geo_avg", fans=(1e300, 1e300)),
        winit.Siren(omega_0=1e-200),
        winit.Siren(omega_0=1e200),
        winit.Siren(first=True, fans=(1e300, 1)),
        winit.Orthogonal(gain=1e300),
        winit.Constant(1e300),
        winit.Constant([1.0] * 7 + [1e300]),
        winit.Identity(gain=-1e300),
        winit.Sparse(stddev=1e300),
        winit.Scaled("ones", factor=1e300),
        winit.Scaled(winit.Scaled("he_normal", factor=1e30), factor=1e30),
        winit.PriorBias(counts=[1e300] + [1.0] * 7),
        winit.PriorBias(counts=[1e308] * 8),
    ],
    ids=repr,
)
def test_numbers_that_would_be_infinite_or_all_zero_are_refused(scheme):
    with pytest.raises(ValueError, match="Received: "):
        scheme((8, 8))


def test_numbers_beyond_float16_are_refused_there_alone():
    for scheme in (winit.RandomNormal(stddev=1e5), winit.Constant(1e5), winit.Identity(gain=1e5)):
        assert_valid(scheme((4, 8)), (4, 8))
        with pytest.raises(ValueError, match="beyond float16's largest number"):
            scheme((4, 8), dtype="float16")


CALLS = {
    "gain": winit.gain,
    "backward gain": lambda activation: winit.gain(activation, "backward"),
    "recommend": lambda activation: str(winit.recommend(activation)),
    "for_activation": winit.for_activation,
    "exact": lambda activation: winit.for_activation(activation, method="exact"),
    "distribution": lambda value: winit.for_activation("relu", distribution=value),
    "method": lambda value: winit.recommend("relu", method=value),
    "direction": lambda value: winit.gain("relu", value),
    "seed": lambda value: winit.for_activation("relu", seed=value),
    "for_layer": winit.for_layer,
    "layer_fans": winit.layer_fans,
    "portable": winit.portable,
    "initialize": winit.initialize,
    "calibrate": winit.calibrate,
    "diagnose": winit.diagnose,
}


@EFFORT
def test_activations_and_layers_that_are_none(effort):
    @hunting(400, effort)
    @given(call=st.sampled_from(sorted(CALLS)), value=junk)
    def attempt(call, value):
        if value is not len:  # it is callable, and answers with its own error
            answer(CALLS[call], value)

    attempt()


@EFFORT
def test_activations_that_answer_with_anything(effort):
    @hunting(150, effort)
    @given(
        value=st.one_of(junk, st.sampled_from([np.zeros((2, 2)), np.full((2, 2), np.nan), np.zeros((0, 2))]))
    )
    def attempt(value):
        answer(winit.gain, lambda x: value)
        answer(winit.for_activation, lambda x: value, method="exact")

    attempt()


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((6,), name="in")
    x = keras.layers.Dense(8, "relu", name="first")(inputs)
    result = keras.Model(inputs, keras.layers.Dense(4, name="last")(x))
    result.compile("adam", keras.losses.MeanSquaredError())
    result.optimizer.build(result.trainable_variables)
    return result


@EFFORT
def test_a_model_asked_for_anything_changes_in_whole_or_not(effort, model):
    patterns = st.one_of(
        words,
        st.sampled_from([".*", "first", "(", "a{99999999999}", "(" * 9999, b"first"]),
        junk.filter(_hashable),
    )
    schemes = st.one_of(st.sampled_from(["auto", "keep", "torch", "zeros"]), junk)

    @hunting(250, effort)
    @given(
        scheme=st.one_of(junk, st.dictionaries(patterns, schemes, max_size=3), words),
        seed=st.one_of(st.just(0), st.just(0), junk),
    )
    def attempt(scheme, seed):
        before = state(model)
        if answer(winit.initialize, model, scheme, seed=seed) is None:
            assert state(model) == before
        else:
            assert all(np.isfinite(value).all() for value in model.get_weights())
        answer(winit.layer_fans, model, scheme)

    attempt()


def _hashable(value):
    try:
        hash(value)
    except TypeError:
        return False
    return True


@EFFORT
def test_other_arguments_of_a_model_are_refused_at_once(effort, model):
    @hunting(150, effort)
    @given(
        value=junk,
        key=st.sampled_from(["data", "target_std", "scheme", "seed", "labels", "loss", "thresholds"]),
    )
    def attempt(value, key):
        before = state(model)
        if key in ("data", "target_std", "scheme", "seed"):
            found = answer(winit.calibrate, model, **{"scheme": "keep", key: value})
            if found is not None:
                winit.initialize(model, seed=0)
                return
        else:
            data = {} if key == "thresholds" else {"data": np.ones((4, 6), "float32")}
            labels = {"labels": np.ones((4, 4), "float32")} if key == "loss" else {}
            answer(winit.diagnose, model, **data, **labels, **{key: value})
        assert state(model) == before

    attempt()


def test_a_key_that_is_no_expression_is_named(model):
    for pattern in ("(", "a{99999999999999999999}", "(" * 5000, b"first", 3):
        with pytest.raises(ValueError, match=re.escape("A key of `scheme` must be a regular expression")):
            winit.initialize(model, {pattern: "zeros"})
