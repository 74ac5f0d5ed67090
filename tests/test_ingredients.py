"""The small random parts of large orthogonal matrices, each by its law; they are NumPy's on every backend."""

import math

import numpy as np
import pytest
from helpers import BACKEND, assert_drawn_from
from scipy import stats

from keras_winit.drawing.scrambled import Stream

pytestmark = pytest.mark.skipif(BACKEND != "tensorflow", reason="of NumPy alone")
LEAST = 1e-4  # of a p-value


def test_normal_numbers():
    numbers = Stream(1).normal(201, 997)  # an odd count: one of a pair is left over
    assert_drawn_from(numbers, "normal", 1.0)
    first, second = np.array_split(numbers.ravel()[:-1], 2)  # of pairs, which are to be independent
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(len(first))
    assert abs(np.corrcoef(first**2, second**2)[0, 1]) < 5 / math.sqrt(len(first))


@pytest.mark.parametrize("count", [0, 1, 2, 20_000])
def test_points_of_a_disc(count):
    points, distances = Stream(2).disc(count)
    assert points.shape == distances.shape == (count,)
    np.testing.assert_allclose(distances, np.abs(points) ** 2)
    if count > 2:
        assert stats.kstest(distances, "uniform").pvalue > LEAST
        assert stats.kstest(np.angle(points) / (2 * math.pi) + 0.5, "uniform").pvalue > LEAST


@pytest.mark.parametrize("size", [8, 13])
def test_circles_are_orthonormal_to_their_shifts_and_of_uniform_phases(size):
    vectors = Stream(3).circles(4000, size)
    shifts = np.stack([np.roll(vectors[0], shift) for shift in range(size)])
    np.testing.assert_allclose(shifts @ shifts.T, np.eye(size), atol=1e-12)
    phases = np.angle(np.fft.rfft(vectors)[:, 1]) / (2 * math.pi) + 0.5
    assert stats.kstest(phases, "uniform").pvalue > LEAST


def test_small_matrices_have_the_law_of_haar():
    count, size = 4000, 5
    matrices = Stream(4).haar(count, size)
    gram = np.swapaxes(matrices, 1, 2) @ matrices
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(size), gram.shape), atol=1e-12)
    law = stats.beta((size - 1) / 2, (size - 1) / 2, loc=-1, scale=2)
    for row, column in ((0, 0), (4, 1), (2, 4), (4, 4)):
        assert stats.kstest(matrices[:, row, column], law.cdf).pvalue > LEAST
    assert stats.binomtest(int((np.linalg.det(matrices) > 0).sum()), count).pvalue > LEAST
    traces = np.trace(matrices, axis1=1, axis2=2)
    assert abs(traces.mean()) < 5 / math.sqrt(count)
    # The first column is as likely in any direction: turned, its entries have the same law.
    turned = matrices[:, :, 0] @ np.full(size, 1 / math.sqrt(size))
    assert stats.kstest(turned, law.cdf).pvalue > LEAST


def test_orders_and_signs():
    orders = Stream(5).orders(24_000, 4)
    assert (np.sort(orders, axis=1) == np.arange(4)).all()
    seen = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(seen) == 24
    assert stats.chisquare(seen).pvalue > LEAST
    assert stats.binomtest(int(Stream(6).signs(10_000).sum()), 10_000).pvalue > LEAST
