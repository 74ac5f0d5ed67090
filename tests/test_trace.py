"""The trace of a model: what it sees, and that it leaves nothing behind."""

import ast
import collections
import gc
import random
import threading
import weakref
from pathlib import Path

import keras
import numpy as np
import own_layers
import pytest
import zoo
from helpers import array, since
from keras import layers, ops

import keras_winit as winit
from keras_winit.models.tracing import tracer as tracing


def kinds(trace):
    return [step.kind for step in trace.steps]


class Block(layers.Layer):
    """A residual block: layers inside, and a gain of its own."""

    def __init__(self, width, **options):
        super().__init__(**options)
        self.up, self.down = layers.Dense(2 * width, "gelu", name="up"), layers.Dense(width, name="down")

    def build(self, shape):
        self.gain = self.add_weight(
            name="gain", shape=(shape[-1],), initializer=keras.initializers.Constant(0.1)
        )
        self.up.build(shape)
        self.down.build((*shape[:-1], 2 * shape[-1]))

    def call(self, x, training=None):
        return x + self.gain * self.down(self.up(x))


class Deep(keras.Model):
    """A subclassed model of such blocks in a list, with a loss and a random number in its call."""

    def __init__(self, count=3, **options):
        super().__init__(**options)
        self.blocks = [Block(6, name=f"block_{index}") for index in range(count)]
        self.head = layers.Dense(2, name="head")
        self.noise = keras.random.SeedGenerator(1)
        self.seen = []

    def call(self, x):
        self.calls = x
        x = x + keras.random.normal((6,), seed=self.noise)
        for block in self.blocks:
            x = block(x)
        self.add_loss(ops.mean(x))
        return self.head(x)


def deep():
    model = Deep()
    model(np.ones((2, 6), "float32"))
    return model


def test_the_steps_of_a_subclassed_model():
    model = deep()
    trace = winit.trace(model)
    block = ["Dense", "Dense", "Multiply", "Add"]
    assert kinds(trace) == ["Add", *3 * block, "Mean", "Dense"]
    down = trace.of(model.blocks[1].down)[0]
    assert [layer.name for layer in down.around] == [model.name, "block_1"]
    assert down.inputs == trace.of(model.blocks[1].up)[0].outputs
    (gained,) = down.outputs[0].readers
    assert [variable.name for variable in gained.variables] == ["gain"]
    (added,) = gained.outputs[0].readers
    # The stream: what the block was given, and what it adds.
    assert {added.inputs[0], added.inputs[1]} == {trace.steps[4].outputs[0], gained.outputs[0]}
    assert trace.is_output(trace.of(model.head)[0].outputs[0])
    assert trace.reason is None
    assert not trace.opaque


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "sequential": ["Dense", "Dropout", "Dense", "Dense"],
        "nested": ["Dense", "Dense", "Activation", "Dense", "Dense"],
        "shared": ["Dense", "Dense", "Dense"],
        "wrapped": ["Conv2D", "PReLU", "GroupNormalization", "Flatten", "Dense"],
        "subclassed": ["Dense", "Dense", "Dense"],
    }.items(),
)
def test_the_steps_of_models_of_every_kind(name, expected):
    trace = winit.trace(zoo.MODELS[name]())
    assert [kind for kind in kinds(trace) if kind not in ("Reshape", "Cast")] == expected


@pytest.mark.parametrize("name", zoo.MODELS)
def test_what_a_trace_says_is_what_a_call_computes(name):
    """Each step computed with numbers, in its order, gives what the model gives."""
    model = zoo.MODELS[name]()
    data = zoo.data(model, name)
    trace = winit.trace(model, data)
    numbers = {id(trace.inputs[0]): ops.convert_to_tensor(data)}

    def number(item):
        return numbers.get(id(item), item.variable) if isinstance(item, type(trace.inputs[0])) else item

    for step in trace.steps:
        arguments = keras.tree.map_structure(number, list(step.arguments))
        options = {key: keras.tree.map_structure(number, item) for key, item in step.options.items()}
        call = step.operation if step.in_layer else step.operation.call
        outputs = keras.tree.flatten(call(*arguments, **options))
        for value, output in zip(step.outputs, outputs, strict=True):
            assert tuple(output.shape) == value.shape
            numbers[id(value)] = output
    (found,) = (numbers[id(value)] for value in trace.outputs)
    np.testing.assert_allclose(array(found), array(model(data)), rtol=1e-4, atol=1e-5)


