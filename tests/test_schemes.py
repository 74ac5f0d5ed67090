"""Every scheme against its theory, over the one table of cases."""

import copy
import json
import pickle
import random

import keras
import numpy as np
import pytest
from cases import BY_NAME, CASES
from helpers import BACKEND, array, assert_drawn_from

import keras_winit as winit
from keras_winit.schemes import Scheme, scheme_class

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
each_random = pytest.mark.parametrize(
    "case", [case for case in CASES if scheme_class(case.name).random], ids=lambda case: case.id
)


def make(case, **extra):
    return winit.get(case.name, **case.arguments, **extra)


def test_the_table_covers_every_scheme():
    assert set(winit.names()) == {case.name for case in CASES}


def test_every_scheme_class_is_public():
    for name in winit.names():
        cls = scheme_class(name)
        assert getattr(winit, cls.__name__) is cls
        assert cls.__name__ in winit.__all__


@each_case
def test_shape_and_dtype(case):
    for shape in case.shapes:
        for dtype in (None, "float32", "float16", "bfloat16"):
            tensor = make(case)(shape, dtype=dtype)
            assert tuple(tensor.shape) == shape
            assert keras.backend.standardize_dtype(tensor.dtype) == (dtype or "float32")
            assert np.isfinite(array(tensor)).all()


@each_case
def test_float64(case):
    if BACKEND == "jax":
        pytest.skip("JAX has no float64 unless jax_enable_x64 is set for the whole process")
    for shape in case.shapes:
        tensor = make(case)(shape, dtype="float64")
        assert keras.backend.standardize_dtype(tensor.dtype) == "float64"
        if make(case).random and case.name not in ("sparse", "delta_orthogonal"):
            # More digits than float32 holds: it was computed in float64, not cast to it.
            values = array(tensor)
            assert not np.array_equal(values, values.astype("float32"))


@each_case
def test_deviation_and_distribution(case):
    for shape, std in case.deviations.items():
        sample = array(make(case, seed=11)(shape))
        if case.distribution:
            assert_drawn_from(sample, case.distribution, std)
        elif case.name in ("orthogonal", "delta_orthogonal", "looks_linear"):
            assert np.sqrt(np.mean(np.square(sample, dtype="float64"))) == pytest.approx(std, rel=1e-5)
        else:  # few weights that count: sparse 9·170 normals, icnr a quarter of the kernel
            drawn = {"sparse": 9 * 170, "icnr": sample.size / 4}[case.name]
            assert sample.std() == pytest.approx(std, rel=5 * np.sqrt(2 / (4 * drawn)))


@each_case
def test_expected_std_is_the_theory(case):
    for shape, std in case.deviations.items():
        assert make(case).expected_std(shape) == pytest.approx(std, rel=1e-12)


@each_random
def test_seeds_keep_the_contract_of_keras(case):
    shape = case.shapes[0]
    for seed in (None, 3):
        scheme = make(case, seed=seed)
        np.testing.assert_array_equal(array(scheme(shape)), array(scheme(shape)))
    np.testing.assert_array_equal(array(make(case, seed=3)(shape)), array(make(case, seed=3)(shape)))
    assert not np.array_equal(array(make(case, seed=3)(shape)), array(make(case, seed=4)(shape)))
    assert not np.array_equal(array(make(case)(shape)), array(make(case)(shape)))
    moving = make(case, seed=keras.random.SeedGenerator(3))
    assert not np.array_equal(array(moving(shape)), array(moving(shape)))
    again = make(case, seed=keras.random.SeedGenerator(3))
    other = make(case, seed=keras.random.SeedGenerator(3))
    np.testing.assert_array_equal(array(again(shape)), array(other(shape)))
    copy = again.clone()  # which goes on by itself
    copy(shape)
    np.testing.assert_array_equal(array(again(shape)), array(other(shape)))


@each_random
def test_seeds_of_any_size(case):
    shape = case.shapes[0]
    drawn = [array(make(case, seed=seed)(shape)) for seed in (-1, 0, 2**31, 2**63, np.int64(7))]
    for i, first in enumerate(drawn):
        assert np.isfinite(first).all()
        for second in drawn[i + 1 :]:
            assert not np.array_equal(first, second)


@each_random
def test_none_follows_the_global_seed(case):
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(5)
        drawn.append(array(make(case)(case.shapes[0])))
    np.testing.assert_array_equal(*drawn)


@each_case
def test_config_round_trip(case):
    seeds = (None, 5, keras.random.SeedGenerator(5)) if "seed" in make(case).get_config() else (None,)
    for seed in seeds:
        extra = {"seed": seed} if len(seeds) > 1 else {}
        scheme = make(case, **extra)
        config = scheme.get_config()
        assert json.loads(json.dumps(config)) == config
        again = type(scheme).from_config(config)
        assert again.get_config() == config
        assert repr(again) == repr(scheme)
        serialized = keras.saving.serialize_keras_object(scheme)
        assert serialized["registered_name"] == f"winit>{case.name}"
        revived = keras.saving.deserialize_keras_object(serialized)
        assert type(revived) is type(scheme)
        assert revived.get_config() == config
        if isinstance(seed, int):
            shape = case.shapes[0]
            np.testing.assert_array_equal(array(revived(shape)), array(scheme(shape)))


