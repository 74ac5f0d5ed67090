"""`initialize` draws the same from the same seed, nothing twice, and leaves a model whole where it fails."""

import json

import keras
import numpy as np
import pytest
from helpers import array, run_python
from keras import layers
from zoo import MODELS, assert_unchanged, data, functional, sequential, snapshot

import keras_winit as winit

each_model = pytest.mark.parametrize("name", MODELS)


@each_model
def test_the_same_seed_gives_the_same_weights_in_a_second_model(name):
    drawn = []
    for _ in range(2):
        model = MODELS[name]()
        winit.initialize(model, seed=7)
        drawn.append(model.get_weights())
    for one, other in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, other)
    winit.initialize(model, seed=8)
    assert not np.allclose(model.get_weights()[0], drawn[0][0])


CHECKSUMS = """
import keras, numpy as np, keras_winit, zoo
sums = []
for name in ("functional", "attention", "recurrent", "nested"):
    model = zoo.MODELS[name]()
    keras_winit.initialize(model, seed=7)
    sums += [float(np.abs(np.asarray(w, "float64")).sum()) for w in model.get_weights()]
"""


@pytest.mark.long
def test_the_same_seed_gives_the_same_weights_in_another_process():
    for name in ("recurrent", "functional"):  # which Keras counts on from
        MODELS[name]()
    here: dict = {}
    exec(CHECKSUMS, here)
    finished = run_python("-c", CHECKSUMS + "print('SUMS', sums)", PYTHONHASHSEED="random")
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert json.loads(finished.stdout.split("SUMS")[1]) == here["sums"]


def test_adding_a_named_layer_changes_no_other():
    def model(*extra):
        named = ["a", *extra, "b", "c"]
        return keras.Sequential([keras.Input((6,)), *(layers.Dense(6, name=name) for name in named)])

    small, large = model(), model("extra", "another")
    for each in (small, large):
        winit.initialize(each, seed=1)
    kernels = [[array(each.get_layer(name).kernel) for name in "abc"] for each in (small, large)]
    for name, one, other in zip("abc", *kernels, strict=True):
        # What comes before the answers only says how large these start.
        factor = one.std() / other.std() if name == "c" else 1.0
        np.testing.assert_allclose(one, factor * other, rtol=0 if factor == 1 else 1e-5)


def shared_draws(first, second):
    """Whether two arrays begin with the same numbers, up to a factor: the mark of an equal seed."""
    size = min(first.size, second.size, 8)
    one, other = first.ravel()[:size], second.ravel()[:size]
    return size > 3 and abs(np.corrcoef(one, other)[0, 1]) > 0.9999


@each_model
@pytest.mark.parametrize("scheme", ["auto", "he_normal", "configured", "torch"])
def test_no_two_kernels_share_draws(name, scheme):
    model = MODELS[name]()
    winit.initialize(model, scheme, seed=5)
    kernels = [array(v) for v in model.trainable_variables if len(v.shape) > 1 and array(v).std() > 0]
    gates = [gate for kernel in kernels if kernel.shape[-1] % 4 == 0 for gate in np.split(kernel, 4, -1)]
    for group in (kernels, gates):
        for i, one in enumerate(group):
            assert not any(shared_draws(one, other) for other in group[i + 1 :])


def test_query_key_and_value_differ_where_keras_draws_them_equal():
    inputs = keras.Input((4, 8))
    mha = layers.MultiHeadAttention(2, 4, kernel_initializer=keras.initializers.HeNormal(seed=1))
    model = keras.Model(inputs, mha(inputs, inputs))
    np.testing.assert_array_equal(array(mha.query_dense.kernel), array(mha.key_dense.kernel))  # Keras'
    winit.initialize(model, "configured", seed=1)
    assert not np.allclose(array(mha.query_dense.kernel), array(mha.key_dense.kernel))


class Interrupting(keras.initializers.Initializer):
    """Draws ones, until it raises."""

    def __init__(self, after, error):
        self.after, self.error, self.calls = after, error, 0

    def __call__(self, shape, dtype=None):
        self.calls += 1
        if self.calls > self.after:
            raise self.error
        return keras.ops.ones(shape, dtype)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("name", ["sequential", "functional", "recurrent", "attention"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_failure_leaves_the_model_as_it_was(name, error, after):
    model = MODELS[name]()
    model.compile("adam", "mse")
    winit.initialize(model, "torch", seed=1)
    if name == "sequential":
        model.fit(data(model, name), np.ones((3, 4)), verbose=0)
    before, state = snapshot(model), [array(v) for v in model.optimizer.variables]
    # One instance for all: a function is not copied, so that it counts the calls.
    source = Interrupting(after, error)
    with pytest.raises(type(error)):
        winit.initialize(
            model, {"kernel": lambda shape, dtype=None: source(shape, dtype), ".*": "auto"}, seed=0
        )
    assert_unchanged(model, before)
    for one, other in zip(model.optimizer.variables, state, strict=True):
        np.testing.assert_array_equal(array(one), other)


def test_a_wrong_shape_leaves_the_model_as_it_was():
    model = sequential()
    before = snapshot(model)
    with pytest.raises(ValueError, match="returned shape"):
        winit.initialize(model, lambda shape, dtype=None: keras.ops.ones((2, 2), dtype))
    assert_unchanged(model, before)


def test_a_scheme_that_cannot_draw_a_weight_names_it():
    model = functional()
    before = snapshot(model)
    for dry_run in (True, False):
        with pytest.raises(ValueError, match=r"delta_orthogonal cannot draw .*kernel.*Give a mapping"):
            winit.initialize(model, "delta_orthogonal", dry_run=dry_run)
    assert_unchanged(model, before)
