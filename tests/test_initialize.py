"""`initialize` on models of every kind: what it draws, keeps, records and takes back."""

import json
import math
import re

import keras
import numpy as np
import pytest
from helpers import TAKES_AXES, array, std_tolerance
from keras import layers
from zoo import MODELS, assert_unchanged, data, functional, nested, sequential, snapshot

import keras_winit as winit
from keras_winit.schemes import Scheme

each_model = pytest.mark.parametrize("name", MODELS)


def row(plan, path):
    rows = [row for row in plan.rows if re.search(path, row.path)]
    assert len(rows) == 1, [row.path for row in plan.rows]
    return rows[0]


def weights_by_path(model):
    """Arrays by the path inside the model."""
    return {short(variable.path): array(variable) for variable in model.variables}


def short(path):
    return re.sub(r"^sequential(_\d+)?/", "", path)


@each_model
@pytest.mark.parametrize("scheme", ["auto", "configured", "torch", "he_normal", "keep"])
def test_every_scheme_on_every_kind_of_model(name, scheme):
    model = MODELS[name]()
    inputs = data(model, name)
    before = snapshot(model)
    dry = winit.initialize(model, scheme, seed=3, dry_run=True)
    assert_unchanged(model, before)
    assert dry.dry_run
    plan = winit.initialize(model, scheme, seed=3)
    assert plan.rows == dry.rows
    assert plan.seed == 3
    states = {
        id(g.state) for layer in model._flatten_layers() for g in getattr(layer, "_seed_generators", ())
    }
    variables = [v for v in model.variables if id(v) not in states]
    assert sorted(row.path for row in plan.rows) == sorted(v.path for v in variables)
    assert np.isfinite(array(model(inputs))).all()
    if scheme == "keep":
        assert_unchanged(model, before)
        assert not plan.drawn
    else:
        assert not plan.kept
        kernels = [row for row in plan.rows if row.role in ("kernel", "recurrent", "embedding")]
        assert len({row.seed for row in kernels}) == len(kernels)
    text = str(plan)
    assert f"seed {plan.seed}" in text
    for each in plan.rows:
        assert each.path[:20] in text
        assert each.reason


@each_model
def test_the_record_draws_the_weights_again(name):
    model = MODELS[name]()
    plan = winit.initialize(model, "auto", seed=3)
    checked = 0
    for layer in model._flatten_layers():
        owned = {id(variable) for variable in layer._trainable_variables}
        for variable in layer.variables:
            record = getattr(layer, f"{variable.name}_initializer", None)
            record = getattr(layer, "depthwise_initializer", record) if variable.name == "kernel" else record
            forget = variable.name == "bias" and getattr(layer, "unit_forget_bias", False)
            if isinstance(record, Scheme) and id(variable) in owned and not forget:
                np.testing.assert_array_equal(array(record(variable.shape)), array(variable))
                checked += 1
    assert checked
    assert plan.drawn


@each_model
def test_a_saved_model_says_how_it_was_made(name, tmp_path):
    if name == "subclassed":
        pytest.skip("what a subclass keeps in its configuration is its own")
    model = MODELS[name]()
    winit.initialize(model, "auto", seed=3)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    inputs = data(model, name)
    np.testing.assert_allclose(array(again(inputs)), array(model(inputs)), rtol=1e-4, atol=1e-5)
    for layer, twin in zip(model._flatten_layers(), again._flatten_layers(), strict=True):
        assert type(layer) is type(twin)
        for key, value in vars(layer).items():
            if isinstance(value, Scheme) and "attention" not in layer.path:
                assert getattr(twin, key).get_config() == value.get_config()
    assert "winit>" in json.dumps(keras.saving.serialize_keras_object(model))


def test_a_plan_is_ready_for_json():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3, "relu"), layers.Dense(2)])
    rows = json.loads(json.dumps(winit.initialize(model, seed=0).to_dict()))["rows"]
    assert [row["fans"] for row in rows] == [[5, 3], [5, 3], [3, 2], [3, 2]]
    assert rows[0]["shape"] == [5, 3]


def test_auto_looks_for_the_activation_that_follows():
    plan = winit.initialize(functional(), seed=0)
    expected = {
        r"^conv2d(_\d+)?/kernel": ("gelu", "orthogonal"),  # a normalization divides by its size
        r"^depthwise_conv2d(_\d+)?/kernel": ("leaky_relu", "glorot_uniform"),
        r"separable.*pointwise_kernel": ("linear", "glorot_uniform"),
        r"^conv2d_transpose(_\d+)?/kernel": ("relu", "glorot_uniform"),  # an operation of keras.ops
        r"^dense(_\d+)?/kernel": ("linear", "variance_scaling"),  # the answers
    }
    for path, (activation, scheme) in expected.items():
        assert (row(plan, path).activation, row(plan, path).scheme) == (activation, scheme), path
    assert row(plan, r"^depthwise_conv2d(_\d+)?/kernel").fans == (9, 9)


