"""Schemes whose structure matters: what they are as linear maps, not how their entries spread."""

import math

import keras
import numpy as np
import pytest
from helpers import BACKEND, array
from keras import layers, ops
from scipy import stats

import keras_winit as winit
from keras_winit import haar as haar_module
from keras_winit.haar import haar


def assert_semi_orthogonal(matrix, gain=1.0, tolerance=5e-6):
    matrix = np.asarray(matrix, "float64")
    short = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(short, gain**2 * np.eye(len(short)), atol=tolerance)


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 7), (7, 1), (2, 2), (50, 31), (31, 50), (700, 600), (520, 1040), (3, 5, 6, 40)]
)
def test_orthogonal_tall_wide_and_kernels(shape):
    kernel = array(winit.Orthogonal(gain=1.3, seed=4)(shape))
    assert_semi_orthogonal(kernel.reshape(-1, shape[-1]), 1.3)


def test_orthogonal_at_4096():
    matrix = array(winit.Orthogonal(seed=4)((4096, 4096)))
    error = np.abs(matrix.T @ matrix - np.eye(4096, dtype="float32")).max()
    assert error < 5e-6
    # One entry of each column is enough to see the law: they are nearly independent.
    scaled = math.sqrt(4096) * np.diagonal(np.roll(matrix, 1000, 0))
    assert stats.kstest(scaled, stats.norm.cdf).pvalue > 1e-4


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has no float64 unless it is enabled for the whole process")
def test_orthogonal_in_float64():
    for shape in ((5, 3), (300, 170), (200, 600)):
        assert_semi_orthogonal(array(winit.Orthogonal(seed=4)(shape, dtype="float64")), tolerance=1e-13)


def test_orthogonal_by_axes_keeps_each_expert_apart():
    # einsum "abe,behd->…": expert axis first, then inputs, then heads and their size.
    kernel = array(winit.Orthogonal(seed=4, input_axes=[2], output_axes=[1, 3])((5, 2, 24, 6)))
    for expert in kernel:
        assert_semi_orthogonal(expert.transpose(1, 0, 2).reshape(24, 12))
    assert not np.allclose(kernel[0], kernel[1])


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


@pytest.mark.parametrize("spatial", [(3,), (3, 4), (2, 3, 3)])
def test_delta_orthogonal_keeps_the_length_of_every_pixel(spatial):
    rank = len(spatial)
    conv = getattr(layers, f"Conv{rank}D")(
        9, spatial, padding="same", use_bias=False, kernel_initializer=winit.DeltaOrthogonal(seed=2)
    )
    image = np.random.default_rng(0).normal(size=(2, *(5,) * rank, 4)).astype("float32")
    mapped = array(conv(image))
    np.testing.assert_allclose(np.linalg.norm(mapped, axis=-1), np.linalg.norm(image, axis=-1), rtol=1e-5)


@pytest.mark.parametrize("scheme", [winit.Identity(), winit.Dirac()], ids=["identity", "dirac"])
@pytest.mark.parametrize("spatial", [(3,), (4, 3), (2, 3, 5)])
def test_identity_of_a_convolution(scheme, spatial):
    rank = len(spatial)
    conv = getattr(layers, f"Conv{rank}D")(
        6, spatial, padding="same", use_bias=False, kernel_initializer=scheme
    )
    image = np.random.default_rng(0).normal(size=(2, *(5,) * rank, 4)).astype("float32")
    mapped = array(conv(image))
    np.testing.assert_allclose(mapped[..., :4], image, atol=1e-6)
    np.testing.assert_array_equal(mapped[..., 4:], 0)


def test_identity_of_matrices_and_einsums():
    np.testing.assert_array_equal(array(winit.Identity(gain=2.0)((3, 5))), 2 * np.eye(3, 5))
    einsum = layers.EinsumDense("abc,cde->abde", (None, 2, 6), kernel_initializer="winit>identity")
    data = np.random.default_rng(0).normal(size=(2, 3, 12)).astype("float32")
    np.testing.assert_allclose(array(einsum(data)).reshape(2, 3, 12), data, atol=1e-6)


def test_dirac_per_group():
    conv = layers.Conv2D(
        8, 3, groups=2, padding="same", use_bias=False, kernel_initializer=winit.Dirac(groups=2)
    )
    data = np.random.default_rng(0).normal(size=(1, 5, 5, 6)).astype("float32")
    mapped = array(conv(data))
    np.testing.assert_allclose(mapped[..., [0, 1, 2, 4, 5, 6]], data, atol=1e-6)
    np.testing.assert_array_equal(mapped[..., [3, 7]], 0)


def test_dirac_depthwise():
    conv = layers.DepthwiseConv2D(
        3, padding="same", use_bias=False, depthwise_initializer=winit.Dirac("depthwise")
    )
    data = np.random.default_rng(0).normal(size=(1, 5, 5, 6)).astype("float32")
    np.testing.assert_allclose(array(conv(data)), data, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "axes"), [((40, 7), None), ((3, 3, 5, 11), None), ((4, 30, 6), ([1], [0, 2]))]
)
def test_sparse_has_exactly_its_connections(shape, axes):
    extra = {} if axes is None else {"input_axes": axes[0], "output_axes": axes[1]}
    weights = array(winit.Sparse(connections=7, seed=1, **extra)(shape))
    inputs = tuple(range(len(shape) - 1)) if axes is None else tuple(axes[0])
    assert ((weights != 0).sum(axis=inputs) == 7).all()


