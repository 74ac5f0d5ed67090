"""Large orthogonal matrices: how orthogonal they are, and whether they can be told from Haar's law."""

import math

import keras
import numpy as np
import pytest
from helpers import BACKEND, array, orthogonality_error
from scipy import stats

import keras_winit as winit
from keras_winit.drawing import scrambled
from keras_winit.drawing.orthonormal import haar, is_scrambled, orthonormal

FLOAT64 = BACKEND != "jax"  # which has none unless it is enabled
TOLERANCE = {"float32": 2e-6, "float64": 2e-14}


SIZES = [
    *((1, 1), (1, 1000), (7, 7), (64, 64), (257, 64), (300, 200), (3000, 30), (500, 499)),
    *((256, 256), (257, 257), (1021, 1021), (4099, 67), (64, 4096), (300, 700), (2304, 128), (4312, 65)),
]


@pytest.mark.parametrize(("rows", "columns"), SIZES)
@pytest.mark.parametrize("dtype", ["float32", *(["float64"] if FLOAT64 else [])])
def test_every_size_is_orthogonal(rows, columns, dtype):
    matrix = array(orthonormal(rows, columns, dtype, 3))
    assert matrix.shape == (rows, columns)
    assert matrix.dtype == dtype
    assert orthogonality_error(matrix) <= TOLERANCE[dtype]


