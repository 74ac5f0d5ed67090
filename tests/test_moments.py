"""Means and deviations of large tensors: their digits, what does not vary, half precision, channels."""

import math

import numpy as np
import pytest
from keras import ops

from keras_winit.support.exact import channel_moments, moments


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1.0, 1e12, 1e25])
@pytest.mark.parametrize("mean", [0.0, 1.0, 300.0])
def test_moments_keep_their_digits(scale, mean):
    values = (np.random.default_rng(0).standard_normal((300, 1100)) + mean) * scale
    found = moments(ops.convert_to_tensor(values.astype("float32")))
    exact = values.astype("float32").astype("float64")
    assert found.std == pytest.approx(exact.std(), rel=1e-4)
    assert found.mean == pytest.approx(exact.mean(), rel=1e-4, abs=1e-4 * scale)
    assert found.varies


def test_moments_of_what_does_not_vary():
    assert not moments(ops.full((3, 50), 0.1)).varies
    assert not moments(ops.zeros((3, 50))).varies
    assert math.isnan(moments(ops.convert_to_tensor([1.0, np.nan])).std)
    assert math.isnan(moments(ops.convert_to_tensor([1.0, np.inf])).std)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_moments_of_half_precision(dtype):
    values = np.random.default_rng(0).standard_normal(50_000).astype("float32") * 100
    found = moments(ops.cast(ops.convert_to_tensor(values), dtype))
    assert found.std == pytest.approx(values.std(), rel=1e-3)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
@pytest.mark.parametrize("offset", [0.0, 0.3, 1e3])
def test_moments_of_channels(axis, scale, offset):
    values = np.random.default_rng(0).standard_normal((40, 6, 70, 99)) * np.arange(1, 100) ** 0.5 + offset
    values = (values * scale).astype("float32")
    tensor = ops.convert_to_tensor(values)
    others = tuple({0, 1, 2, 3} - {axis % 4})
    mean, variance = values.mean(others, dtype="float64"), values.var(others, dtype="float64")
    found = channel_moments(tensor, axis)
    atol = 1e-5 * scale
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6, atol=atol)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-3)
    pooled = channel_moments(tensor, axis, pooled=True)
    np.testing.assert_allclose(pooled.mean, mean, rtol=1e-6, atol=atol)
    np.testing.assert_allclose(pooled.variance, variance.mean(), rtol=1e-4)
    for each in (found, pooled):
        assert each.whole.mean == pytest.approx(values.mean(dtype="float64"), rel=1e-5, abs=atol)
        assert each.whole.std == pytest.approx(values.std(dtype="float64"), rel=1e-4)


@pytest.mark.parametrize("pooled", [False, True])
def test_moments_of_all_from_those_of_channels_apart(pooled):
    values = np.random.default_rng(0).standard_normal((500, 9)) * np.arange(1, 10) + np.arange(0, 90, 10)
    values = values.astype("float32")
    whole = channel_moments(ops.convert_to_tensor(values), -1, pooled=pooled).whole
    assert whole.mean == pytest.approx(values.mean(dtype="float64"), rel=1e-6)
    assert whole.std == pytest.approx(values.std(dtype="float64"), rel=1e-5)


@pytest.mark.parametrize("pooled", [False, True])
def test_moments_of_channels_with_an_odd_row_or_almost_nothing(pooled, recwarn):
    values = np.random.default_rng(0).standard_normal((9000, 64)).astype("float32") + 1e3
    values[0] = 0
    found = channel_moments(ops.convert_to_tensor(values), -1, pooled=pooled)
    np.testing.assert_allclose(
        found.variance,
        values.var(0, dtype="float64").mean() if pooled else values.var(0, dtype="float64"),
        rtol=2e-3,
    )
    tiny = channel_moments(ops.convert_to_tensor(np.array([[1e-25], [-1e-25]], "float32")), -1, pooled=pooled)
    assert tiny.whole.std == pytest.approx(1e-25)
    huge = channel_moments(ops.convert_to_tensor(values * np.float32(1e33)), -1, pooled=pooled)
    assert huge.whole.std == pytest.approx(found.whole.std * 1e33, rel=1e-3)
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


@pytest.mark.parametrize("pooled", [False, True])
def test_moments_of_channels_of_what_has_none(pooled):
    values = np.ones((4, 5, 3), "float32")
    assert np.all(channel_moments(ops.convert_to_tensor(values), -1, pooled=pooled).variance == 0)
    assert not channel_moments(ops.convert_to_tensor(values), -1, pooled=pooled).whole.varies
    for value in (np.nan, np.inf):
        values[2, 3, 1] = value
        assert not channel_moments(ops.convert_to_tensor(values), -1, pooled=pooled).whole.varies
    empty = channel_moments(ops.zeros((0, 3)), -1, pooled=pooled)
    assert not empty.whole.varies
