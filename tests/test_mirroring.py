"""Looking linear as a whole model: which kernels have twins, and where pairings end."""

import keras
import numpy as np
import pytest
from helpers import array
from keras import layers, ops
from mirrored import ACTIVATIONS, answers, assert_odd, each_activation, numbers

import keras_winit as winit
from keras_winit.theory.linearity import is_odd


def arguments(plan):
    """For each kernel of a plan, the scheme and the reason."""
    return [(row.scheme, row.reason) for row in plan.rows if row.role == "kernel"]


@each_activation
@pytest.mark.parametrize("apart", [False, True], ids=["fused", "layer"])
def test_a_sequential_model_looks_linear(activation, apart):
    stack = []
    for width in (30, 41, 41, 22):
        stack += (
            [layers.Dense(width), layers.Activation(activation)]
            if apart
            else [layers.Dense(width, activation)]
        )
    model = keras.Sequential([keras.Input((30,)), *stack, layers.Dense(5), layers.Activation("softmax")])
    plan = winit.initialize(model, "looks_linear", seed=1)
    logits = keras.Sequential([keras.Input((30,)), *model.layers[:-1]])
    x = numbers(300, 30)
    assert_odd(logits, x, linear=ACTIVATIONS[activation])
    expected = (2 / 4) ** 0.5 if is_odd(activation) else 1  # of four such layers
    assert answers(logits, x).std() == pytest.approx(expected, rel=0.25)
    assert {scheme for scheme, _ in arguments(plan)} == {"looks_linear"}


def test_the_deeper_the_smaller_the_first_outputs():
    for depth, std in ((5, 1.0), (60, 0.65)):
        stack = [layers.Dense(64, "relu") for _ in range(depth)]
        model = keras.Sequential([keras.Input((64,)), *stack, layers.Dense(20)])
        winit.initialize(model, "looks_linear", seed=3)
        assert answers(model, numbers(200, 64)).std() == pytest.approx(std, rel=0.2)


@pytest.mark.parametrize("pooling", [layers.MaxPooling2D, layers.AveragePooling2D])
@pytest.mark.parametrize("last", ["flatten", "global average", "global max", "reshape", "permute"])
def test_the_pairing_passes_what_keeps_units_apart(pooling, last):
    ends = {
        "flatten": [layers.Dropout(0.5), layers.Flatten()],
        "global average": [layers.GlobalAveragePooling2D()],
        "global max": [layers.GlobalMaxPooling2D(keepdims=True), layers.Flatten()],
        "reshape": [layers.Reshape((-1, 13)), layers.Flatten()],
        "permute": [layers.Permute((2, 1, 3)), layers.SpatialDropout2D(0.1), layers.Reshape((4 * 4 * 13,))],
    }
    model = keras.Sequential(
        [
            *(keras.Input((16, 16, 3)), layers.ZeroPadding2D(1), layers.Conv2D(17, 3, activation="gelu")),
            *(pooling(2), layers.Conv2D(13, 3, padding="same"), layers.Activation("sigmoid"), pooling(2)),
            *(*ends[last], layers.Dense(20, "relu"), layers.RepeatVector(2), layers.Dense(8, "tanh")),
            *(layers.UpSampling1D(2), layers.Cropping1D(1), layers.Dense(6)),
        ]
    )
    plan = winit.initialize(model, "looks_linear", seed=2)
    assert [reason.partition(";")[0] for _, reason in arguments(plan)] == [
        "afresh after the model's input",
        "reads twins through gelu",
        "reads twins through sigmoid",
        "reads twins through relu",
        "reads units through tanh",
    ]
    assert_odd(model, numbers(5, 16, 16, 3), linear=False)


def functional():
    """A model in which pairings are lost in every way."""
    inputs = keras.Input((12,))
    x = layers.Dense(16, "relu", name="first")(inputs)
    x = layers.Dense(16, name="before_norm")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Dense(16, "relu", name="after_norm")(x)
    short = layers.Dense(16, "relu", name="before_add")(x)
    x = layers.Add(name="add")([x, short])
    x = layers.Dense(10, "softmax", name="joined")(x)
    x = layers.Dense(1, "relu", name="narrow")(x)
    x = layers.Dense(6, "relu", name="wide")(x)
    x = layers.Dense(6, ops.square, name="even")(x)
    x = layers.Dense(6, "silu", name="frozen", trainable=False)(x)
    shared = layers.Dense(6, "silu", name="shared")
    x = layers.RepeatVector(2)(shared(shared(x)))
    x = layers.TimeDistributed(layers.Dense(6, "silu", name="inside"), name="steps")(x)
    x = layers.Dense(4, "silu", name="before_output")(x)
    return keras.Model(inputs, [x, layers.Dense(3, name="output")(x)])


