"""LooksLinear: what layers of it compute at their start, scheme by scheme."""

import keras
import numpy as np
import pytest
from helpers import BACKEND, array
from keras import layers, ops
from mirrored import ACTIVATIONS, answers, assert_odd, dense, each_activation, first, numbers

import keras_winit as winit
from keras_winit.theory.linearity import is_odd, linear_variance, power


@each_activation
def test_a_plain_initializer_makes_dense_layers_look_linear(activation):
    widths = (64, 65, 33, 128, 40, 7)  # even, odd, narrowing, widening
    model = keras.Sequential([keras.Input((48,)), *dense(activation, widths)])
    assert_odd(model, numbers(20, 48), linear=ACTIVATIONS[activation])


@each_activation
@pytest.mark.parametrize("rank", [1, 2])
def test_a_plain_initializer_makes_convolutions_look_linear(activation, rank):
    kind = {1: layers.Conv1D, 2: layers.Conv2D}[rank]
    options = {"padding": "same", "activation": activation}
    model = keras.Sequential(
        [
            keras.Input((6,) * rank + (5,)),
            kind(16, 3, kernel_initializer=winit.LooksLinear(**first(activation), seed=0), **options),
            kind(25, 3, kernel_initializer=winit.LooksLinear(activation, seed=1), **options),
            kind(12, 2, kernel_initializer=winit.LooksLinear(activation, seed=2), **options),
        ]
    )
    read = kind(4, 3, kernel_initializer=winit.LooksLinear(activation, **reading(activation)))
    model.add(read)
    assert_odd(model, numbers(3, *(6,) * rank, 5), linear=ACTIVATIONS[activation])


def reading(activation):
    return {"mirror": "none" if is_odd(activation) else "inputs", "seed": 9}


def test_a_plain_initializer_makes_einsum_layers_look_linear():
    model = keras.Sequential(
        [
            keras.Input((5, 12)),
            layers.EinsumDense("abc,cde->abde", (5, 4, 6), "silu", kernel_initializer="winit>looks_linear"),
            layers.EinsumDense(
                "abde,def->abf", (5, 9), kernel_initializer=winit.LooksLinear("silu", "inputs", seed=1)
            ),
        ]
    )
    assert_odd(model, numbers(4, 5, 12), linear=True)


@each_activation
def test_the_variance_is_what_was_asked_for(activation):
    """Forty layers deep and with widths that change, every pre-activation keeps its variance."""
    widths = [200, 300, 150, 201] * 10
    q = linear_variance(activation)
    model = keras.Sequential([keras.Input((200,)), *dense(activation, [*widths, 100], variance=2.5)])
    signal, found = ops.convert_to_tensor(numbers(400, 200)), []
    for layer in model.layers:
        found.append(array(ops.matmul(signal, layer.kernel)).var())
        signal = layer(signal)
    # Each layer's matrix is of finite width, and narrowing loses a part of the signal that varies.
    np.testing.assert_allclose(found[:-1], q, rtol=0.25)
    assert found[-1] == pytest.approx(2.5, rel=0.25)


def test_of_an_odd_number_of_units_nothing_is_lost():
    stack = dense("relu", (65, 65, 65, 65, 32))
    model = keras.Sequential([keras.Input((65,)), *stack])
    jacobian = answers(model, np.eye(65, dtype="float32")) - answers(model, np.zeros((1, 65), "float32"))
    values = np.linalg.svd(jacobian.astype("float64"), compute_uv=False)
    assert (values > 0.5).sum() == 32  # as many as there are pairs
    # The one without a twin is drawn like the others, not read yet, and learns from the first step.
    kernel, reader = array(stack[1].kernel), array(stack[2].kernel)
    assert kernel[:, 64].std() == pytest.approx(kernel[:, :64].std(), rel=0.3)
    assert not reader[64].any()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.train_on_batch(numbers(16, 65), numbers(16, 32))
    assert array(stack[2].kernel)[64].any()


def test_seeds_axes_and_twins_of_the_matrix():
    kernel = array(winit.LooksLinear("gelu", seed=3)((6, 8)))
    block = kernel[:3, :4]
    np.testing.assert_array_equal(kernel, np.block([[block, -block], [-block, block]]))
    np.testing.assert_allclose(block @ block.T, np.eye(3) * 4 / 3, atol=1e-6)  # widening: per unit
    blocks = array(winit.LooksLinear("gelu", "inputs", input_blocks=2, seed=3)((10, 4)))
    assert not blocks[[4, 9]].any()
    np.testing.assert_array_equal(blocks[[0, 1, 5, 6]], -blocks[[2, 3, 7, 8]])
    experts = array(winit.LooksLinear("gelu", seed=3, input_axes=[1], output_axes=[2])((2, 6, 8)))
    assert not np.allclose(experts[0], experts[1])
    np.testing.assert_allclose(experts[1][:3], -experts[1][3:])


def test_the_usual_sides():
    def sides(activation):
        kernel = array(winit.LooksLinear(activation, seed=1)((8, 6)))
        return np.array_equal(kernel[:4], -kernel[4:]), np.array_equal(kernel[:, :3], -kernel[:, 3:])

    assert sides(None) == sides("linear") == (False, True)
    assert sides("relu") == sides("sigmoid") == (True, True)
    assert sides("tanh") == sides("softsign") == (False, False)


def test_odd_parts():
    assert {name for name in ACTIVATIONS if is_odd(name)} == {"tanh", "softsign"}
    for name, linear in ACTIVATIONS.items():
        variances = [linear_variance(name, depth) for depth in (2, 10, 50, 250)]
        assert variances == sorted(variances, reverse=True)
        assert variances[-1] == 1 or not linear
    assert linear_variance("tanh", 250) < linear_variance("tanh", 50) < linear_variance("tanh", 10) < 1
    for variance in (0.1, 1.0, 3.0):
        assert power("relu", variance, twins=True) == pytest.approx(variance, rel=1e-6)
        assert power("relu", variance, twins=False) == pytest.approx(variance / 2, rel=1e-6)
        # sigmoid(u) − sigmoid(−u) = tanh(u/2)
        half = power("tanh", variance / 4, twins=False)
        assert power("sigmoid", variance, twins=True) == pytest.approx(half, rel=1e-5)
        assert power("tanh", variance, twins=True) == pytest.approx(4 * power("tanh", variance, twins=False))
    assert power(lambda x: 3 * x + 7, 1.0, twins=True) == pytest.approx(36)


def test_one_unit_has_no_twin():
    with pytest.raises(ValueError, match="one unit alone has none.*Received: shape=\\(1, 4\\)"):
        winit.LooksLinear("relu")((1, 4))
    with pytest.raises(ValueError, match="`input_blocks` must divide the inputs.*input_blocks=3"):
        winit.LooksLinear("relu", input_blocks=3)((10, 4))


def test_a_variance_beyond_the_dtype_is_refused():
    """Its root, the size of numbers, is infinite in float32, and drawn in float64."""
    scheme = winit.LooksLinear(variance=1e80, seed=0)
    with pytest.raises(ValueError, match="too large for float32"):
        scheme((4, 8))
    if BACKEND != "jax":  # which has no float64 unless it is told so
        assert np.isfinite(array(scheme((4, 8), dtype="float64"))).all()