def test_it_prints_as_a_table():
    trace = winit.trace(deep())
    assert repr(trace).startswith("<Trace: 15 steps of 'deep")
    lines = str(trace).splitlines()
    (gained,) = [line for line in lines if "block_0" in line and "Multiply" in line]
    assert gained.split() == ["4", "block_0", "Multiply", "gain,", "3", "2×6"]
    assert lines[-1].rstrip().endswith("→ output")
    row = trace.to_dict()["steps"][3]
    assert list(row.values()) == ["4", "block_0", "", "Multiply", "gain, 3", "2×6", ""]
    assert list(row) == ["step", "inside", "layer", "operation", "reads", "puts out", "note"]


class Numpy(layers.Layer):
    """Goes by numbers."""

    def __init__(self, inner=None, **options):
        super().__init__(**options)
        self.inner = inner

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        x = x if self.inner is None else self.inner(x)
        return x * float(ops.max(x))


def test_what_cannot_be_traced_is_one_step_with_its_reason():
    inputs = keras.Input((6,))
    inside = keras.Sequential([keras.Input((6,)), layers.Dense(6, "relu", name="inside")])
    x = Numpy(inside, name="numpy")(layers.Dense(6, name="before")(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="behind")(x))
    trace = winit.trace(model)
    (step,) = trace.opaque
    assert step.operation.name == "numpy"
    assert step.opaque
    assert "\n" not in step.opaque
    names = [each.operation.name for each in trace.steps]
    assert names[:3] == ["before", "numpy", "behind"]
    assert "inside" in names[3:]  # traced for itself
    assert trace.is_lost(trace.of(inside.layers[0])[0].outputs[0])
    assert not trace.is_open(step.operation)
    assert "1 of them not looked into" in repr(trace)


def test_a_model_that_cannot_be_called_is_traced_in_parts():
    class Gan(keras.Model):
        def __init__(self):
            super().__init__()
            self.generator = keras.Sequential([keras.Input((3,)), layers.Dense(5, "relu", name="g")])
            self.discriminator = keras.Sequential([keras.Input((5,)), layers.Dense(1, name="d")])
            self.built = True

    model = Gan()
    trace = winit.trace(model)
    assert trace.reason
    assert {step.operation.name for step in trace.steps} >= {"g", "d"}
    assert [row.scheme for row in winit.initialize(model, seed=0).rows][::2][0] == "glorot_uniform"
    for act in (winit.calibrate, winit.diagnose):
        with pytest.raises(ValueError, match=r"has no `call`.*inside: 'sequential.*', 'sequential"):
            act(model, np.ones((4, 3), "float32"))


@pytest.mark.parametrize(
    "call",
    [
        lambda x, w: ops.scan(
            lambda c, y: (c + ops.matmul(y, w), y), ops.zeros((3, 4)), ops.swapaxes(x, 0, 1)
        )[0],
        lambda x, w: ops.fori_loop(0, 2, lambda _, y: ops.matmul(y, w), x[:, 0]),
        lambda x, w: ops.while_loop(lambda y: True, lambda y: (ops.matmul(y, w),), (x[:, 0],))[0],
        lambda x, w: ops.vectorized_map(lambda y: ops.matmul(y, w), x),
        lambda x, w: ops.cond(ops.sum(x) > 0, lambda: ops.matmul(x, w), lambda: x),
        lambda x, w: ops.switch(ops.cast(ops.sum(x), "int32"), [lambda y: ops.matmul(y, w), lambda y: y], x),
        lambda x, w: ops.associative_scan(lambda a, b: a + ops.matmul(b, w), x),
    ],
    ids=["scan", "fori_loop", "while_loop", "vectorized_map", "cond", "switch", "associative_scan"],
)
@since(3, 12, "some loops are no operations")
def test_the_bodies_of_loops_are_seen(call):
    class Loop(layers.Layer):
        def build(self, _shape):
            self.w = self.add_weight(shape=(4, 4))

        def call(self, x):
            return call(x, self.w)

        def compute_output_shape(self, shape):
            return shape

    layer = Loop()
    layer.build((3, 5, 4))
    trace = winit.trace(layer, np.ones((3, 5, 4), "float32"))
    assert not trace.opaque
    assert "Matmul" in kinds(trace)
    assert winit.layer_fans(layer, layer.w).note == "from the computation: Matmul"