def test_sparse_chooses_its_inputs_evenly_and_its_weights_normally():
    weights = array(winit.Sparse(connections=5, stddev=2.0, seed=1)((20, 8000)))
    counts = (weights != 0).sum(axis=1)
    # Without replacement: each count is binomial with a variance of n·p·(1−p)·(20/19) over inputs.
    p = stats.chi2.sf(((counts - 2000) ** 2 / (8000 * 0.25 * 0.75)).sum() * 19 / 20, 19)
    assert p > 1e-4
    assert stats.kstest(weights[weights != 0], stats.norm(0, 2).cdf).pvalue > 1e-4


def test_sparse_with_fewer_inputs_than_connections():
    assert (array(winit.Sparse(connections=15, seed=1)((4, 9))) != 0).all()


@pytest.mark.parametrize(("rank", "factor"), [(1, 2), (2, 2), (2, 3), (3, 2)])
def test_bilinear_upsamples_a_ramp(rank, factor):
    size = 2 * factor - factor % 2
    conv = getattr(layers, f"Conv{rank}DTranspose")(
        2, size, strides=factor, padding="same", use_bias=False, kernel_initializer="winit>bilinear"
    )
    ramp = np.zeros((1, *(8,) * rank, 2), "float32")
    ramp[..., 0] = np.arange(8).reshape(8, *(1,) * (rank - 1))
    ramp[..., 1] = 1
    up = array(conv(ramp))
    inside = (0, *(slice(factor, -factor),) * rank)
    np.testing.assert_allclose(up[(*inside, 1)], 1, atol=1e-5)
    slope = np.diff(up[(*inside, 0)], axis=0)
    np.testing.assert_allclose(slope, 1 / factor, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3])
def test_icnr_starts_as_a_nearest_neighbour_resize(factor):
    conv = layers.Conv2D(
        5 * factor**2, 3, padding="same", kernel_initializer=winit.ICNR("he_normal", factor=factor, seed=3)
    )
    data = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype("float32")
    low = conv(data)
    up = array(ops.nn.depth_to_space(low, factor, data_format="channels_last"))
    expected = np.repeat(np.repeat(array(low)[..., :5], factor, axis=1), factor, axis=2)
    np.testing.assert_allclose(up, expected, atol=1e-5)


def test_per_gate_draws_each_gate_alone():
    kernel = array(winit.PerGate("orthogonal", gates=4, seed=1)((24, 96)))
    gates = np.split(kernel, 4, axis=1)
    for gate in gates:
        assert_semi_orthogonal(gate)
    assert not np.allclose(gates[0], gates[1])


def test_wrappers_pass_on_axes_and_seed():
    inner = winit.HeNormal(seed=8)
    np.testing.assert_allclose(
        array(winit.Scaled(inner, factor=0.5)((30, 20))), 0.5 * array(inner((30, 20))), rtol=1e-6
    )
    einsum = layers.EinsumDense(
        "abc,cde->abde", (None, 8, 16), kernel_initializer=winit.Scaled("lecun_normal", factor=2.0, seed=1)
    )
    einsum.build((None, 3, 64))
    assert array(einsum.kernel).std() == pytest.approx(2 / math.sqrt(64), rel=0.04)


def test_wrappers_take_keras_initializers_and_each_other():
    nested = winit.Scaled(winit.PerGate(keras.initializers.HeNormal(seed=1), gates=3), factor=0.5)
    again = type(nested).from_config(nested.get_config())
    np.testing.assert_array_equal(array(nested((30, 60))), array(again((30, 60))))
    assert nested.expected_std((30, 60)) is None  # Keras' schemes do not say


def test_prior_bias_predicts_the_prior():
    def sigmoid(x):
        return 1 / (1 + np.exp(-array(x)))

    np.testing.assert_allclose(sigmoid(winit.PriorBias()((3,))), 0.01, rtol=1e-5)
    np.testing.assert_allclose(sigmoid(winit.PriorBias([0.2, 0.9])((2,))), [0.2, 0.9], rtol=1e-5)
    np.testing.assert_allclose(sigmoid(winit.PriorBias(counts=[90, 10])((1,))), [0.1], rtol=1e-5)
    np.testing.assert_allclose(sigmoid(winit.PriorBias(counts=[90, 10])((2,))), [0.9, 0.1], rtol=1e-5)
    softmax = np.exp(array(winit.PriorBias(counts=[5, 3, 2], activation="softmax")((3,))))
    np.testing.assert_allclose(softmax, [0.5, 0.3, 0.2], rtol=1e-5)


@pytest.mark.parametrize(
    ("cell", "shape", "gates"), [("lstm", (8000,), 4), ("gru", (6000,), 3), ("gru", (2, 6000), 3)]
)
def test_chrono_bias(cell, shape, gates):
    bias = array(winit.ChronoBias(timesteps=50, cell=cell, seed=1)(shape))
    first = np.split(bias if bias.ndim == 1 else bias[0], gates)
    forget = first[1] if cell == "lstm" else first[0]
    assert stats.kstest(np.exp(forget), stats.uniform(1, 48).cdf).pvalue > 1e-4
    if cell == "lstm":
        np.testing.assert_array_equal(first[0], -forget)
    assert (np.concatenate(first[2:] if cell == "lstm" else first[1:]) == 0).all()
    if bias.ndim == 2:
        assert (bias[1] == 0).all()


def test_chrono_bias_in_a_layer():
    lstm = layers.LSTM(5, bias_initializer=winit.ChronoBias(seed=1), unit_forget_bias=False)
    lstm.build((None, 4, 3))
    assert array(lstm.cell.bias)[5:10].max() <= math.log(99)
    gru = layers.GRU(5, bias_initializer=winit.ChronoBias(cell="gru", seed=1))
    gru.build((None, 4, 3))
    assert (array(gru.cell.bias)[0, :5] > 0).all()