def test_auto_looks_through_nested_models():
    model = nested()
    plan = winit.initialize(model, seed=0)
    kernels = [row for row in plan.rows if row.role == "kernel"]
    # relu inside; tanh after the nested model; nothing after the last ones.
    assert [row.activation for row in kernels] == ["relu", "tanh", "linear", "linear"]


def test_slopes_reach_the_weights():
    model = keras.Sequential(
        [
            keras.Input((500,)),
            *(layers.Dense(400), layers.Dropout(0.5), layers.LeakyReLU(negative_slope=0.7)),
            *(layers.Dense(5, "relu") for _ in range(9)),
        ]
    )
    winit.initialize(model, seed=1)
    kernel = array(model.layers[0].kernel)
    assert kernel.std() == pytest.approx(math.sqrt(2 / 1.49 / 500), rel=std_tolerance("uniform", kernel.size))


def test_a_wrapped_layer_is_followed_from_its_wrapper():
    model = keras.Sequential([keras.Input((4, 5)), layers.TimeDistributed(layers.Dense(3)), layers.ReLU()])
    assert row(winit.initialize(model, seed=0), "kernel").activation == "relu"


def test_names_and_instances():
    model = keras.Sequential([keras.Input((300,)), layers.Dense(200), layers.Dense(10)])
    for scheme in (
        "lecun_normal",
        "winit>lecun_normal",
        winit.LecunNormal(seed=9),
        keras.initializers.LecunNormal(9),
    ):
        winit.initialize(model, scheme, seed=4)
        kernel = array(model.layers[0].kernel)
        # Keras' own is a truncated normal, of smaller spread than the tolerance of a normal.
        assert kernel.std() == pytest.approx(1 / math.sqrt(300), rel=std_tolerance("normal", kernel.size))
        assert not np.allclose(kernel[:10, :10], array(model.layers[1].kernel)[:10, :10])
    winit.initialize(model, winit.Scaled("orthogonal", factor=0.5), seed=4)
    kernel = array(model.layers[0].kernel)
    np.testing.assert_allclose(kernel.T @ kernel, 0.25 * np.eye(200), atol=1e-5)
    winit.initialize(model, lambda shape, dtype=None: keras.ops.ones(shape, dtype), seed=4)
    assert (array(model.layers[0].kernel) == 1).all()


def test_wrappers_get_the_exact_fans():
    model = keras.Sequential([keras.Input((8, 8, 2000)), layers.DepthwiseConv2D(3)])
    winit.initialize(model, winit.Scaled("lecun_normal", factor=2.0), seed=0)
    kernel = array(model.layers[0].kernel)
    assert kernel.std() == pytest.approx(2 / 3, rel=std_tolerance("normal", kernel.size))


def test_structured_schemes_draw_gates_and_groups_apart():
    model = keras.Sequential([keras.Input((4, 12)), layers.LSTM(12)])
    winit.initialize(model, {"kernel": "orthogonal"}, seed=0)
    for variable in model.trainable_variables[:2]:
        for gate in np.split(array(variable), 4, axis=1):
            np.testing.assert_allclose(gate.T @ gate, np.eye(12), atol=1e-5)
    model = keras.Sequential(
        [keras.Input((8, 8, 6)), layers.Conv2D(6, 3, groups=2, padding="same", use_bias=False)]
    )
    winit.initialize(model, "identity", seed=0)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 6)).astype("float32")
    np.testing.assert_allclose(array(model(images)), images, atol=1e-6)


def test_identity_of_a_depthwise_layer():
    model = keras.Sequential([keras.Input((8, 8, 6)), layers.DepthwiseConv2D(3, padding="same")])
    winit.initialize(model, "identity", seed=0)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 6)).astype("float32")
    np.testing.assert_allclose(array(model(images)), images, atol=1e-6)


def test_orthogonal_attention_is_orthogonal():
    data = keras.Input((4, 12))
    model = keras.Model(data, layers.MultiHeadAttention(3, 4, use_bias=False)(data, data))
    winit.initialize(model, "orthogonal", seed=0)
    for variable in model.variables:
        kernel = array(variable).reshape(12, 12)
        np.testing.assert_allclose(kernel.T @ kernel, np.eye(12), atol=1e-5)


