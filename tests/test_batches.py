"""Batches that are handed on as they are, as models on graphs take them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_winit as winit


class GraphModel(keras.Model):
    """Nodes that are summed up by the number of their graph: arrays of three different lengths."""

    def __init__(self):
        super().__init__()
        self.first, self.head = layers.Dense(6, "relu", name="first"), layers.Dense(2, name="head")

    def call(self, inputs):
        nodes, edges, graph = inputs["nodes"], inputs["edges"], inputs["graph"]
        messages = ops.take(self.first(nodes), edges[:, 0], axis=0)
        nodes = ops.segment_sum(messages, edges[:, 1], num_segments=nodes.shape[0])
        return self.head(ops.segment_sum(nodes, graph, num_segments=3))


def graph():
    rng = np.random.default_rng(0)
    edges = rng.integers(0, 300, (900, 2)).astype("int32")
    nodes = rng.normal(size=(300, 5)).astype("float32")
    return {"nodes": nodes, "edges": edges, "graph": np.repeat(np.arange(3, dtype="int32"), 100)}


def graph_model():
    model = GraphModel()
    model(graph())
    return model


def test_arrays_of_different_lengths_are_handed_on():
    model, batch = graph_model(), graph()
    calibration = winit.calibrate(model, batch, samples=None, seed=0)
    assert [round(row.before, 3) for row in calibration.calibrated]
    assert len(calibration.calibrated) == 2
    labels = np.array([0, 1, 1], "int32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    report = winit.diagnose(model, batch, labels, loss, samples=None)
    assert report.loss == pytest.approx(float(loss(labels, model(batch))), rel=1e-4)


@pytest.mark.parametrize("function", [winit.calibrate, winit.diagnose])
def test_the_error_names_the_way(function):
    model = graph_model()
    before = [np.array(ops.convert_to_numpy(weight)) for weight in model.weights]
    with pytest.raises(ValueError, match="Pass `samples=None` to hand a batch on as it is"):
        function(model, graph())
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), value)


def test_rows_are_taken_as_asked():
    seen = []

    class Count(layers.Layer):
        def call(self, inputs):
            if ops.is_tensor(inputs) and inputs.shape[0] is not None:
                seen.append(inputs.shape[0])
            return inputs

    model = keras.Sequential([keras.Input((4,)), Count(), layers.Dense(3)])
    data = np.random.default_rng(0).normal(size=(700, 4)).astype("float32")
    for samples, expected in ((None, 700), (300, 300), (256, 256), (900, 700)):
        seen.clear()
        winit.calibrate(model, data, samples=samples, seed=0)
        assert expected in seen


@pytest.mark.parametrize("samples", [0, -1, 2.5, "all", True])
def test_what_is_no_number_of_samples_is_refused(samples):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises((TypeError, ValueError), match="samples"):
        winit.calibrate(model, np.ones((5, 4), "float32"), samples=samples)


@pytest.mark.parametrize("data", [[], {}, np.float32(3), np.zeros((0, 4), "float32")], ids=str)
def test_a_batch_of_nothing_is_refused(data):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises((TypeError, ValueError), match="empty|arrays of samples|must be an array"):
        winit.calibrate(model, data, samples=None)


@pytest.mark.parametrize("call", [winit.calibrate, winit.diagnose])
def test_a_generator_goes_on_where_the_first_batch_was_taken(call):
    def batches():
        for _ in range(4):
            yield np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), np.zeros((8, 1))

    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, "relu"), layers.Dense(1)])
    model.compile("sgd", "mse")
    data = batches()
    call(model, data)
    assert len(list(data)) == 3