def test_where_pairings_end_and_why():
    model = functional()
    plan = winit.initialize(model, "looks_linear", seed=1)
    found = {row.path.split("/")[-2]: (row.scheme, row.reason) for row in plan.rows if row.role == "kernel"}
    auto = "; as auto: the layer's own activation"
    none, short = "nothing to mirror between", ", in a chain of fewer than 10 kernels"
    output = "the model's output"
    norm, add = "norm (BatchNormalization)", "add (Add)"
    shared = "shared (Dense), called more than once,"
    assert found == {
        "first": ("looks_linear", "afresh after the model's input; twins"),
        "before_norm": ("looks_linear", f"reads twins through relu; then {norm}"),
        "after_norm": ("glorot_uniform", f"{none} {norm} and {add}{auto}{short}"),
        "before_add": ("glorot_uniform", f"{none} {add} and {add}{auto}{short}"),
        "joined": ("glorot_uniform", f"{none} {add} and softmax, which has no odd part,{auto}"),
        "narrow": (
            "he_uniform",
            f"{none} softmax, which has no odd part, and one unit, which has no twin,{auto}",
        ),
        "wide": ("looks_linear", "afresh after one unit, which has no twin,; twins"),
        "even": ("looks_linear", "reads twins through relu; then frozen (Dense)"),
        "frozen": (None, "frozen"),
        "shared": ("he_uniform", f"{none} frozen (Dense) and {shared}{auto}"),
        "inside": ("looks_linear", f"afresh after {shared}; twins"),
        "before_output": ("looks_linear", f"reads twins through silu; then {output}"),
        "output": (
            "variance_scaling",
            f"{none} {output} and {output}; as auto: an answer: starts at a deviation of 0.5, "
            "for a small first loss",
        ),
    }


def branching():
    inputs = keras.Input((10, 10, 3), name="image")
    x = layers.Conv2D(8, 3, data_format="channels_last")(inputs)
    relu, tanh = layers.ReLU()(x), ops.tanh(x)  # twins suit both
    left = layers.Conv2D(6, 1, name="left")(relu)
    right = layers.Conv2D(6, 1, name="right")(tanh)
    return keras.Model(inputs, layers.Concatenate()([left, right]))


def nested():
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(6, "selu"), layers.Dense(6)], name="inner")
    inputs = keras.Input((8,))
    return keras.Model(inputs, layers.Dense(2)(ops.selu(inner(layers.Dense(8, "selu")(inputs)))))


def twice():
    """A model that is called twice: none of its kernels can suit both places."""
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(6, "selu"), layers.Dense(6, "selu")])
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(2)(inner(inner(layers.Dense(6, "selu")(inputs)))))


def transposed_in_between():
    return keras.Sequential(
        [
            *(keras.Input((9, 9, 3)), layers.Conv2D(6, 3, activation="relu")),
            *(layers.Conv2DTranspose(6, 3, activation="relu"), layers.DepthwiseConv2D(3, activation="relu")),
            *(layers.Conv2D(8, 3, groups=2, activation="relu"), layers.Conv2D(6, 3, activation="relu")),
            *(layers.PReLU(), layers.Conv2D(6, 1, activation="relu"), layers.Conv2D(2, 1)),
        ]
    )


@pytest.mark.parametrize(
    ("build", "mirrored"),
    [
        (branching, [True, True, True]),
        (nested, [True] * 4),
        (twice, [False] * 4),
        # Two activations in a row, transposed, depthwise and grouped kernels have no twins.
        (transposed_in_between, [False, False, False, False, False, True, True]),
    ],
)
def test_graphs(build, mirrored):
    model = build()
    plan = winit.initialize(model, "looks_linear", seed=1)
    assert [scheme == "looks_linear" for scheme, _ in arguments(plan)] == mirrored
    if all(mirrored):
        assert_odd(model, numbers(4, *model.inputs[0].shape[1:]), linear=False)


def test_only_what_a_rule_names_is_mirrored():
    model = keras.Sequential([keras.Input((8,)), *(layers.Dense(8, "relu", name=f"d{i}") for i in range(4))])
    plan = winit.initialize(model, {"d[12]": "winit>mirrored", ".*": "auto"}, seed=1)
    assert [scheme for scheme, _ in arguments(plan)] == [
        "glorot_uniform",
        "looks_linear",
        "looks_linear",
        "glorot_uniform",
    ]
    assert [layer.kernel_initializer.mirror for layer in model.layers[1:3]] == ["outputs", "inputs"]
    # An instance is used as it is.
    winit.initialize(model, winit.LooksLinear("relu"), seed=1)
    assert all(layer.kernel_initializer.mirror is None for layer in model.layers)


def test_a_model_that_does_not_tell_its_connections_is_refused():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(4)

        def call(self, inputs):
            return self.dense(inputs) if float(ops.sum(inputs)) else inputs

    model = Own()
    model(numbers(2, 3))
    before = array(model.dense.kernel)
    with pytest.raises(ValueError, match="What feeds each layer of .* is not seen: .*use `calibrate`"):
        winit.initialize(model, "looks_linear")
    np.testing.assert_array_equal(array(model.dense.kernel), before)


@keras.saving.register_keras_serializable("test_looks_linear")
def cubic(x):
    return x + x**2 + 0.1 * x**3


def test_a_saved_model_holds_what_was_mirrored(tmp_path):
    middle = [layers.Dense(6), layers.LeakyReLU(0.1), layers.Dense(6, "silu")]
    model = keras.Sequential([keras.Input((5,)), layers.Dense(7, cubic), *middle, layers.Dense(2)])
    winit.initialize(model, "looks_linear", seed=5)
    model.save(tmp_path / "model.keras")
    found = keras.models.load_model(tmp_path / "model.keras")
    for layer, other in zip(model.layers, found.layers, strict=True):
        if layer.weights:
            again = array(other.kernel_initializer(layer.kernel.shape))
            np.testing.assert_array_equal(again, array(layer.kernel))
    handed = winit.portable(model)
    x = numbers(3, 5)
    np.testing.assert_allclose(answers(handed, x), answers(model, x), rtol=1e-5)
