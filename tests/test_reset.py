"""A reset gives every weight the value that its layer gives it when it is made."""

import random

import keras
import numpy as np
import own_layers
import pytest
import zoo
from helpers import array, needs_renorm
from keras import layers, ops

import keras_winit as winit


def train(model):
    """Stands for training: every weight moves, and every statistic; not what is fixed or adapted."""
    rng = np.random.default_rng(7)
    fixed = {
        id(variable)
        for layer in model._flatten_layers()
        if isinstance(layer, layers.Normalization) or not layer.trainable
        for variable in layer.variables
    }
    for variable in model.variables:
        if keras.backend.is_float_dtype(variable.dtype) and id(variable) not in fixed:
            step = rng.normal(size=variable.shape).astype("float32")
            variable.assign(ops.cast(array(variable.value) + 1 + 0.3 * step, variable.dtype))


def left_trained(model, scheme="configured"):
    """The paths of weights that a reset leaves as training made them."""
    made = [array(variable.value) for variable in model.variables]
    train(model)
    trained = [array(variable.value) for variable in model.variables]
    winit.initialize(model, scheme, seed=1)
    return [
        variable.path
        for variable, old, value in zip(model.variables, made, trained, strict=True)
        if not np.array_equal(old, value) and np.array_equal(array(variable.value), value)
    ]


class LayerScale(layers.Layer):
    """ConvNeXt's, by its small start."""

    def __init__(self, start=1e-6, **options):
        super().__init__(**options)
        self.start = start

    def build(self, shape):
        constant = keras.initializers.Constant(self.start)
        self.gamma = self.add_weight(name="gamma", shape=(shape[-1],), initializer=constant)

    def call(self, x):
        return x * self.gamma


class NoConfig(layers.Layer):
    """Takes what no configuration can hold, and makes its weights, and a layer, in its build."""

    def __init__(self, function, **options):
        super().__init__(**options)
        self.function = function
        self.inner = layers.Dense(6)

    def build(self, shape):
        self.inner.build(shape)
        self.slope = self.add_weight(shape=(shape[-1],), initializer=keras.initializers.Constant(0.25))

    def call(self, x):
        return self.function(self.inner(x) * self.slope)


class Forgetful(layers.Layer):
    """Leaves out of its configuration what it draws from."""

    def __init__(self, start="glorot_uniform", **options):
        super().__init__(**options)
        self.start = start

    def get_config(self):
        return super().get_config()

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], shape[-1]), initializer=self.start)

    def call(self, x):
        return x + ops.matmul(x, self.w)


def test_what_a_configuration_leaves_out_is_still_asked_for():
    model = of(Forgetful("zeros"))
    assert left_trained(model) == []
    assert not array(model.weights[0].value).any()
    assert winit.initialize(model, seed=1).rows[0].reason == "the layer asks for zeros"


class Assigned(layers.Layer):
    """Sets a weight's value when it is built."""

    def build(self, shape):
        self.ramp = self.add_weight(shape=(shape[-1],), initializer="zeros")
        self.ramp.assign(np.linspace(0, 1, shape[-1]))

    def call(self, x):
        return x + self.ramp


class Vit(keras.Model):
    """Patches, a class token, positions, and a gate between two ways."""

    def __init__(self, width=6, **options):
        super().__init__(**options)
        self.width = width
        self.patch = layers.Dense(width)
        self.token = self.add_weight(name="token", shape=(1, 1, width), initializer="zeros")
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.places = self.add_weight(name="places", shape=(1, 5, width), initializer=normal)
        self.gate = self.add_weight(name="gate", shape=(), initializer="ones")
        self.attention, self.norm = layers.MultiHeadAttention(2, 3), layers.LayerNormalization()

    def call(self, x):
        x = self.patch(x)
        x = ops.concatenate([ops.tile(self.token, (ops.shape(x)[0], 1, 1)), x], axis=1) + self.places
        return self.norm(x + ops.tanh(self.gate) * self.attention(x, x))


def vit():
    model = Vit()
    model(np.ones((2, 4, 3), "float32"))
    return model


