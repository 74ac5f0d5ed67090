"""Schemes whose structure matters: what they are as linear maps, not how their entries spread."""

import math

import keras
import numpy as np
import pytest
from helpers import BACKEND, array, assert_semi_orthogonal, needs_axes, std_tolerance
from keras import layers, ops
from scipy import stats

import keras_winit as winit


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


def test_identity_of_matrices():
    np.testing.assert_array_equal(array(winit.Identity(gain=2.0)((3, 5))), 2 * np.eye(3, 5))


@needs_axes
def test_identity_of_einsums():
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


@pytest.mark.skipif(not hasattr(ops.nn, "depth_to_space"), reason="an older Keras has no depth_to_space")
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


def test_wrappers_pass_on_the_seed():
    inner = winit.HeNormal(seed=8)
    np.testing.assert_allclose(
        array(winit.Scaled(inner, factor=0.5)((30, 20))), 0.5 * array(inner((30, 20))), rtol=1e-6
    )


@needs_axes
def test_wrappers_pass_on_axes():
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


def test_a_centre_tap_of_any_rank():
    kernel = array(winit.LooksLinear(seed=1)((1, 3, *(1,) * 20, 2, 4, 6)))
    inside = np.moveaxis(kernel.reshape(3, 2, 4, 6), 1, 0)
    assert inside[0, 1].any()
    inside[0, 1] = 0
    assert not inside.any()


def test_parts_side_by_side_have_a_factor_each():
    scheme = winit.PerGate(winit.LecunNormal(), gates=3, factors=[1.0, 0.0, 0.25], seed=1)
    one, two, three = np.split(array(scheme((60, 120))), 3, axis=1)
    assert one.std() == pytest.approx(60**-0.5, rel=std_tolerance("normal", one.size))
    assert not two.any()
    assert three.std() == pytest.approx(0.25 * 60**-0.5, rel=std_tolerance("normal", three.size))
    both = 60**-0.5 * ((1 + 0.25**2) / 3) ** 0.5
    assert scheme.expected_std((60, 120)) == pytest.approx(both)
    assert winit.PerGate.from_config(scheme.get_config()).factors == scheme.factors


@pytest.mark.parametrize("cut", [1.0, 2.0, 3.0, 5.0])
def test_a_normal_is_cut_where_it_is_asked(cut):
    kernel = array(winit.TruncatedNormal(stddev=0.3, cut=cut, seed=2)((300, 200)))
    whole = 0.3 / stats.truncnorm.std(-cut, cut)
    assert np.abs(kernel).max() <= cut * whole * 1.00001
    assert kernel.std() == pytest.approx(0.3, rel=std_tolerance("normal", kernel.size))
    assert stats.kstest(kernel.ravel(), stats.truncnorm(-cut, cut, 0, whole).cdf).pvalue > 1e-4
    twin = winit.TruncatedNormal.from_config(winit.TruncatedNormal(cut=cut, seed=2).get_config())
    assert twin.cut == cut