# What it leaves behind: nothing.


def state_of(model):
    """All that a call could change in a model and in this thread."""
    every = model._flatten_layers()
    operations = [*every, *getattr(model, "operations", [])]
    return {
        "weights": [array(variable.value) for variable in model.variables],
        "seeds": [array(each.state.value) for layer in every for each in layer._seed_generators],
        "nodes": [(len(each._inbound_nodes), len(each._outbound_nodes)) for each in operations],
        "losses": [list(map(id, layer._losses)) for layer in every],
        "flags": [(layer.built, layer._called, getattr(layer, "stateful", None)) for layer in every],
        "attributes": [sorted(vars(layer)) for layer in every],
        "ids": [[id(item) for item in vars(layer).values()] for layer in every],
        "lists": [len(item) for layer in every for item in vars(layer).values() if isinstance(item, list)],
        "calls": [type(layer).call for layer in every],
        "methods": [layers.Layer.__call__, keras.Operation.symbolic_call],
        "python": random.getstate(),
        "global seed": keras.src.backend.common.global_state.get_global_attribute("global_seed_generator"),
    }


def assert_same(before, after):
    assert before.keys() == after.keys()
    for key, value in before.items():
        if key in ("weights", "seeds"):
            for one, other in zip(value, after[key], strict=True):
                np.testing.assert_array_equal(one, other)
        else:
            assert value == after[key], key


def next_names():
    """The names that Keras makes up next; reading them uses them up, so they are given back."""
    uids = keras.src.utils.naming.global_state.get_global_attribute("object_name_uids")
    return dict(uids)