@pytest.mark.parametrize(("rows", "columns"), [(256, 300), (4099, 65)])
def test_matrices_of_a_batch_are_orthogonal_and_independent(rows, columns):
    matrices = array(orthonormal(rows, columns, "float32", 3, 3))
    assert max(orthogonality_error(matrix) for matrix in matrices) <= 2e-6
    correlations = np.corrcoef(matrices.reshape(3, -1))[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 5 / math.sqrt(rows * columns)


def test_scale_and_seeds():
    plain, scaled = (array(orthonormal(300, 400, "float32", 3, scale=scale)) for scale in (1.0, 2.5))
    np.testing.assert_allclose(scaled, 2.5 * plain, rtol=1e-4, atol=1e-6)
    huge = array(orthonormal(300, 400, "float32", 3, scale=1e38))
    assert orthogonality_error(huge / np.float32(1e38)) <= 2e-6
    assert not np.allclose(plain, array(orthonormal(300, 400, "float32", 4)))
    moving = keras.random.SeedGenerator(3)
    first, second = (array(orthonormal(300, 400, "float32", moving)) for _ in range(2))
    assert not np.allclose(first, second)
    assert orthogonality_error(second) <= 2e-6


def test_exact_is_what_haar_draws():
    shape = (300, 280)
    exact = winit.Orthogonal(1.5, seed=4, exact=True)
    assert is_scrambled(*shape)
    assert not is_scrambled(*shape, exact=True)
    np.testing.assert_allclose(array(exact(shape)), 1.5 * array(haar(*shape, "float32", 4)))
    assert not np.allclose(array(winit.Orthogonal(1.5, seed=4)(shape)), array(exact(shape)))
    again = winit.Orthogonal.from_config(exact.get_config())
    np.testing.assert_array_equal(array(again(shape)), array(exact(shape)))
    assert not winit.Orthogonal.from_config({"gain": 1.5, "seed": 4}).exact  # as older versions wrote it
    with pytest.raises(TypeError, match="exact"):
        winit.Orthogonal(exact="yes")


@pytest.mark.parametrize(
    ("name", "shape", "sides"),
    [("delta_orthogonal", (3, 256, 300), (256, 300)), ("looks_linear", (300, 600), (300, 300))],
)
def test_what_is_built_of_orthogonal_matrices_can_be_exact(name, shape, sides):
    usual = winit.get(name, seed=4)
    exact = winit.get(name, seed=4, exact=True)
    assert not usual.drawn_whole(shape)
    assert exact.drawn_whole(shape)
    part = (slice(0, sides[0]), slice(0, sides[1]))
    drawn, other = (array(scheme(shape)).reshape(-1, shape[-1]) for scheme in (exact, usual))
    if name == "delta_orthogonal":  # on its middle tap
        part = (slice(256, 512), part[1])
    expected = array(haar(*sides, "float32", 4))
    np.testing.assert_allclose(drawn[part], expected, rtol=1e-6, atol=1e-7)
    assert not np.allclose(other[part], expected, atol=1e-3)
    again = type(exact).from_config(exact.get_config())
    np.testing.assert_array_equal(array(again(shape)), array(exact(shape)))


def test_the_size_of_a_batch_counts():
    assert not is_scrambled(512, 64)
    assert is_scrambled(512, 64, 8)
    assert not is_scrambled(521, 67, 8)  # whose rows fill no blocks
    assert is_scrambled(257, 257) is (BACKEND == "jax")  # elsewhere what is mixed twice pays from 2²⁶ on
    assert is_scrambled(509, 509)
    assert not is_scrambled(128, 128, 100)  # too few rows
    assert not is_scrambled(512, 63, 100)
    heads = {"input_axes": [1], "output_axes": [2]}
    assert not winit.Orthogonal(**heads).drawn_whole((12, 512, 64))
    assert not winit.PerGate("orthogonal", gates=12).drawn_whole((512, 768))
    assert winit.PerGate("orthogonal", gates=12, factors=[1.0] * 12).drawn_whole((512, 768))
    assert not winit.LooksLinear("relu", **heads).drawn_whole((12, 1024, 128))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about tf.function")
def test_a_generator_without_values_draws_in_a_graph():
    import tensorflow as tf

    seed = keras.random.SeedGenerator(3)
    assert orthogonality_error(array(tf.function(lambda: orthonormal(300, 260, "float32", seed))())) <= 5e-6


def by_numpy(made, multiply=np.matmul, *, shifts=True, mixes=True):
    """What a recipe says, in NumPy; without the circulant, or without the mixing, it is one round."""
    dtype = made.table.dtype
    count, rows, columns = made.batch, made.rows, made.columns
    if shifts:
        matrices = made.table[made.starts[..., None] + np.arange(columns)]
    else:
        matrices = np.zeros((count, rows, columns), dtype)
        for matrix in matrices:
            matrix[np.random.default_rng(0).permutation(rows)[:columns], np.arange(columns)] = 1

    def mixed(part, first, second):
        a, b = first.shape[-1], second.shape[-1]
        once = multiply(first, part.reshape(-1, a, b * columns))
        return multiply(second[:, None], once.reshape(-1, a, b, columns)).reshape(part.shape)

    if mixes:
        block = made.mixers[0].shape[-1] * made.mixers[1].shape[-1]
        full = rows // block * block
        matrices = np.concatenate([mixed(matrices[:, :full], *made.mixers), matrices[:, full:]], axis=1)
        if made.last:
            matrices[:, rows - block :] = mixed(matrices[:, rows - block :], *made.last)
    return matrices


@pytest.mark.parametrize(("rows", "columns", "count"), [(300, 299, 2), (1021, 70, 2), (2304, 64, 1)])
def test_it_is_what_its_recipe_says(rows, columns, count):
    made = scrambled.recipe(rows, columns, 5, count, 1.0)
    assert (made.last is None) == (rows != 1021)
    drawn = array(scrambled.scrambled(rows, columns, "float32", 5, count))
    np.testing.assert_allclose(drawn, by_numpy(made), rtol=0, atol=1e-6)


@pytest.mark.skipif(BACKEND == "jax", reason="there the compiler cuts")
@pytest.mark.parametrize(
    ("rows", "columns", "count"), [(1021, 70, 2), (1021, 70, 1), (257, 66, 5), (512, 90, 3)]
)
def test_pieces_do_not_matter(rows, columns, count, monkeypatch):
    whole = array(scrambled.scrambled(rows, columns, "float32", 5, count))
    for most in (1, 3 * 256 * columns, 2 * rows * columns):
        monkeypatch.setattr(scrambled, "_PIECE", most)
        monkeypatch.setattr(scrambled, "_PIECES", (most, most))
        pieces = array(scrambled.scrambled(rows, columns, "float32", 5, count))
        np.testing.assert_allclose(pieces, whole, rtol=0, atol=1e-6)


@pytest.mark.skipif(BACKEND != "jax", reason="about a compiled program")
def test_batches_of_exact_matrices_of_several_blocks_are_drawn_one_by_one():
    """As many solves of batches at once as a CPU has threads would wait for one another without end."""
    import jax

    axes = {"input_axes": [1], "output_axes": [2]}
    scheme = winit.Orthogonal(seed=4, exact=True, **axes)
    assert "scan[" in str(jax.make_jaxpr(lambda: scheme((2, 300, 290)))())
    assert max(orthogonality_error(matrix) for matrix in array(scheme((2, 300, 290)))) <= 5e-6


def haar_by_qr(count, rows, columns, rng):
    q, r = np.linalg.qr(rng.normal(size=(count, rows, columns)))
    return q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]