def test_recurrent_defaults():
    model = keras.Sequential([keras.Input((4, 6)), layers.LSTM(5)])
    winit.initialize(model, seed=0)
    _, recurrent, bias = (array(v) for v in model.trainable_variables)
    for gate in np.split(recurrent, 4, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(5), atol=1e-5)
    np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], 5))


def test_a_reset_is_a_fresh_draw_of_the_layers_own():
    model = keras.Sequential(
        [
            keras.Input((50,)),
            layers.Dense(40, kernel_initializer="he_normal", bias_initializer="ones"),
            layers.BatchNormalization(gamma_initializer=keras.initializers.Constant(0.5)),
            layers.EinsumDense("ab,bcd->acd", (6, 7), kernel_initializer="lecun_normal"),
        ]
    )
    model.compile("sgd", "mse")
    model.fit(np.random.default_rng(0).normal(size=(32, 50)), np.zeros((32, 6, 7)), verbose=0)
    trained = model.get_weights()
    winit.initialize(model, "configured", seed=0)
    kernel, bias, gamma, beta, mean, variance, einsum = (array(v) for v in model.variables)
    assert kernel.std() == pytest.approx(math.sqrt(2 / 50), rel=0.08)
    # An older Keras takes all axes but the last two for a place.
    assert einsum.std() == pytest.approx(math.sqrt(1 / (40 if TAKES_AXES else 240)), rel=0.08)
    for values, expected in ((bias, 1), (gamma, 0.5), (beta, 0), (mean, 0), (variance, 1)):
        np.testing.assert_array_equal(values, expected)
    assert not np.allclose(kernel, trained[0])
    assert type(model.layers[0].kernel_initializer) is keras.initializers.HeNormal


@pytest.mark.parametrize("name", ["transpose", "swapaxes", "moveaxis", "flip"])
def test_an_activation_is_seen_behind_an_operation_that_moves_numbers(name):
    inputs = keras.Input((6, 4))
    given = {"transpose": ((0, 2, 1),), "swapaxes": (1, 2), "moveaxis": (1, 2), "flip": ()}[name]
    moved = getattr(keras.ops, name)(layers.Dense(5, name="first")(inputs), *given)
    model = keras.Model(inputs, layers.Dense(3)(keras.ops.silu(moved)))
    assert row(winit.initialize(model, seed=0), "first/kernel").activation == "silu"


@pytest.mark.parametrize("function", [winit.initialize, winit.calibrate])
def test_an_expression_that_is_found_nowhere_is_told(function):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="head")])
    found = function(model, scheme={"haed": "zeros", "head": "orthogonal", "(tail)": "keep"}, seed=0)
    assert found.unmatched == ("haed", "(tail)")
    assert "found in no variable: 'haed', '(tail)'" in str(found)
    assert function(model, scheme="orthogonal", seed=0).unmatched == ()


def test_a_mapping_of_expressions():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(6, name="encoder_1"),
            layers.Dense(6, name="encoder_2"),
            layers.Dense(3, name="head"),
        ]
    )
    before = weights_by_path(model)
    plan = winit.initialize(
        model,
        {
            "encoder_1": "orthogonal",
            "head/bias": winit.Constant(0.25),
            "encoder_2/kernel": "zeros",
            "head": "keep",
        },
        seed=0,
    )
    after = weights_by_path(model)
    kernel = after["encoder_1/kernel"]
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(6), atol=1e-5)
    assert (after["encoder_1/bias"] == 0).all()  # the rule is about the layer
    assert (after["head/bias"] == 0.25).all()  # the rule is about the variable
    assert (after["encoder_2/kernel"] == 0).all()
    np.testing.assert_array_equal(after["head/kernel"], before["head/kernel"])
    assert row(plan, "head/kernel").reason == "as the rule says"
    assert row(plan, "encoder_2/bias").reason == "no expression matches"
    assert plan.unmatched == ()
    assert row(plan, "head/bias").reason == "the rule names this variable"