def of(layer, shape=(6,)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


OWN = {
    "layer scale": lambda: of(LayerScale()),
    "no config": lambda: of(NoConfig(ops.relu)),
    "assigned": lambda: of(Assigned()),
    "vit": vit,
    "positions": lambda: own_layers.model_of(own_layers.Positions),
    "norm": lambda: own_layers.model_of(own_layers.Norm),
    "matmul": lambda: own_layers.model_of(own_layers.Matmul),
    "list": lambda: own_layers.model_of(own_layers.InAList),
    "attention scale": lambda: of_two(layers.AdditiveAttention()),
    "rms": lambda: of(layers.RMSNormalization()),
    "renorm": lambda: of(layers.BatchNormalization(renorm=True)),
    "spectral": lambda: of(layers.SpectralNormalization(layers.Dense(4))),
    "prelu": lambda: of(layers.PReLU()),
    "nested": lambda: of(keras.Sequential([layers.Dense(6), NoConfig(ops.tanh), LayerScale(0.1)])),
}


def named(names):
    return [pytest.param(name, marks=needs_renorm if name == "renorm" else ()) for name in names]


def of_two(layer):
    one, two = keras.Input((4, 6)), keras.Input((4, 6))
    return keras.Model([one, two], layer([one, two]))


@pytest.mark.parametrize("name", named(OWN))
def test_no_trained_weight_is_left(name):
    assert left_trained(OWN[name]()) == []


@pytest.mark.parametrize("name", [name for name in zoo.MODELS if name != "attention"])
def test_no_trained_weight_of_the_zoo_is_left(name):
    assert left_trained(zoo.MODELS[name]()) == []


def test_the_values_are_those_of_a_layer_that_was_just_made():
    model = of(LayerScale(0.3))
    left_trained(model)
    np.testing.assert_allclose(array(model.weights[0].value), 0.3, rtol=1e-6)
    model = OWN["assigned"]()
    left_trained(model, "auto")
    np.testing.assert_allclose(array(model.weights[0].value), np.linspace(0, 1, 6), rtol=1e-6)
    model = vit()
    left_trained(model, "auto")
    assert array(model.places.value).std() == pytest.approx(0.02, rel=0.5)
    assert not array(model.token.value).any()
    assert array(model.gate.value) == 1
    model = OWN["no config"]()
    left_trained(model, "auto")
    np.testing.assert_allclose(array(model.layers[-1].slope.value), 0.25)


def test_random_values_follow_from_the_seed_alone():
    model, values = vit(), []
    for _ in range(2):
        train(model)
        winit.initialize(model, seed=4)
        values.append(array(model.places.value))
    np.testing.assert_array_equal(*values)
    winit.initialize(model, seed=5)
    assert not np.array_equal(array(model.places.value), values[0])


@pytest.mark.parametrize("name", named(["layer scale", "no config", "vit", "spectral", "renorm"]))
def test_asking_a_twin_leaves_nothing_behind(name):
    model = OWN[name]()
    names = dict(keras.src.backend.common.global_state.get_global_attribute("object_name_uids"))
    state = random.getstate()
    weights, count = model.get_weights(), len(model.variables)
    attributes = [sorted(vars(layer)) for layer in model._flatten_layers()]
    winit.initialize(model, "configured", seed=1, dry_run=True)
    assert dict(keras.src.backend.common.global_state.get_global_attribute("object_name_uids")) == names
    assert random.getstate() == state
    assert len(model.variables) == count
    assert [sorted(vars(layer)) for layer in model._flatten_layers()] == attributes
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


ARCHITECTURES = {"ConvNeXtTiny": 32, "MobileNetV3Small": 32, "EfficientNetV2B0": 32, "DenseNet121": 32}
ALL = sorted(
    name
    for name, item in vars(keras.applications).items()
    if callable(item) and not name.startswith("_") and name[0].isupper()
)
SIZES = {"Xception": 71, "InceptionV3": 75, "InceptionResNetV2": 75, "NASNetLarge": 331, "NASNetMobile": 224}


def architecture(name):
    size = SIZES.get(name, 32)
    return getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=10)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_trained_weight_of_an_architecture_is_left(name):
    assert left_trained(architecture(name)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name not in ARCHITECTURES])
def test_no_trained_weight_of_any_architecture_is_left(name):
    assert left_trained(architecture(name)) == []


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def test_dropout_starts_over_so_that_two_runs_are_equal():
    x = numbers(64, 8)
    hidden = [layers.Dense(32, "relu"), layers.Dropout(0.5, seed=3, name="drop"), layers.Dense(1)]
    model = keras.Sequential([keras.Input((8,)), *hidden])
    model.compile("sgd", "mse")
    losses = []
    for _ in range(2):
        plan = winit.initialize(model, seed=0)
        losses.append(model.fit(x, x[:, :1], epochs=2, verbose=0, shuffle=False).history["loss"])
    assert losses[0] == losses[1]
    (row,) = [row for row in plan.rows if row.role == "state"]
    assert (row.scheme, row.reason) == ("start", "drop: its random numbers start over")


def test_a_stateful_layer_starts_over_and_only_where_all_does():
    x = numbers(4, 5, 3)
    model = keras.Sequential(
        [keras.Input(batch_shape=(4, 5, 3)), layers.LSTM(6, stateful=True, name="memory")]
    )
    for state in model.layers[0].states:  # as a batch leaves it
        state.assign(numbers(*state.shape))
    states = [array(state.value) for state in model.layers[0].states]
    assert all(state.any() for state in states)
    for act in (
        lambda: winit.initialize(model, {"memory": "orthogonal"}),
        lambda: winit.initialize(model, "keep"),
        lambda: winit.initialize(model, dry_run=True),
        lambda: winit.calibrate(model, x, scheme="keep"),
        lambda: winit.diagnose(model, x),
    ):
        act()
        for state, value in zip(model.layers[0].states, states, strict=True):
            np.testing.assert_array_equal(array(state.value), value)
    plan = winit.initialize(model, "configured", seed=0)
    assert [row.reason for row in plan.rows if row.role == "state"] == ["memory: its state is empty"] * 2
    assert not any(array(state.value).any() for state in model.layers[0].states)


def test_the_learning_rate_in_force_is_named():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    callback = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.1)
    model.fit(numbers(8, 3), numbers(8, 1), epochs=3, verbose=0, callbacks=[callback])
    plan = winit.initialize(model, "configured", seed=0)
    assert plan.optimizer == "the optimizer's state is reset too; its learning rate stays 1e-05"
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    model.compile(keras.optimizers.SGD(schedule, momentum=0.9), "mse")
    model.fit(numbers(8, 3), numbers(8, 1), verbose=0)
    assert winit.initialize(model).optimizer.endswith("its learning rate follows its schedule from the start")
