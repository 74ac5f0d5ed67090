"""`portable`: a model that loads, and computes the same, where this package is not installed."""

import json
import zipfile

import keras
import numpy as np
import pytest
from cases import CASES, home_model
from helpers import array, run_python, std_tolerance
from keras import layers
from zoo import MODELS, assert_unchanged, data, snapshot

import keras_winit as winit
from keras_winit.models.portable import twin

# A process in which importing this package fails, as where it is not installed.
WITHOUT = """
import sys
sys.modules["keras_winit"] = None
import json, keras, numpy as np
ZOO
found = []
for model, inputs in zip(sys.argv[1::2], sys.argv[2::2]):
    loaded = keras.models.load_model(model)
    outputs = keras.ops.convert_to_numpy(loaded(np.load(inputs)))
    found.append([np.asarray(outputs, "float64").ravel().tolist(), loaded.compiled])
print("JSON" + json.dumps(found))
"""


def outputs_without_the_package(pairs, zoo=""):
    arguments = [str(part) for pair in pairs for part in pair]
    finished = run_python("-c", WITHOUT.replace("ZOO", zoo), *arguments)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout.split("JSON")[1])


@pytest.mark.long
def test_every_kind_of_model_loads_without_the_package(tmp_path):
    pairs, expected = [], []
    for name, make in MODELS.items():
        model = make()
        winit.initialize(model, "auto", seed=1)
        model.compile("adam", keras.losses.MeanSquaredError())  # which Keras can read from h5 too
        inputs = data(model, name)
        before = snapshot(model)
        copy = winit.portable(model)
        assert_unchanged(model, before)
        assert copy is not model
        for ending in ("keras", "h5"):
            path = tmp_path / f"{name}.{ending}"
            if ending == "h5" and name not in ("sequential", "nested", "shared", "recurrent"):
                continue  # kinds that Keras itself does not save as h5, or does not load
            copy.save(path)
            np.save(tmp_path / f"{name}.npy", inputs)
            pairs.append((path, tmp_path / f"{name}.npy"))
            expected.append(array(model(inputs)).ravel())
    found = outputs_without_the_package(pairs, "import zoo")
    for (outputs, compiled), wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(outputs, wanted, rtol=1e-4, atol=1e-5)
        assert compiled


@pytest.mark.long
def test_every_scheme_has_a_twin_that_loads_without_the_package(tmp_path):
    pairs, expected = [], []
    for index, case in enumerate(CASES):
        model = home_model(case, winit.get(case.name, **case.arguments))
        inputs = np.ones((2, *model.input_shape[1:]), "float32")
        path = tmp_path / f"{index}.keras"
        winit.portable(model).save(path)
        with zipfile.ZipFile(path) as archive:
            assert b"winit" not in archive.read("config.json")
        np.save(tmp_path / f"{index}.npy", inputs)
        pairs.append((path, tmp_path / f"{index}.npy"))
        expected.append(array(model(inputs)).ravel())
    for (outputs, _), wanted in zip(outputs_without_the_package(pairs), expected, strict=True):
        np.testing.assert_allclose(outputs, wanted, rtol=1e-4, atol=1e-5)


# Keras has no geometric mean, no 1/fan_in², and no gates.
EXACT = [
    case
    for case in CASES
    if case.distribution
    and case.name != "per_gate"
    and case.arguments.get("mode") != "fan_geo_avg"
    and not case.arguments.get("first")
]


@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.id)
def test_a_twin_has_the_same_deviation(case):
    for shape, std in case.deviations.items():
        found = twin(winit.get(case.name, **case.arguments, seed=3))
        sample = array(found(shape))
        assert sample.std() == pytest.approx(std, rel=std_tolerance("normal", sample.size))


def test_the_twin_of_gates_with_factors_has_their_power():
    gates = winit.PerGate(winit.RandomNormal(stddev=0.1), gates=4, factors=(1.0, 1.0, 1.0, 3.0), seed=3)
    sample, own = (array(scheme((50, 400))) for scheme in (twin(gates), gates))
    assert sample.std() == pytest.approx(own.std(), rel=2 * std_tolerance("normal", sample.size))


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [
        (winit.GlorotUniform(), keras.initializers.GlorotUniform),
        (winit.HeUniform(), keras.initializers.HeUniform),
        (winit.HeUniform(negative_slope=0.1), keras.initializers.VarianceScaling),
        (winit.Orthogonal(2.0), keras.initializers.Orthogonal),
        (winit.Zeros(), keras.initializers.Zeros),
        (winit.PriorBias(0.1), keras.initializers.Constant),
        (winit.LooksLinearBias("elu"), keras.initializers.Zeros),
        (winit.Scaled("ones", factor=3.0), keras.initializers.Constant),
        (winit.Summed("ones", terms=3), keras.initializers.Constant),
        (winit.Scaled("he_normal", factor=0.0), keras.initializers.Zeros),
        (winit.Scaled(keras.initializers.HeNormal(), factor=2.0), keras.initializers.VarianceScaling),
        (winit.HeNormal(seed=keras.random.SeedGenerator(3)), keras.initializers.VarianceScaling),
    ],
)
def test_twins(scheme, kind):
    found = twin(scheme)
    assert type(found) is kind
    config = scheme.get_config()
    if isinstance(config.get("seed"), int):
        assert found.seed == scheme.seed