def test_what_is_kept_and_why():
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Normalization(mean=None),
            layers.Dense(8, name="frozen", trainable=False),
            layers.Dense(8, name="adapted"),
            layers.Dense(8, name="quantized"),
            layers.Dense(4, name="free"),
        ]
    )
    model.get_layer("adapted").enable_lora(2)
    model.get_layer("quantized").quantize("int8")
    before = weights_by_path(model)
    plan = winit.initialize(model, "he_normal", seed=0)
    reasons = {short(row.path): row.reason for row in plan.kept}
    assert "adapt()" in row(plan, "normalization.*mean").reason
    assert reasons["frozen/kernel"] == "frozen"
    assert reasons["adapted/kernel"] == "frozen"
    assert reasons["adapted/lora_kernel_a"] == "a low-rank adapter"
    assert reasons["quantized/kernel"] == "quantized to int8"
    assert {short(row.path) for row in plan.drawn} >= {"free/kernel", "free/bias"}
    after = weights_by_path(model)
    for path in reasons:
        np.testing.assert_array_equal(after[path], before[path])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = functional()
    finally:
        keras.config.set_dtype_policy("float32")
    dtypes = [v.dtype for v in model.variables]
    winit.initialize(model, "orthogonal", seed=0)
    assert [v.dtype for v in model.variables] == dtypes
    assert np.isfinite(array(model(np.ones((2, 8, 8, 3), "float32")))).all()


def scaled_adam():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())


@pytest.mark.parametrize(
    "optimizer", ["sgd", "adam", "nadam", "adagrad", "ftrl", "lion", "rmsprop", scaled_adam]
)
def test_the_optimizer_starts_over(optimizer):
    make = optimizer if callable(optimizer) else lambda: optimizer
    model = sequential()
    model.compile(make(), "mse")
    fresh = sequential()
    fresh.compile(make(), "mse")
    fresh.optimizer.build(fresh.trainable_variables)
    inputs = data(model, "sequential")
    model.fit(inputs, np.ones((3, 4)), epochs=2, verbose=0)
    plan = winit.initialize(model, seed=0)
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    assert plan.optimizer == f"the optimizer's state is reset too; its learning rate stays {rate:.3g}"
    for state, expected in zip(model.optimizer.variables, fresh.optimizer.variables, strict=True):
        np.testing.assert_array_equal(array(state), array(expected))
    model.fit(inputs, np.ones((3, 4)), verbose=0)


def test_without_training_there_is_no_state():
    assert "no optimizer state" in winit.initialize(sequential(), seed=0).optimizer


def test_compiled_models_use_the_new_weights():
    model = sequential()
    model.compile("sgd", "mse")
    inputs = data(model, "sequential")
    before = model.predict(inputs, verbose=0)
    winit.initialize(model, "he_normal", seed=0)
    after = model.predict(inputs, verbose=0)
    assert not np.allclose(before, after)
    np.testing.assert_allclose(after, array(model(inputs)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: layers.Conv2DTranspose(48, 4, strides=2, use_bias=False), (12, 12, 64)),
        (lambda: layers.DepthwiseConv2D(3, use_bias=False), (12, 12, 2000)),
        (lambda: layers.Dense(200, use_bias=False), (300,)),
    ],
)
def test_instances_of_keras_get_the_exact_fans(layer, shape):
    model = keras.Sequential([keras.Input(shape), layer()])
    winit.initialize(model, keras.initializers.LecunNormal(), seed=0)
    count = 4 if len(shape) > 1 else 256
    inputs = np.random.default_rng(0).normal(size=(count, *shape)).astype("float32")
    outputs = array(model(inputs))
    inside = outputs[:, 4:-4, 4:-4] if len(shape) > 1 and outputs.shape[1] > 12 else outputs
    assert inside.var() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("scheme", [winit.Scaled("orthogonal"), keras.initializers.Orthogonal()])
def test_wrapped_and_foreign_orthogonal_gates(scheme):
    model = keras.Sequential([keras.Input((4, 3)), layers.LSTM(6)])
    winit.initialize(model, {"recurrent": scheme}, seed=0)
    for gate in np.split(array(model.layers[0].cell.recurrent_kernel), 4, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(6), atol=1e-5)


def test_an_initializer_of_the_users_own_without_a_configuration():
    class Filled(keras.initializers.Initializer):
        def __init__(self, value):
            self.value = value

        def __call__(self, shape, dtype=None):
            return keras.ops.full(shape, self.value, dtype=dtype)

    model = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
    winit.initialize(model, Filled(0.5), seed=0)
    np.testing.assert_array_equal(array(model.layers[0].kernel), 0.5)


def test_a_separable_stack_keeps_its_signal():
    stack = [layers.SeparableConv2D(64, 3, activation="relu") for _ in range(5)]
    model = keras.Sequential([keras.Input((24, 24, 64)), *stack])
    plan = winit.initialize(model, "auto", seed=0)
    assert {row.activation for row in plan.rows if "depthwise" in row.path} == {"linear"}
    assert {row.activation for row in plan.rows if "pointwise" in row.path} == {"relu"}


