"""What a layer tells apart, against the same computed at length."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_winit.models.diagnosing.seen import distinct, effective_rank, named_right, principal, read_off
from keras_winit.support.host import host_array

RIDGES = (1e-3, 1e-1)
SHAPES = [(60, 7), (20, 33)]  # more samples than features, and fewer


def sample(count, width):
    rng = np.random.default_rng(count)
    x = rng.standard_normal((count, width)) * np.linspace(0.1, 2, width) @ rng.standard_normal((width, width))
    x -= x.mean(axis=0)
    answers = x[:, :3] @ rng.standard_normal((3, 2)) + rng.standard_normal((count, 2))
    return x, answers


def left_out(x, answers, ridge):
    """What a ridge regression with an intercept says of each sample when fitted to all others."""
    penalty = np.diag([0.0] + [ridge * np.sum(x**2) / len(x)] * x.shape[1])
    design = np.hstack([np.ones((len(x), 1)), x])
    said = []
    for index in range(len(x)):
        others = np.arange(len(x)) != index
        given = design[others]
        said.append(design[index] @ np.linalg.solve(given.T @ given + penalty, given.T @ answers[others]))
    return np.array(said)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_sample_is_left_out_once(shape):
    x, answers = sample(*shape)
    missed = min(np.sum((answers - left_out(x, answers, ridge)) ** 2) for ridge in RIDGES)
    power = np.sum((answers - answers.mean(axis=0)) ** 2)
    assert read_off(x, answers) == pytest.approx(1 - missed / power, rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_classes_are_named_by_those_left_out(shape):
    x, answers = sample(*shape)
    classes = np.digitize(answers[:, 0], np.quantile(answers[:, 0], [0.5, 0.8]))
    one_hot = np.eye(3)[classes]
    right = max(np.mean(left_out(x, one_hot, ridge).argmax(axis=1) == classes) for ridge in RIDGES)
    commonest = one_hot.mean(axis=0).max()
    assert named_right(x, classes) == pytest.approx((right - commonest) / (1 - commonest))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_axes_are_those_of_the_singular_values(shape):
    x, _ = sample(*shape)
    left, values, _ = np.linalg.svd(x, full_matrices=False)
    found = principal(x, 4)
    np.testing.assert_allclose(np.abs(found), np.abs(left[:, :4] * values[:4]), rtol=1e-6, atol=1e-9)
    shares = values**2 / np.sum(values**2)
    assert effective_rank(x) == pytest.approx(np.exp(-np.sum(shares * np.log(np.maximum(shares, 1e-300)))))


def test_what_does_not_vary_tells_nothing():
    nothing = np.zeros((20, 3))
    assert effective_rank(nothing) is None
    assert read_off(nothing, np.ones((20, 1))) is None
    assert named_right(np.ones((4, 2)) - 1, np.array([0, 0, 0, 0])) is None


def test_a_tensor_is_shown_without_a_copy():
    tensor = ops.convert_to_tensor(np.arange(12, dtype="float32").reshape(3, 4))
    if keras.backend.backend() != "jax":  # whose arrays Keras copies
        assert np.shares_memory(host_array(tensor), host_array(tensor))
    half = ops.cast(tensor, "bfloat16")
    np.testing.assert_array_equal(host_array(half).astype("float32"), ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("shape", [(5, 100_000), (3, 400_000), (40, 7)])  # two rows a piece, one, and all
def test_what_differs_is_summed_over_all_pieces(shape):
    array = np.random.default_rng(5).standard_normal(shape).astype("float32") + np.linspace(0, 2, shape[1])
    array = array.astype("float32") * np.arange(1, shape[0] + 1, dtype="float32")[:, None]
    exact = array.astype("float64")
    share = np.sum((exact - exact.mean(axis=0)) ** 2) / np.sum(exact**2)
    assert distinct(array) == pytest.approx(share, rel=1e-5)