def test_compile_state_and_training_go_on():
    model = keras.Sequential([keras.Input((12,)), layers.Dense(9, "relu"), layers.Dense(4, "softmax")])
    winit.initialize(model, seed=0)
    model.compile(keras.optimizers.Adam(0.01), "categorical_crossentropy", metrics=["accuracy"])
    inputs, labels = data(model, "sequential", 64), np.eye(4)[np.arange(64) % 4]
    model.fit(inputs, labels, epochs=2, verbose=0, shuffle=False)
    copy = winit.portable(model)
    assert copy.compiled
    assert float(copy.optimizer.learning_rate) == pytest.approx(0.01)
    for one, other in zip(model.optimizer.variables, copy.optimizer.variables, strict=True):
        np.testing.assert_array_equal(array(one), array(other))
    going = [m.fit(inputs, labels, verbose=0, shuffle=False).history["loss"] for m in (model, copy)]
    assert going[0] == pytest.approx(going[1], rel=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = MODELS["functional"]()
    finally:
        keras.config.set_dtype_policy("float32")
    winit.initialize(model, seed=0)
    copy = winit.portable(model)
    # Keras itself reloads an input layer as float32.
    policies = [[layer.dtype_policy.name for layer in each.layers[1:]] for each in (model, copy)]
    assert policies[0] == policies[1]


def assert_portable(model):
    copy = winit.portable(model)
    for one, other in zip(model.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    config = json.dumps(keras.saving.serialize_keras_object(copy))
    assert '"winit>' not in config
    return copy


@pytest.mark.parametrize(
    "stack",
    [
        lambda: [keras.Input((None, None, 3)), layers.Conv2D(4, 5, kernel_initializer="winit>he_uniform")],
        lambda: [keras.Input((None,)), layers.Embedding(10, 3), layers.Conv1D(4, 9)],
        lambda: [keras.Input((4, 3), batch_size=2), layers.LSTM(3, stateful=True)],
        lambda: [keras.Input((5,)), layers.Dense(4, dtype="bfloat16", kernel_initializer="winit>orthogonal")],
        lambda: [
            keras.Input((6, 6, 4)),
            layers.Conv2D(4, 3, dtype="bfloat16", kernel_initializer="winit>dirac"),
        ],
    ],
    ids=["open sizes", "open length", "stateful", "bfloat16", "bfloat16 taps"],
)
def test_models_that_are_hard_to_probe(stack):
    assert_portable(keras.Sequential(stack()))


def test_the_model_itself_is_not_called():
    model = keras.Sequential(
        [keras.Input((4, 3), batch_size=2), layers.LSTM(3, stateful=True), layers.Dropout(0.5)]
    )
    model(np.ones((2, 4, 3), "float32"), training=True)
    before = [array(v) for v in [*model.variables, *model.layers[0].states]]
    assert_portable(model)
    for one, other in zip(before, [*model.variables, *model.layers[0].states], strict=True):
        np.testing.assert_array_equal(one, array(other))


def test_an_adapted_model():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4, kernel_initializer="winit>he_normal")])
    model.layers[0].enable_lora(2)
    model.layers[0].lora_kernel_b.assign(np.ones((2, 4)))
    inputs = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    np.testing.assert_allclose(
        array(winit.portable(model)(inputs)), array(model(inputs)), rtol=1e-4, atol=1e-5
    )


def test_a_layer_that_keeps_the_name_of_its_initializer():
    @keras.saving.register_keras_serializable("test_portable")
    class Own(layers.Layer):
        def __init__(self, kernel_initializer="winit>he_uniform", **kwargs):
            super().__init__(**kwargs)
            self.kernel_initializer = kernel_initializer

        def build(self, shape):
            self.kernel = self.add_weight(
                name="kernel", shape=(shape[-1], 4), initializer=self.kernel_initializer
            )

        def call(self, x):
            return keras.ops.matmul(x, self.kernel)

        def get_config(self):
            return {**super().get_config(), "kernel_initializer": self.kernel_initializer}

    model = keras.Sequential([keras.Input((3,)), Own()])
    assert_portable(model)
    for scheme in ("auto", "configured"):
        winit.initialize(model, scheme, seed=0)
        assert array(model.layers[0].kernel).std() > 0
    assert_portable(model)


def test_functions_of_the_users_own():
    def double(x):
        return 2 * x

    def loss(y, z):
        return keras.ops.mean(keras.ops.square(y - z))

    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, activation=double, kernel_initializer="winit>eye")]
    )
    model.compile("sgd", loss)
    assert assert_portable(model).compiled


def test_models_without_a_configuration_are_refused():
    class Unconfigured(keras.Model):
        def __init__(self, function):
            super().__init__()
            self.dense = layers.Dense(3, kernel_initializer="winit>he_normal")
            self.function = function

        def call(self, x):
            return self.function(self.dense(x))

    model = Unconfigured(lambda x: x)
    model(np.ones((1, 2), "float32"))
    before = snapshot(model)
    with pytest.raises(ValueError, match="cannot be made portable.*get_config"):
        winit.portable(model)
    assert_unchanged(model, before)


@pytest.mark.parametrize(
    ("model", "message"),
    [("model.keras", "must be a Keras model"), (keras.Sequential([layers.Dense(3)]), "is not built")],
)
def test_bad_input(model, message):
    with pytest.raises((TypeError, ValueError), match=message):
        winit.portable(model)


def test_a_model_that_is_named_after_the_package():
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2, kernel_initializer="winit>he_normal", name="keras_winit_dense")],
        name="winit",
    )
    copy = winit.portable(model)
    assert copy.name == "winit"
    assert type(copy.layers[0].kernel_initializer).__module__.startswith("keras.")