def test_layers_that_a_functional_subclass_holds_beside_its_graph():
    class Model(keras.Model):
        def __init__(self):
            inputs = keras.Input((3,))
            super().__init__(inputs, layers.Dense(4, name="body")(inputs))
            self.extra = layers.Dense(2, name="extra")
            self.extra.build((None, 4))

    model = Model()
    rows = winit.initialize(model, seed=0).rows
    assert sorted(row.path for row in rows) == sorted(v.path for v in model.variables)


def test_a_layer_that_is_never_called_is_named():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.spare = layers.Dense(2), layers.Dense(3, name="spare")

        def call(self, x):
            return self.used(x)

    model = Model()
    model(np.ones((1, 4), "float32"))
    plan = winit.initialize(model, seed=0)
    assert plan.unbuilt == ("spare",)
    assert "not drawn: spare" in str(plan)


def test_auto_goes_on_where_an_activation_has_no_gain():
    def normalized(x):
        return x / keras.ops.norm(x, axis=-1, keepdims=True)

    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, activation=normalized), layers.Dense(2)])
    found = winit.initialize(model, seed=0).rows[0]
    assert found.scheme == "glorot_uniform"
    assert "has no gain" in found.reason


def test_auto_looks_through_reshaping_operations():
    inputs = keras.Input((6,))
    x = keras.ops.expand_dims(keras.ops.reshape(layers.Dense(4)(inputs), (-1, 2, 2)), -1)
    model = keras.Model(inputs, layers.ReLU()(x))
    assert row(winit.initialize(model, seed=0), "kernel").activation == "relu"


def test_torch_leaves_a_gamma_of_the_users_own():
    class LayerScale(layers.Layer):
        gamma_initializer = "zeros"

        def build(self, shape):
            self.gamma = self.add_weight(name="gamma", shape=(shape[-1],), initializer=self.gamma_initializer)

        def call(self, x):
            return x * self.gamma

    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), LayerScale()])
    for scheme in ("torch", "auto"):
        winit.initialize(model, scheme, seed=0)
        np.testing.assert_array_equal(array(model.layers[1].gamma), 0)


def test_delta_orthogonal_knows_a_transposed_kernel():
    model = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2DTranspose(4, 3)])
    with pytest.raises(ValueError, match="transposed convolution has its outputs before"):
        winit.initialize(model, "delta_orthogonal")


def test_an_attention_layer_records_no_place_of_one_projection():
    inputs = keras.Input((4, 8))
    mha = layers.MultiHeadAttention(2, 4)
    model = keras.Model(inputs, mha(inputs, inputs))
    winit.initialize(model, winit.Scaled("he_normal", factor=0.5), seed=0)
    assert repr(mha._kernel_initializer) == "Scaled(initializer=HeNormal(), factor=0.5)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: winit.initialize("model"), "must be a Keras model"),
        (lambda: winit.initialize(keras.Sequential([layers.Dense(3)])), "not built"),
        (lambda: winit.initialize(sequential(), "he_unifrom"), 'Did you mean "he_uniform"'),
        (lambda: winit.initialize(sequential(), "atuo"), 'Did you mean "auto"'),
        (lambda: winit.initialize(sequential(), 3), "Pass the name of a scheme"),
        (lambda: winit.initialize(sequential(), {"(": "auto"}), "regular expression over variable paths"),
        (lambda: winit.initialize(sequential(), {3: "auto"}), "regular expression over variable paths"),
        (lambda: winit.initialize(sequential(), {".*": "nothing"}), "`scheme` must be one of"),
        (lambda: winit.initialize(sequential(), seed="x"), "`seed` must be"),
        (
            lambda: winit.initialize(sequential(), seed=keras.random.SeedGenerator(1)),
            "must be an integer or None",
        ),
        (lambda: winit.initialize(sequential(), dry_run="no"), "`dry_run` must be True or False"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50"])
def test_applications(name):
    model = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3), classes=5)
    plan = winit.initialize(model, seed=0)
    assert not plan.kept
    rectified = [row for row in plan.rows if row.role == "kernel" and row.activation in ("relu", "relu6")]
    assert len(rectified) > 20
    assert np.isfinite(array(model(np.ones((2, 32, 32, 3), "float32")))).all()


def test_a_layer_alone():
    layer = layers.Dense(3, activation="relu")
    layer.build((None, 4))
    assert row(winit.initialize(layer, seed=0), "kernel").scheme == "he_uniform"
