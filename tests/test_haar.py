"""Random orthogonal matrices: against the Haar law, and against the reflections they are made of."""

import math

import numpy as np
import pytest
from helpers import BACKEND, array, assert_semi_orthogonal
from keras import ops
from scipy import stats

import keras_winit as winit
from keras_winit.drawing import orthonormal as haar_module
from keras_winit.drawing.orthonormal import haar


def qr_without_sign_correction(count, size, rng):
    return np.stack([np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(count)])


def haar_law_p_value(matrices):
    """The least p-value of three exact properties of Haar-distributed orthogonal matrices."""
    count, size = len(matrices), matrices.shape[-1]
    # (Q₀₀ + 1)/2 is Beta((n−1)/2, (n−1)/2); so is every entry, and the diagonal is where an
    # uncorrected factorization shows.
    beta = stats.beta((size - 1) / 2, (size - 1) / 2, loc=-1, scale=2)
    p_values = [stats.kstest(matrices[:, i, j], beta.cdf).pvalue for i, j in ((0, 0), (size - 1, 2), (2, 2))]
    # Determinants are ±1 with equal chance, and the trace has variance 1 and mean 0.
    positive = int((np.linalg.det(matrices) > 0).sum())
    p_values.append(stats.binomtest(positive, count).pvalue)
    traces = np.trace(matrices, axis1=1, axis2=2)
    p_values.append(2 * stats.norm.sf(abs(traces.mean()) * math.sqrt(count)))
    # The density of the eigenvalues' angles, by its Fourier coefficients: E tr(Qᵏ) is 1 for even
    # k and 0 for odd (Diaconis and Shahshahani 1994).
    power = matrices
    for exponent in range(2, size):
        power = power @ matrices
        traces = np.trace(power, axis1=1, axis2=2) - (exponent % 2 == 0)
        p_values.append(2 * stats.norm.sf(abs(traces.mean()) / stats.sem(traces)))
    # Symmetry of signs: −Q and Q with a column turned are as likely as Q, so all mixed odd moments
    # are zero; those of neighbours are what a lost sign would show.
    for i, j in ((0, 1), (size - 2, size - 1)):
        products = matrices[:, i, i] * matrices[:, j, j]
        p_values.append(2 * stats.norm.sf(abs(products.mean()) / stats.sem(products)))
    return min(p_values)


def test_haar_law_with_a_control_that_fails():
    count, size = 3000, 6
    matrices = array(haar(size, size, "float32", 9, count)).astype("float64")
    assert haar_law_p_value(matrices) > 1e-4
    assert haar_law_p_value(qr_without_sign_correction(count, size, np.random.default_rng(0))) < 1e-10


def reflections_one_by_one(rows, columns, numbers):
    """Q from the numbers that the module draws, as Stewart writes it, in float64."""
    matrix = np.eye(rows, columns)
    signs = np.ones(columns)
    vectors, used = {}, 0
    for start, width in haar_module._blocks(columns):
        block = numbers[used : used + (rows - start) * width].reshape(rows - start, width)
        used += block.size
        for index in range(width):
            vectors[start + index] = block[index:, index].copy()
    for column in reversed(range(columns)):
        vector = vectors[column]
        sign = -1.0 if vector[0] < 0 else 1.0
        vector[0] += sign * np.linalg.norm(vector)
        signs[column] = -sign
        below = matrix[column:]
        below -= np.outer(vector, 2 / (vector @ vector) * (vector @ below))
    return matrix * signs


@pytest.mark.parametrize(("rows", "columns"), [(7, 5), (6, 6), (700, 530), (1100, 1100)])
def test_haar_is_the_product_of_its_reflections(rows, columns):
    blocks = haar_module._blocks(columns)
    assert len(blocks) > 1 or columns < 100
    numbers = np.random.default_rng(columns).standard_normal(sum((rows - s) * w for s, w in blocks))
    product = array(haar_module._product(ops.convert_to_tensor(numbers.astype("float32")), rows, columns))
    np.testing.assert_allclose(product, reflections_one_by_one(rows, columns, numbers), atol=3e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about tf.function")
@pytest.mark.parametrize("shape", [(300, 200), (4096, 256), (1100, 700)])
def test_orthogonal_is_the_same_in_a_graph(shape):
    import tensorflow as tf

    scheme = winit.Orthogonal(seed=7)
    traced = array(tf.function(lambda: scheme(shape))())
    np.testing.assert_allclose(array(scheme(shape)), traced, atol=2e-6)


def test_haar_where_a_number_is_exactly_zero(monkeypatch):
    # The last vector of a square matrix has length 1; generators can return a zero.
    gauss = np.random.default_rng(0).standard_normal((3, 4, 4)).astype("float32")
    gauss[:, 3, 3] = gauss[1, 0, 0] = 0
    matrices = array(haar_module._step(ops.convert_to_tensor(gauss), None))
    monkeypatch.setattr(haar_module, "normal", lambda shape, *_: ops.reshape(gauss, shape))
    for matrix in (*matrices, *array(haar_module._draw_one_block((3, 4, 4), "float64", None))):
        assert_semi_orthogonal(matrix)


def test_haar_columns_of_a_tall_matrix():
    matrices = array(haar(7, 3, "float32", 5, 3000)).astype("float64")
    beta = stats.beta(3, 3, loc=-1, scale=2)
    for i, j in ((0, 0), (6, 2), (1, 1), (4, 0)):
        assert stats.kstest(matrices[:, i, j], beta.cdf).pvalue > 1e-4


@pytest.mark.parametrize(("rows", "batch"), [(1, 1), (2, 7), (9, 1), (50, 3), (1, 40)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_column_is_what_reflections_make_of_it(rows, batch, dtype):
    if dtype == "float64" and BACKEND == "jax":
        pytest.skip("JAX has no float64 unless it is enabled")
    shape = (rows, 1) if batch == 1 else (batch, rows, 1)
    column, reflected = (
        array(how(shape, dtype, 3)) for how in (haar_module._one_column, haar_module._one_block)
    )
    np.testing.assert_allclose(column, reflected, rtol=0, atol=1e-6 if dtype == "float32" else 1e-14)
    np.testing.assert_allclose(array(haar(rows, 1, dtype, 3, batch)), column, rtol=0, atol=1e-6)
    assert (column < 0).any() or rows * batch == 1
