"""What calibrate is given: data of every kind, probes, and what it refuses."""

import math

import keras
import numpy as np
import pytest
import zoo
from helpers import BACKEND
from keras import layers, ops

import keras_winit as winit


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return SAMPLES[8 * index : 8 * index + 8], np.zeros(8)


SAMPLES = np.random.default_rng(1).standard_normal((16, 12)).astype("float32")


def data_sets():
    yield "array", SAMPLES[:8]
    yield "list of floats", SAMPLES[:8].astype("float64")
    yield "backend tensor", ops.convert_to_tensor(SAMPLES[:8])
    yield "PyDataset", Batches()
    yield "generator", ((SAMPLES[:8], np.zeros(8)) for _ in range(2))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        yield "tf.data", tf.data.Dataset.from_tensor_slices((SAMPLES, np.zeros(16))).batch(8)
    if BACKEND == "torch":
        import torch

        pairs = torch.utils.data.TensorDataset(torch.tensor(SAMPLES), torch.zeros(16))
        yield "DataLoader", torch.utils.data.DataLoader(pairs, batch_size=8)


@pytest.mark.parametrize(("kind", "data"), list(data_sets()))
def test_every_kind_of_data_is_its_first_batch(kind, data):
    factors = []
    for batch in (SAMPLES[:8], data):
        model = zoo.sequential()
        calibration = winit.calibrate(model, batch, seed=0)
        assert "8 samples of the data" in calibration.batch
        factors.append([row.factor for row in calibration.rows])
    np.testing.assert_allclose(*factors, rtol=1e-5, err_msg=kind)


def two_inputs():
    image, word = keras.Input((4,), name="image"), keras.Input((3,), dtype="int32", name="word")
    x = layers.Concatenate()([layers.Dense(5)(image), layers.Flatten()(layers.Embedding(7, 2)(word))])
    return keras.Model({"image": image, "word": word}, layers.Dense(2)(x))


def test_nests_and_probes():
    model = two_inputs()
    data = {"image": SAMPLES[:, :4], "word": np.arange(48).reshape(16, 3) % 7}
    assert len(winit.calibrate(model, data, seed=0).calibrated) == 2
    probed = winit.calibrate(model, seed=0)  # tokens below the vocabulary's size, or it would fail
    assert "probe" in probed.batch
    assert len(probed.calibrated) == 2
    (embedding,) = probed.skipped
    assert embedding.reason == "an embedding: it has the size that its scheme gives it"


def test_a_subclassed_model_that_reads_tokens_is_probed():
    class Reader(keras.Model):
        def __init__(self):
            super().__init__()
            self.table, self.out = layers.Embedding(11, 6), layers.Dense(4)

        def call(self, x):
            return self.out(self.table(x))

    model = Reader()
    model(np.zeros((2, 5), "int32"))
    assert len(winit.calibrate(model, seed=0).calibrated) == 1


def test_a_probe_is_what_reaches_the_first_weights():
    """Rescaling is for data; a probe of unit deviation is not to arrive as a constant."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    model = keras.Model(inputs, layers.Conv2D(4, 3)(x))
    row = winit.calibrate(model, scheme="he_normal", seed=0).rows[0]
    assert 0.8 < row.before < 2.2  # √2, for a deviation of one
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3))  # data is rescaled: to ±1
    assert 0.5 < winit.calibrate(model, pixels, scheme="he_normal", seed=0).rows[0].before < 1.3


def test_long_arrays_are_sampled_evenly():
    model = zoo.sequential()
    calibration = winit.calibrate(model, np.repeat(np.eye(12, dtype="float32"), 100, axis=0), seed=0)
    assert calibration.batch == "256 samples of the data"
    assert len(calibration.calibrated) == 3


BAD = {
    "nan": (np.full((4, 12), np.nan, "float32"), ValueError, "finite"),
    "empty": (np.zeros((0, 12), "float32"), ValueError, "empty"),
    "shape": (np.zeros((4, 5), "float32"), ValueError, "cannot be called"),
    "text": (np.array([["a"] * 12]), ValueError, "text"),
    "number": (3, TypeError, "array"),
    "objects": ([object()], TypeError, "arrays"),
    "ragged": ([np.zeros((2, 12)), np.zeros((3, 12))], ValueError, "as many samples"),
    "nothing": (iter([]), ValueError, "empty"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_data_changes_nothing(kind):
    data, error, message = BAD[kind]
    model = zoo.sequential()
    before = zoo.snapshot(model)
    with pytest.raises(error, match=message):
        winit.calibrate(model, data, seed=0)
    zoo.assert_unchanged(model, before)


@pytest.mark.parametrize("target", [0, -1, math.nan, math.inf, "one", True])
def test_bad_targets(target):
    with pytest.raises((TypeError, ValueError), match="target_std"):
        winit.calibrate(zoo.sequential(), target_std=target)


def test_unbuilt_models_and_wrong_schemes():
    with pytest.raises(ValueError, match="not built"):
        winit.calibrate(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match="he_normal"):
        winit.calibrate(zoo.sequential(), scheme="he_norml")
    with pytest.raises(TypeError, match="progress"):
        winit.calibrate(zoo.sequential(), progress="yes")