@each_case
def test_copies_draw_the_same(case):
    scheme, shape = make(case), case.shapes[0]
    expected = array(scheme(shape))
    np.testing.assert_array_equal(array(copy.deepcopy(scheme)(shape)), expected)
    np.testing.assert_array_equal(array(pickle.loads(pickle.dumps(scheme))(shape)), expected)


@each_case
def test_attributes_are_the_arguments(case):
    scheme = make(case)
    for key, value in case.arguments.items():
        if key == "initializer":
            assert isinstance(scheme.initializer, Scheme)
        elif key == "fans":
            assert list(scheme.fans) == value
        elif key == "distribution" and value == "untruncated_normal":
            assert scheme.distribution == "normal"
        else:
            assert getattr(scheme, key) == value


@pytest.mark.parametrize("name", winit.names())
def test_half_precision_is_rounded_float32(name):
    case = BY_NAME[name]
    shape = case.shapes[0]
    scheme = make(case, **({"seed": 2} if scheme_class(name).random else {}))
    exact = keras.ops.convert_to_tensor(array(scheme(shape)))
    for dtype in ("float16", "bfloat16"):
        rounded = array(keras.ops.cast(exact, dtype))
        np.testing.assert_array_equal(array(scheme(shape, dtype=dtype)), rounded)


def test_bfloat16_uniform_takes_many_values_without_bias():
    sample = array(winit.LecunUniform(seed=0)((1000, 1000), dtype="bfloat16")).astype("float64")
    assert len(np.unique(sample)) > 1000
    assert abs(sample.mean()) < 3 * sample.std() / 1000


@each_case
def test_traces(case):
    scheme, shape = make(case), case.shapes[0]
    expected = array(scheme(shape))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        np.testing.assert_allclose(array(tf.function(lambda: scheme(shape))()), expected, atol=1e-5)
        # XLA has a random generator of its own: other numbers, of the same distribution.
        compiled = tf.function(lambda: scheme(shape), jit_compile=True)
        first = array(compiled())
        np.testing.assert_array_equal(first, array(compiled()))
        std = case.deviations.get(shape)
        if std and case.distribution:
            assert_drawn_from(first, case.distribution, std)
        assert first.std() == pytest.approx(expected.std(), rel=0.2)
    elif BACKEND == "jax":
        import jax

        np.testing.assert_allclose(array(jax.jit(lambda: scheme(shape))()), expected, rtol=1e-4, atol=1e-5)
    else:
        import torch

        torch.compiler.reset()  # else it stops compiling after some
        compiled = torch.compile(lambda: scheme(shape), backend="eager")
        np.testing.assert_allclose(array(compiled()), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", winit.names())
def test_integers_only_where_they_mean_something(name):
    case = BY_NAME[name]
    if scheme_class(name).random:
        with pytest.raises(ValueError, match="floating-point `dtype`"):
            make(case)(case.shapes[0], dtype="int32")
    else:
        assert keras.backend.standardize_dtype(make(case)(case.shapes[0], dtype="int32").dtype) == "int32"


class Decibels(Scheme):
    """A scheme of a user's own, which keeps its argument otherwise than it is given."""

    name = "decibels"

    def __init__(self, level=0.0, seed=None):
        self.level = 10 ** (level / 20)
        self.set_seed(seed)

    def get_config(self):
        return {"level": 20 * float(np.log10(self.level)), "seed": self._given_seed}

    def draw(self, shape, dtype):
        return keras.random.normal(shape, dtype=dtype, seed=self.seed) * self.level


def test_a_scheme_of_a_users_own_is_copied_by_its_configuration():
    scheme = Decibels(-40.0, seed=3)
    drawn = array(scheme((40, 30)))
    assert drawn.std() == pytest.approx(0.01, rel=0.1)
    np.testing.assert_allclose(array(scheme.clone()((40, 30))), drawn, rtol=1e-5)
    assert array(winit.Scaled(scheme, 2.0)((40, 30))).std() == pytest.approx(0.02, rel=0.1)
    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(30)])
    winit.initialize(model, scheme, seed=0)
    assert array(model.layers[0].kernel).std() == pytest.approx(0.01, rel=0.1)


def test_copies_of_wrappers_share_nothing_that_moves():
    scheme = winit.Scaled("he_normal")
    assert not np.array_equal(array(scheme.clone()((4, 3))), array(scheme((4, 3))))  # as of what it wraps
    moving = winit.Scaled(winit.HeNormal(seed=keras.random.SeedGenerator(3)))
    copy = moving.clone()
    first = array(copy((4, 3)))
    copy((4, 3))
    np.testing.assert_array_equal(array(moving((4, 3))), first)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="variables are made once in a function of TensorFlow")
def test_a_wrapper_of_a_moving_seed_traces():
    import tensorflow as tf

    scheme = winit.Scaled(winit.HeNormal(seed=keras.random.SeedGenerator(3)))
    assert tf.function(lambda: scheme((4, 3)))().shape == (4, 3)


def test_a_wrapper_of_what_has_no_seed_settles_its_own():
    scheme = winit.Scaled(winit.Scaled("zeros"))
    assert isinstance(scheme.seed, int)
    state = random.getstate()
    scheme((2, 2))
    assert random.getstate() == state
