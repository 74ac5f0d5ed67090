"""What is drawn does not depend on how a device rounds the products of matrices."""

import keras
import numpy as np
import pytest
from helpers import BACKEND, array, orthogonality_error, run_python
from keras import ops

from keras_winit.drawing import orthonormal, scrambled
from keras_winit.support import exact


def tf32(tensor):
    """The numbers with ten bits of mantissa, as a GPU reads them for a product with TF32."""
    bits = np.asarray(tensor, "float32").view("uint32")
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view("float32")


def bfloat16(tensor):
    """The numbers with seven bits of mantissa, as a CPU reads them for a product in bfloat16."""
    bits = np.asarray(tensor, "float32").view("uint32")
    return ((bits + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view("float32")


def one_block():
    """A Haar draw of one block of reflections, without a compiled program."""
    gauss = np.random.default_rng(0).standard_normal((300, 200)).astype("float32")
    return orthonormal._apply(orthonormal._reflections(ops.convert_to_tensor(gauss)), None)


def many_blocks():
    """And one of several blocks; as PyTorch draws it, where that is the backend."""
    rows, columns = 800, 600
    count = sum((rows - start) * width for start, width in orthonormal._blocks(columns))
    numbers = ops.convert_to_tensor(np.random.default_rng(0).standard_normal(count).astype("float32"))
    how = orthonormal._product if BACKEND == "torch" else orthonormal._many_blocks
    return how(numbers, rows, columns)


def without_haar():
    """A large one, of which some rows are mixed twice."""
    return scrambled.scrambled(1021, 300, "float32", 5)[0]


def solving_in_tf32(matrix, right, lower=False, solve=ops.solve_triangular):
    """What a GPU makes of a triangular solve in float32, where it multiplies rounded numbers."""
    if keras.backend.standardize_dtype(matrix.dtype) == "float32":
        matrix = ops.convert_to_tensor(tf32(array(matrix)))
    return solve(matrix, right, lower=lower)


DRAWS = [one_block, many_blocks, without_haar]  # the first two are what `exact=True` and small ones are


@pytest.mark.parametrize("rounded", [tf32, bfloat16])
def test_a_product_of_parts_is_exact_where_a_device_rounds(rounded):
    rng = np.random.default_rng(1)
    left, right = (rng.standard_normal(shape).astype("float32") for shape in ((70, 90), (90, 50)))
    truth = left.astype("float64") @ right

    def multiply(x, y):
        return rounded(x) @ rounded(y)

    alone = np.abs(multiply(left, right) - truth).max()
    split = np.abs(exact.split_product(left, right, multiply) - truth).max()
    assert alone > 1e-3
    # A float32 sum of 90 products, each of the order of one.
    assert split < 90 * 2.0**-24 * 4


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about its GPUs")
@pytest.mark.parametrize("draw", DRAWS)
def test_tensorflow_splits_what_a_gpu_would_round(draw, monkeypatch):
    import tensorflow as tf

    def rounding(left, right):
        return ops.convert_to_tensor(tf32(left) @ tf32(right))

    monkeypatch.setattr(ops, "solve_triangular", solving_in_tf32)
    monkeypatch.setattr(tf, "matmul", rounding)
    monkeypatch.setattr(tf.Tensor, "__matmul__", rounding)
    assert orthogonality_error(array(draw())) > 5e-5  # the emulation rounds
    monkeypatch.setattr(exact, "_may_round", lambda: True)
    assert orthogonality_error(array(draw())) <= 2e-6


@pytest.mark.skipif(BACKEND != "torch", reason="about its settings")
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("telling", ["older", "newer"])
def test_pytorch_splits_what_it_was_told_to_round(draw, telling, monkeypatch):
    import torch

    exact = torch.matmul

    def rounding(left, right, *, out=None):
        if left.dtype == torch.float32:
            left, right = (each.to(torch.bfloat16).to(torch.float32) for each in (left, right))
        return exact(left, right, out=out)

    def refusing():
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(ops, "solve_triangular", solving_in_tf32)
    for name in ("__matmul__", "matmul"):
        monkeypatch.setattr(torch.Tensor, name, rounding)
    monkeypatch.setattr(torch, "matmul", rounding)
    assert orthogonality_error(array(draw())) > 5e-5  # the emulation rounds
    told = (lambda: "medium") if telling == "older" else refusing
    monkeypatch.setattr(torch, "get_float32_matmul_precision", told)
    assert orthogonality_error(array(draw())) <= 2e-6


NEWER = """
import keras, numpy as np, torch, keras_winit as winit
for where in (torch.backends, torch.backends.mkldnn.matmul, torch.backends.cuda.matmul):
    for what in ("bf16", "tf32") if where is not torch.backends.cuda.matmul else ("tf32",):
        where.fp32_precision = what
        for exact in (False, True):
            q = winit.Orthogonal(seed=0, exact=exact)((700, 600))
            q = np.asarray(keras.ops.convert_to_numpy(q), "float64")
            assert abs(q.T @ q - np.eye(600)).max() <= 2e-6, (where, what, exact)
        where.fp32_precision = "none"
print("all exact")
"""


@pytest.mark.skipif(BACKEND != "torch", reason="about its settings")
def test_pytorch_itself_told_by_its_settings():
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # only on a CPU with such a unit is that bfloat16
    try:
        assert max(orthogonality_error(array(draw())) for draw in DRAWS) <= 2e-6
    finally:
        torch.set_float32_matmul_precision(before)
    if hasattr(torch.backends, "fp32_precision"):  # in a new process: PyTorch refuses what mixes both
        done = run_python("-c", NEWER)
        assert "all exact" in done.stdout, done.stderr


@pytest.mark.skipif(BACKEND != "jax", reason="about a setting of JAX")
@pytest.mark.parametrize("draw", DRAWS)
def test_jax_rounds_no_product(draw):
    """Exact products are asked for, and where factors are small there are none: numbers are multiplied."""
    import jax

    program = str(jax.make_jaxpr(draw)())
    asked = program.count("dot_general"), program.count("Precision.HIGHEST, Precision.HIGHEST")
    assert asked[0] == asked[1]
    assert asked[0] == 0 if draw is without_haar else asked[0] >= 4


@pytest.mark.parametrize("shapes", [((7,), (7,)), ((5, 7), (7, 3)), ((7,), (7, 3))], ids=str)
def test_products_are_those_of_numpy_whatever_the_memory(shapes):
    left, right = (np.random.default_rng(3).standard_normal(shape).astype("float32") for shape in shapes)
    left.flags.writeable = False
    np.testing.assert_allclose(exact.array_product(left, right), left @ right, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        exact.array_product(left, right[::-1]), left @ right[::-1], rtol=1e-5, atol=1e-6
    )
    wide = np.asarray(right, "float64")
    assert exact.array_product(left.astype("float64"), wide).dtype == np.float64