def two_sided(z):
    return 2 * stats.norm.sf(abs(z))


def spacings(matrices):
    """Distances between neighbouring eigenangles of the upper half circle, in their mean."""
    found = []
    for angles in np.angle(np.linalg.eigvals(matrices)):
        inside = np.sort(angles[(angles > 1e-6) & (angles < math.pi - 1e-6)])
        found.append(np.diff(inside) * matrices.shape[-1] / (2 * math.pi))
    return np.concatenate(found)


def corner_values(matrices):
    """Singular values of a corner of half the size."""
    half = min(matrices.shape[1:]) // 2
    return np.linalg.svd(matrices[:, :half, :half], compute_uv=False).ravel()


def disjoint(size, count, rng):
    """Random subsets that have nothing in common, as rows of length 1."""
    members = rng.integers(0, count, size) == np.arange(count)[:, None]
    return members / np.sqrt(members.sum(1, keepdims=True))


def p_values(matrices, peers, rng):
    """Chances that Haar-distributed matrices are as far off; `peers`, if any, are some, drawn by QR."""
    count, rows, columns = matrices.shape
    law = stats.beta((rows - 1) / 2, (rows - 1) / 2, loc=-1, scale=2)
    found = {"entries": stats.kstest(matrices.ravel(), law.cdf).pvalue}
    # Kurtosis of each matrix: E q⁴ = 3/(n·(n + 2)).
    kurtosis = (matrices**4).mean(axis=(1, 2)) * rows**2 - 3 * rows / (rows + 2)
    found["kurtosis"] = stats.chi2.sf((kurtosis**2).sum() / (24 / (rows * columns)), count)
    # Sums over random subsets of rows and columns, normed, are as one entry; disjoint ones, as several.
    left, right = (disjoint(size, 8, rng) for size in (rows, columns))
    sums = left @ matrices @ right.T
    found["sums"] = stats.kstest(sums.ravel(), law.cdf).pvalue
    if peers is None:
        return found
    found["corners"] = stats.ks_2samp(corner_values(matrices), corner_values(peers), method="asymp").pvalue
    if rows == columns:
        found["spacings"] = stats.ks_2samp(spacings(matrices), spacings(peers), method="asymp").pvalue
        power = matrices
        for exponent in (1, 2, 3):  # normal, of variance k (Diaconis and Shahshahani 1994)
            traces = np.trace(power, axis1=1, axis2=2) - (exponent == 2)
            found[f"trace {exponent}"] = two_sided(traces.mean() * math.sqrt(count / exponent))
            found[f"trace {exponent} squared"] = stats.chi2.sf((traces**2).sum() / exponent, count)
            power = power @ matrices
    return found


# Two rounds, and either of them alone, which the tests have to tell from the law.
@pytest.mark.skipif(BACKEND != "tensorflow", reason="the same numbers on every backend, as tested above")
@pytest.mark.parametrize(
    ("rows", "columns", "count"), [(64, 64, 60), (257, 257, 6), (1024, 1024, 1), (1152, 256, 2)]
)
def test_it_cannot_be_told_from_haar_but_one_round_can(rows, columns, count):
    rng = np.random.default_rng(rows)
    peers = haar_by_qr(count, rows, columns, rng)
    drawn = array(scrambled.scrambled(rows, columns, "float32", 7, count)).astype("float64")
    found = p_values(drawn, peers, rng)
    assert min(found.values()) > 1e-4, found
    made = scrambled.recipe(rows, columns, 7, count, 1.0)
    for rounds in ({"shifts": False}, {"mixes": False}):
        control = by_numpy(made, **rounds)
        assert max(orthogonality_error(matrix) for matrix in control) < 1e-12
        assert min(p_values(control, None, rng).values()) < 1e-10, rounds