class Worst(keras.Model):
    """Whatever a call can leave behind."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4)
        self.drop = layers.Dropout(0.5)
        self.norm = layers.BatchNormalization()
        self.count = self.add_weight(name="count", shape=(), initializer="zeros", trainable=False)
        self.log = []

    def call(self, x, training=None):
        self.count.assign(self.count + 1)
        self.count.assign_add(1.0)
        self.last = x
        self.log.append(x)
        x = self.norm(self.drop(self.dense(x), training=True), training=True)
        self.add_loss(ops.mean(ops.square(x)))
        return layers.Activation("relu")(x) + keras.random.normal(ops.shape(x))


def models():
    made = {name: make() for name, make in zoo.MODELS.items()}
    made["deep"] = deep()
    made["worst"] = worst = Worst()
    worst(np.ones((2, 3), "float32"))
    made["loops"] = own_layers.model_of(own_layers.Mapped)
    inputs = keras.Input((6,))
    made["opaque"] = keras.Model(inputs, Numpy(layers.Dense(6))(inputs))
    made["unbuilt"] = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    made["unbuilt"].never = layers.Dense(3)
    return made


MODELS = (*zoo.MODELS, "deep", "worst", "loops", "opaque", "unbuilt")


@pytest.mark.parametrize("name", MODELS)
def test_it_leaves_nothing_behind(name):
    model = models()[name]
    before, names = state_of(model), next_names()
    for act in (winit.trace, lambda model: winit.initialize(model, "configured", seed=0, dry_run=True)):
        act(model)
        assert_same(before, state_of(model))
        assert next_names() == names
    assert layers.Dense(1).name.startswith("dense")


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_it_leaves_nothing_behind_when_it_is_broken_off(kind, monkeypatch):
    model = models()["deep"]
    before, names = state_of(model), next_names()
    count = len(winit.trace(model).steps)
    note = tracing._Tracer._note
    for last in range(count):
        left = [last]

        def stops(self, *arguments, left=left, **options):
            left[0] -= 1
            if left[0] < 0:
                raise kind("stopped")
            return note(self, *arguments, **options)

        monkeypatch.setattr(tracing._Tracer, "_note", stops)
        if kind is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                winit.trace(model)
        monkeypatch.setattr(tracing._Tracer, "_note", note)
        assert_same(before, state_of(model))
        assert next_names() == names


class Remembering(layers.Layer):
    """Leaves what it was given in objects of its own, and draws from all random numbers that there are."""

    def __init__(self):
        super().__init__()
        self.store, self.last = own_layers.Box(None), collections.deque(maxlen=2)

    def call(self, x):
        self.store.kernel = x
        self.last.append(x)
        return x + keras.random.normal((3,)) + random.random() + np.random.rand()


def test_what_a_call_leaves_in_objects_and_random_numbers():
    layer = Remembering()
    layer(np.ones((2, 3), "float32"))
    held, last, state, numpys = layer.store.kernel, list(layer.last), random.getstate(), np.random.get_state()
    assert "Add" in kinds(winit.trace(layer, np.ones((2, 3), "float32")))
    assert layer.store.kernel is held
    assert [one is other for one, other in zip(layer.last, last, strict=True)] == [True]
    assert random.getstate() == state
    np.testing.assert_array_equal(np.random.get_state()[1], numpys[1])


@since(3, 13, "what runs on symbols moves the seeds of Keras on")
def test_a_call_leaves_the_seeds_of_keras():
    layer = Remembering()
    layer(np.ones((2, 3), "float32"))
    keras.utils.set_random_seed(1)
    winit.trace(layer, np.ones((2, 3), "float32"))
    first = array(keras.random.normal((3,)))
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(array(keras.random.normal((3,))), first)


def test_other_threads_call_what_they_mean_to_call():
    model, data = deep(), np.ones((2, 6), "float32")
    model.noise = None
    model.call = lambda x: model.head(model.blocks[0](x))
    expected = array(model(data))
    wrong, stop = [], threading.Event()

    def call():
        while not stop.is_set():
            try:
                if not np.array_equal(array(model(data)), expected):
                    wrong.append("other numbers")
                keras.Model(inputs := keras.Input((3,)), layers.Dense(2)(inputs))
            except Exception as error:
                wrong.append(error)

    others = [threading.Thread(target=call) for _ in range(2)]
    tracers = [threading.Thread(target=lambda: [winit.trace(model) for _ in range(20)]) for _ in range(2)]
    for thread in (*others, *tracers):
        thread.start()
    for thread in tracers:
        thread.join()
    stop.set()
    for thread in others:
        thread.join()
    assert not wrong
    assert vars(layers.Layer)["__call__"].__module__.startswith("keras.")


def test_a_trace_is_not_kept_alive():
    steps = winit.trace(deep()).steps
    alive = [weakref.ref(step) for step in steps]
    del steps
    gc.collect()
    assert not any(step() for step in alive)


def knowing(names):
    """The files of the package that use any of these names."""
    package = Path(winit.__file__).parent
    return {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.Constant) and node.value in names)
    }


def test_one_file_alone_knows_how_keras_calls_and_none_its_nodes():
    nodes = {"_nodes_by_depth", "_keras_history", "_inbound_nodes", "_outbound_nodes", "parent_nodes"}
    assert knowing(nodes) == set()
    assert knowing({"symbolic_call", "GLOBAL_STATE_TRACKER"}) == {"models/tracing/interception.py"}
    assert knowing({"_inputs_struct"}) == {"models/tracing/structure.py"}


@pytest.mark.parametrize("bad", [None, 3, "model"])
def test_what_is_no_model_is_refused(bad):
    with pytest.raises(TypeError, match="must be a Keras model"):
        winit.trace(bad)


def test_an_unbuilt_model_is_refused():
    with pytest.raises(ValueError, match="not built"):
        winit.trace(keras.Sequential([layers.Dense(3)]))


CUTS = {
    "a slice": lambda table: table[:7],
    "a slice of a tensor": lambda table: ops.convert_to_tensor(table)[:7],
    "a row": lambda table: table[3],
    "two slices": lambda table: table[:7, :],
    "a new axis": lambda table: table[None, :7],
    "steps": lambda table: table[1:15:2],
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_part_of_a_variable_is_seen(cut):
    class Positions(keras.layers.Layer):
        def build(self, _shape):
            self.table = self.add_weight(shape=(40, 5), name="table")

        def call(self, x):
            return x + CUTS[cut](self.table)

    trace = winit.trace(keras.Sequential([keras.Input((7, 5)), Positions()]))
    assert not trace.opaque
    assert [step.kind for step in trace.steps][-2:] == ["GetItem", "Add"]
    assert tuple(trace.steps[-1].outputs[0].shape[1:]) == (7, 5)
