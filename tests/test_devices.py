"""Models on several devices: two copies on TensorFlow, eight devices on JAX."""

import json
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import BACKEND, run_python

import keras_winit as winit

pytestmark = pytest.mark.long

# Keras distributes nothing on PyTorch.
DISTRIBUTIONS = {"tensorflow": ["mirrored"], "jax": ["data", "model"], "torch": []}[BACKEND]


@cache
def answer(question, kind):
    run = run_python(str(Path(__file__).with_name("devices.py")), question, kind)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.rpartition("JSON")[2])


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_a_model_on_many_devices_lives_as_on_one(kind):
    one, many = answer("workflow", "one"), answer("workflow", kind)
    assert many["findings"] == one["findings"]
    for mine, single in zip(many["signals"], one["signals"], strict=True):
        assert mine == [single[0], *(pytest.approx(figure, rel=1e-3) for figure in single[1:])]
    assert list(many["stages"]) == ["built", "initialized", "calibrated", "trained"]
    for stage, weights in many["stages"].items():
        for mine, single in zip(weights, one["stages"][stage], strict=True):
            np.testing.assert_allclose(mine, single, rtol=1e-4, atol=1e-5, err_msg=stage)


@pytest.mark.parametrize("kind", [kind for kind in DISTRIBUTIONS if kind != "model"])
def test_all_copies_are_equal(kind):
    found = answer("workflow", kind)
    assert found["equal"]
    assert found["copies"] == {"mirrored": 2, "data": 8}[kind]


@pytest.mark.skipif(BACKEND != "jax", reason="layouts are JAX's")
def test_weights_stay_where_the_layout_map_puts_them():
    shards = answer("workflow", "model")["shards"]
    kernels = [shapes for path, shapes in shards.items() if path.endswith("kernel")]
    assert kernels == [
        [[rows, columns // 4]] * 8 for rows, columns in ((16, 64), (64, 32), (32, 24), (24, 8), (8, 4))
    ]


@pytest.mark.skipif(BACKEND != "jax", reason="layouts are JAX's")
def test_every_scheme_honours_a_layout():
    for found in answer("layouts", "all"):
        assert found["laid_out"], found
        assert found["near"], found
        # On one device, on two and on eight, to the last bit; but for sums of several draws, where a program
        # need not round the products that it adds up.
        on_one, on_two = found["same"]
        assert on_two, found
        assert on_one or found["case"].startswith("summed"), found
        if found["split"] and not found["whole"]:
            assert found["programs"] == 2, found
            # Nothing in the program of a device is larger than its share.
            assert found["largest"] == pytest.approx(found["share"]), found


@pytest.mark.skipif(BACKEND != "jax", reason="layouts are JAX's")
def test_only_small_orthogonal_matrices_are_drawn_whole():
    whole = {found["case"].partition("(")[0] for found in answer("layouts", "all") if found["whole"]}
    assert whole == {"orthogonal", "delta_orthogonal", "looks_linear"}


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has layouts")
def test_a_layout_on_another_backend_is_an_error():
    with pytest.raises(ValueError, match="only the JAX backend"):
        winit.HeNormal()((3, 4), layout=object())


class Custom(keras.initializers.Initializer):
    """An initializer of a user's own, of which nobody knows whether it can be compiled."""

    def __call__(self, shape, dtype=None):
        return keras.ops.convert_to_tensor(np.full(shape, float(np.asarray(keras.ops.ones(())))), dtype)


def test_what_wraps_a_foreign_initializer_is_drawn_whole():
    assert winit.Scaled(Custom()).whole
    assert not winit.Scaled("he_normal").whole


@pytest.mark.skipif(BACKEND == "jax", reason="JAX follows layouts")
def test_initialize_does_not_mind_a_layout_that_the_backend_ignores():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.layers[0].kernel._layout = object()
    winit.initialize(model, "he_normal", seed=1)
    assert np.asarray(keras.ops.convert_to_numpy(model.layers[0].kernel)).std() > 0
