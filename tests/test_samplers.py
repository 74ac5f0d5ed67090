"""The generators themselves: ten million draws, their tails, half precision, and large tensors."""

import math

import keras
import numpy as np
import pytest
from helpers import BACKEND, DISTRIBUTION, array, assert_drawn_from, std_tolerance
from scipy import stats

import keras_winit as winit
from keras_winit.drawing import sampling
from keras_winit.drawing.sampling import draw

SHAPE = (2500, 4001)  # more than 10⁷, and an odd number of them
SCHEMES = {
    "uniform": winit.RandomUniform(-math.sqrt(3), math.sqrt(3), seed=11),
    "normal": winit.RandomNormal(stddev=1.0, seed=12),
    "truncated_normal": winit.TruncatedNormal(stddev=1.0, seed=13),
}


def test_ten_million_uniforms():
    sample = array(SCHEMES["uniform"](SHAPE))
    assert_drawn_from(sample, "uniform", 1.0)
    limit = math.sqrt(3)
    assert -limit <= sample.min() < -limit + 1e-5
    assert limit - 1e-5 < sample.max() <= limit


@pytest.mark.parametrize("name", ["normal", "truncated_normal"])
def test_ten_million_normals_and_their_tails(name):
    sample = array(SCHEMES[name](SHAPE))
    assert np.isfinite(sample).all()
    assert_drawn_from(sample, name, 1.0)
    law = DISTRIBUTION[name](1.0)
    for edge in (4.0, 5.0) if name == "normal" else (2.2, 2.27):
        for beyond in (int((sample > edge).sum()), int((sample < -edge).sum())):
            assert stats.binomtest(beyond, sample.size, float(law.sf(edge))).pvalue > 1e-4, (edge, beyond)
    if name == "truncated_normal":
        assert np.abs(sample).max() <= 2 / float(stats.truncnorm.std(-2, 2)) * (1 + 1e-6)


def test_neighbours_and_halves_are_independent():
    sample = array(SCHEMES["normal"](SHAPE)).ravel()
    half = (sample.size + 1) // 2  # what shares a radius in Box and Muller's way
    for lag in (1, 2, SHAPE[1], half):
        left, right = sample[:-lag], sample[lag:]
        bound = 5 / math.sqrt(left.size)
        assert abs(np.mean(left * right)) < bound, lag
        assert abs(np.mean((left**2 - 1) * (right**2 - 1))) / 2 < bound, lag


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about the generator of large tensors there")
@pytest.mark.parametrize("distribution", ["uniform", "normal", "truncated_normal"])
def test_large_tensors_are_the_same_in_a_graph(distribution):
    import tensorflow as tf

    from keras_winit.drawing.tensorflow_random import LARGE

    size = (LARGE + 1,)
    eager = array(draw(distribution, size, 0.3, "float32", 5))
    traced = array(tf.function(lambda: draw(distribution, size, 0.3, "float32", 5))())
    np.testing.assert_allclose(eager, traced, rtol=1e-6, atol=1e-7)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about the generator of large tensors there")
def test_the_most_extreme_uniforms_give_finite_normals(monkeypatch):
    import tensorflow as tf

    from keras_winit.drawing import tensorflow_random

    last = np.float32(1 - 2**-23)  # TensorFlow's uniforms are multiples of 2⁻²³ in [0, 1)
    monkeypatch.setattr(
        tf.raw_ops,
        "StatelessRandomUniform",
        lambda shape, seed, dtype: tf.reshape(tf.constant([0, last, 0, last, 0, last, last, 0.5]), shape),
    )
    with tf.Graph().as_default():  # traced anew, with what is patched
        monkeypatch.setattr(tensorflow_random, "LARGE", 1)
        normals = sampling.normal((8,), 1.0, "float32", 0)
    with tf.compat.v1.Session(graph=normals.graph) as session:
        values = session.run(normals)
    assert np.isfinite(values).all()
    assert np.abs(values).max() == pytest.approx(math.sqrt(2 * 23 * math.log(2)), rel=1e-5)


def test_half_precision_keeps_what_is_subnormal():
    scheme = winit.RandomNormal(stddev=3e-6, seed=1)  # float16 is normal from 6.1e-5 on
    half, single = (array(scheme((1000, 300), dtype=dtype)) for dtype in ("float16", "float32"))
    np.testing.assert_array_equal(half, single.astype("float16").astype("float32"))
    assert (half != 0).mean() > 0.98
    assert half.std() == pytest.approx(3e-6, rel=std_tolerance("normal", half.size))


def test_half_precision_refuses_what_rounds_to_zero():
    with pytest.raises(ValueError, match="float16's least number"):
        winit.RandomNormal(stddev=1e-9)((30, 20), dtype="float16")
    assert array(winit.RandomNormal(stddev=1e-9, seed=0)((30, 20), dtype="bfloat16")).std() > 0
    assert not array(winit.Zeros()((30, 20), dtype="float16")).any()
    # What survives may be little, and beside a mean the deviation says nothing.
    assert array(winit.RandomNormal(stddev=5e-8, seed=0)((30, 20), dtype="float16")).any()
    assert (array(winit.RandomNormal(mean=1.0, stddev=1e-9, seed=0)((5, 4), dtype="float16")) == 1).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["uniform", "normal"])
def test_a_million_half_precision_draws_have_no_bias(name, dtype):
    sample = array(SCHEMES[name]((1000, 1000), dtype=dtype)).astype("float64")
    assert abs(sample.mean()) < 3 * sample.std() / 1000
    assert len(np.unique(sample)) > 1000


def test_a_seed_generator_moves_on_in_every_sampler():
    for distribution in DISTRIBUTION:
        seed = keras.random.SeedGenerator(3)
        first, second = (array(draw(distribution, (400, 30), 0.5, "float32", seed)) for _ in range(2))
        assert not np.array_equal(first, second)
        for sample in (first, second):
            assert_drawn_from(sample, distribution, 0.5)
