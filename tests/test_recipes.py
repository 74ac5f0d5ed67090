"""Recipes: every tensor's deviation against the numbers of its source, on the source's architecture."""

import math
import re

import keras
import numpy as np
import pytest
from branch_models import parallel, post_norm, pre_norm, resnet, side_by_side, u_net
from helpers import array, assert_drawn_from, std_tolerance
from keras import layers, ops
from zoo import assert_unchanged, snapshot

import keras_winit as winit

WIDTH, INNER, HEADS, LAYERS, WORDS, LENGTH = 48, 96, 3, 3, 300, 16
SIZE = WIDTH // HEADS
BRANCHES = 2 * LAYERS


def block(x, index, post, alpha=1.0):
    """A layer of a transformer, of Keras' own."""
    attention = layers.MultiHeadAttention(HEADS, SIZE, name=f"attention_{index}")
    up, down = layers.Dense(INNER, "gelu", name=f"up_{index}"), layers.Dense(WIDTH, name=f"down_{index}")
    if post:
        x = layers.LayerNormalization()(x * alpha + attention(x, x))
        return layers.LayerNormalization()(x * alpha + down(up(x)))
    y = layers.LayerNormalization()(x)
    x = x + attention(y, y)
    return x + down(up(layers.LayerNormalization()(x)))


@keras.saving.register_keras_serializable("recipes")
class Table(layers.Layer):
    """Positions, as a weight of one's own."""

    def build(self, shape):
        self.table = self.add_weight(name="positions", shape=shape[1:])

    def call(self, x):
        return x + self.table


def text(post=False, alpha=1.0):
    """A language model of Keras' layers, with positions of its own."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = Table()(layers.Embedding(WORDS, WIDTH, name="tokens")(inputs))
    for index in range(LAYERS):
        x = block(x, index, post, alpha)
    return keras.Model(inputs, layers.Dense(WORDS, name="head")(layers.LayerNormalization()(x)))


@keras.saving.register_keras_serializable("recipes")
class Own(layers.Layer):
    """The same layer with weights of one's own, and query, key and value in one of them."""

    def build(self, _shape):
        for name, shape in {
            "qkv": (WIDTH, 3 * WIDTH),
            "out": (WIDTH, WIDTH),
            "wide": (WIDTH, INNER),
            "narrow": (INNER, WIDTH),
        }.items():
            setattr(self, name, self.add_weight(name=name, shape=shape))
            bias = self.add_weight(name=f"{name}_b", shape=shape[1:], initializer="ones")
            setattr(self, f"{name}_b", bias)

    def attend(self, x):
        query, key, value = ops.split(x @ self.qkv + self.qkv_b, 3, axis=-1)
        query, key, value = (
            ops.transpose(ops.reshape(each, (-1, LENGTH, HEADS, SIZE)), (0, 2, 1, 3))
            for each in (query, key, value)
        )
        weights = ops.softmax(query @ ops.transpose(key, (0, 1, 3, 2)) / SIZE**0.5)
        return (
            ops.reshape(ops.transpose(weights @ value, (0, 2, 1, 3)), (-1, LENGTH, WIDTH)) @ self.out
            + self.out_b
        )

    def norm(self, x):
        return x / ops.sqrt(ops.mean(x**2, axis=-1, keepdims=True) + 1e-6)

    def call(self, x):
        x = x + self.attend(self.norm(x))
        return x + ops.gelu(self.norm(x) @ self.wide + self.wide_b) @ self.narrow + self.narrow_b


@keras.saving.register_keras_serializable("recipes")
class OwnPost(Own):
    def call(self, x):
        x = self.norm(x + self.attend(x))
        return self.norm(x + (ops.gelu(x @ self.wide + self.wide_b) @ self.narrow + self.narrow_b))


def own(kind=Own):
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = Table()(layers.Embedding(WORDS, WIDTH, name="tokens")(inputs))
    for index in range(LAYERS):
        x = kind(name=f"own_{index}")(x)
    return keras.Model(inputs, layers.Dense(WORDS, name="head")(x))


@keras.saving.register_keras_serializable("recipes")
class Token(layers.Layer):
    """The token of the class before all others."""

    def build(self, shape):
        self.token = self.add_weight(name="class_token", shape=(1, 1, shape[-1]), initializer="ones")

    def call(self, x):
        return ops.concatenate([ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1])), x], axis=1)


def images():
    """A vision transformer of Keras' layers."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Reshape((16, WIDTH))(layers.Conv2D(WIDTH, 4, 4, name="patches")(inputs))
    x = Table()(Token()(x))
    for index in range(LAYERS):
        x = block(x, index, post=False)
    x = layers.LayerNormalization()(x)[:, 0]
    return keras.Model(inputs, layers.Dense(10, "softmax", name="head")(x))


def tower():
    """Residual blocks of two kernels without normalization, and with scalars as Fixup has them."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, padding="same", name="stem")(inputs)
    for index, (width, stride) in enumerate([(16, 1), (24, 2), (24, 1), (24, 1)]):
        y = layers.ReLU()(layers.Conv2D(width, 3, stride, padding="same", name=f"first_{index}")(Scalar()(x)))
        y = Scalar()(layers.Conv2D(width, 3, padding="same", name=f"second_{index}")(y))
        shortcut = layers.Conv2D(width, 1, stride, name="projection")(x) if stride > 1 else x
        x = layers.ReLU()(layers.Add()([shortcut, y]))
    return keras.Model(inputs, layers.Dense(10, name="head")(layers.GlobalAveragePooling2D()(x)))


@keras.saving.register_keras_serializable("recipes")
class Scalar(layers.Layer):
    """s·x + b, two numbers."""

    def build(self, _shape):
        self.scale = self.add_weight(name="scale", shape=(1,), initializer="zeros")
        self.shift = self.add_weight(name="shift", shape=(1,), initializer="ones")

    def call(self, x):
        return x * self.scale + self.shift


# The deviation of each tensor, by the first expression that is found in its path: a number, a function of the
# tensor's shape, or the distribution with it. Zeros where it is 0; None is not checked here.
CUT2, CUT3 = 0.8796256610342398, 0.98658  # what a cut leaves of a deviation
BETA = (8 * LAYERS) ** -0.25
ALPHA = (2 * LAYERS) ** 0.25


def xavier(factor=1.0, distribution="normal"):
    """Of query, key and value (d, heads, size), of the output (heads, size, d), and of MLPs (in, out)."""

    def std(shape):
        if len(shape) == 3:
            return factor * math.sqrt(2 / (2 * WIDTH))
        return factor * math.sqrt(2 / sum(shape))

    return distribution, std


def fan_in(factor=1.0, distribution="normal"):
    def std(shape):
        if len(shape) == 3:
            return factor / math.sqrt(WIDTH)
        return factor / math.sqrt(math.prod(shape[:-1]))

    return distribution, std


def depth_scaled(layer, distribution="cut"):
    return fan_in(CUT3 / math.sqrt(2 * (layer + 1)), distribution)


LAST = r"attention_output/kernel|down_\d/kernel"
TABLES = "embeddings|positions"
EXPECTED = {
    "gpt2": (text, [("bias", 0), (LAST, 0.02 / math.sqrt(BRANCHES)), (f"kernel|{TABLES}", 0.02)]),
    "bert": (
        lambda: text(post=True),
        [("bias", 0), (f"kernel|{TABLES}", ("truncated_normal", 0.02 * CUT2))],
    ),
    "vit": (
        images,
        [
            ("head", 0),
            ("class_token", 0),
            ("positions", 0.02),
            ("patches/kernel", fan_in(1.0, "truncated_normal")),
            ("(up|down).*bias", 1e-6),
            ("bias", 0),
            ("kernel", xavier(1.0, "uniform")),
        ],
    ),
    "deepnorm": (
        lambda: text(post=True),
        [
            ("bias", 0),
            ("tokens|positions|head", None),
            ("(query|key)/kernel", xavier()),
            (LAST, xavier(BETA / ALPHA)),
            ("kernel", xavier(BETA)),
        ],
    ),
    "depth_scaled": (
        text,
        [
            ("bias", 0),
            *(
                (rf"attention_{layer}/attention_output/kernel|down_{layer}/kernel", depth_scaled(layer))
                for layer in range(LAYERS)
            ),
            ("kernel", fan_in(CUT3, "cut")),
            (TABLES, ("cut", CUT3 / math.sqrt(WIDTH))),
        ],
    ),
    "small_wang": (
        text,
        [
            ("bias", 0),
            (LAST, 2 / (LAYERS * math.sqrt(WIDTH))),
            (f"kernel|{TABLES}", math.sqrt(2 / (5 * WIDTH))),
        ],
    ),
    "t5": (
        text,
        [
            ("bias", 0),
            ("query/kernel", 1 / math.sqrt(WIDTH * SIZE)),
            ("(key|value)/kernel", 1 / math.sqrt(WIDTH)),
            ("attention_output/kernel", 1 / math.sqrt(HEADS * SIZE)),
            ("kernel", fan_in()),
            (TABLES, 1.0),
        ],
    ),
    "zero_gamma": (text, [("(attention_output|down_.)/", 0), ("kernel|embeddings|positions|bias", None)]),
    "fixup": (
        tower,
        [
            ("head|bias|shift|second", 0),
            ("stem/kernel", math.sqrt(2 / (9 * 16))),
            ("first_0/kernel", math.sqrt(2 / (9 * 16)) * 4**-0.5),
            ("first_./kernel", math.sqrt(2 / (9 * 24)) * 4**-0.5),
            ("projection/kernel", math.sqrt(2 / 24)),
            ("scale", None),
        ],
    ),
}


def check(model, expected):
    checked = 0
    for variable in model.trainable_variables:
        if re.search("gamma|beta", variable.path):
            continue
        said = next((value for pattern, value in expected if re.search(pattern, variable.path)), "nothing")
        assert said != "nothing", variable.path
        value = array(variable)
        if said is None:
            continue
        checked += 1
        if said == 0:
            assert not value.any(), variable.path
            continue
        distribution, std = said if isinstance(said, tuple) else ("normal", said)
        std = std(value.shape) if callable(std) else std
        if distribution == "cut":  # three deviations: nearly a normal
            assert np.abs(value).max() <= 3.0001 * std / CUT3, variable.path
            assert value.std() == pytest.approx(std, rel=std_tolerance("normal", value.size)), variable.path
        else:
            assert_drawn_from(value, distribution, std)
    assert checked > 5


@pytest.mark.parametrize("name", EXPECTED)
def test_every_tensor_has_the_deviation_of_the_source(name):
    build, expected = EXPECTED[name]
    model = build()
    plan = winit.initialize(model, name, seed=3)
    check(model, expected)
    for row in plan.rows:
        if row.role == "kernel":
            assert name in row.reason
    assert np.isfinite(array(model(np.zeros((2, *model.input_shape[1:]), "float32")))).all()


def test_fixup_sets_its_scalars_to_one():
    model = tower()
    winit.initialize(model, "fixup", seed=0)
    assert all((array(v) == 1).all() for v in model.variables if v.path.endswith("scale"))


OWN = {
    "gpt2": {"qkv": 0.02, "out|narrow": 0.02 / math.sqrt(BRANCHES), "wide": 0.02},
    "vit": {"qkv|out": math.sqrt(2 / (2 * WIDTH)), "wide|narrow": math.sqrt(2 / (WIDTH + INNER))},
    "t5": {"out|wide": 1 / math.sqrt(WIDTH), "narrow": 1 / math.sqrt(INNER)},
    "small_wang": {"qkv|wide": math.sqrt(2 / (5 * WIDTH)), "out|narrow": 2 / (LAYERS * math.sqrt(WIDTH))},
    "deepnorm": {
        "out": math.sqrt(1 / WIDTH) * BETA / ALPHA,
        "narrow": math.sqrt(2 / (WIDTH + INNER)) * BETA / ALPHA,
        "wide": math.sqrt(2 / (WIDTH + INNER)) * BETA,
    },
}


@pytest.mark.parametrize("name", OWN)
def test_a_recipe_goes_by_what_is_computed_and_not_by_names(name):
    model = own(OwnPost if name == "deepnorm" else Own)
    winit.initialize(model, name, seed=1, overwrite=True)  # its biases ask for ones
    for variable in model.variables:
        weight = variable.path.split("/")[-1]
        if weight.endswith("_b"):
            bound = 1e-5 if name == "vit" and weight in ("wide_b", "narrow_b") else 0
            assert np.abs(array(variable)).max() <= bound, variable.path
        for pattern, std in OWN[name].items():
            if re.fullmatch(pattern, weight):
                tolerance = std_tolerance("normal", math.prod(variable.shape))
                assert array(variable).std() == pytest.approx(std, rel=tolerance), variable.path


@pytest.mark.parametrize(
    ("name", "stds"),
    [
        ("t5", [1 / math.sqrt(WIDTH * SIZE), 1 / math.sqrt(WIDTH), 1 / math.sqrt(WIDTH)]),
        ("deepnorm", [math.sqrt(1 / WIDTH), math.sqrt(1 / WIDTH), math.sqrt(1 / WIDTH) * BETA]),
    ],
)
def test_query_key_and_value_in_one_kernel_each_have_their_own(name, stds):
    model = own(OwnPost if name == "deepnorm" else Own)
    winit.initialize(model, name, seed=1)
    parts = np.split(array(model.get_layer("own_1").qkv), 3, axis=1)
    for part, std in zip(parts, stds, strict=True):
        assert_drawn_from(part, "normal", std)


def test_deepnorm_leaves_out_the_factor_that_the_model_has():
    model = text(post=True, alpha=ALPHA)
    plan = winit.initialize(model, "deepnorm", seed=1)
    down = array(model.get_layer("down_1").kernel)
    assert_drawn_from(down, "normal", math.sqrt(2 / (WIDTH + INNER)) * BETA)
    said = next(row.reason for row in plan.rows if row.path.startswith("down_1/kernel"))
    assert said == f"deepnorm: last kernel of branch 4 of 6, Xavier · β = {BETA:.3g}"


def test_the_plan_says_the_rule_and_what_the_model_lacks():
    plan = winit.initialize(text(), "gpt2", seed=0, dry_run=True)
    said = {row.path: row.reason for row in plan.rows}
    assert said["down_1/kernel"] == "gpt2: last kernel of branch 4 of 6, 0.02/√6"
    plan = winit.initialize(text(post=True), "deepnorm", seed=0, dry_run=True)
    said = next(row.reason for row in plan.rows if row.path == "down_1/kernel")
    assert f"the stream is not multiplied, by α = {ALPHA:.3g} it would be" in said


def test_mimetic_attention_is_made_of_identities():
    model = text()
    winit.initialize(model, "mimetic", seed=2)
    attention = model.get_layer("attention_1")
    query, key = (array(each.kernel) for each in (attention.query_dense, attention.key_dense))
    for head in range(HEADS):
        product = query[:, head] @ key[:, head].T
        # The best that SIZE of WIDTH columns can hold of a matrix near 0.7·I: a share of its trace.
        assert np.trace(product) / WIDTH > 0.5 * 0.7 * SIZE / WIDTH
        values = np.linalg.svd(product, compute_uv=False)
        np.testing.assert_allclose(values[SIZE:], 0, atol=1e-4)
        assert values[0] == pytest.approx(0.7 + 0.7 * 1.4, rel=0.3)  # the largest of 0.7·(Z/√d + I)
    value = array(attention.value_dense.kernel).reshape(WIDTH, WIDTH)
    output = array(attention.output_dense.kernel).reshape(WIDTH, WIDTH)
    rest = value @ output + 0.4 * np.eye(WIDTH)
    assert_drawn_from(rest, "normal", 0.4 / math.sqrt(WIDTH))


def test_gamma_at_the_end_of_a_branch_is_zero_and_the_shortcuts_is_not():
    model = resnet()
    winit.initialize(model, "zero_gamma", seed=0)
    ends = [branch.ends for branch in winit.branches(model)]
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            assert (array(layer.gamma) == (0 if layer in ends else 1)).all()
            assert (array(layer.moving_variance) == 1).all()


def test_a_branch_at_zero_starts_the_network_as_its_stream():
    model = pre_norm()
    winit.initialize(model, "zero_gamma", seed=0)
    inputs = np.random.default_rng(0).normal(size=(4, 6, 16)).astype("float32")
    final = keras.Model(model.inputs, model.layers[-2].input)
    np.testing.assert_allclose(array(final(inputs)), inputs, atol=1e-6)


REFUSED = [
    ("fixup", resnet, "without normalization"),
    ("gpt2", parallel, "no branch is added"),
    ("depth_scaled", parallel, "no branch is added"),
    ("small_wang", parallel, "no branch is added"),
    ("zero_gamma", parallel, "no branch is added"),
    ("deepnorm", pre_norm, "post-norm transformers"),
    ("deepnorm", resnet, "no attention"),
    ("bert", u_net, "no attention"),
    ("vit", u_net, "no attention"),
    ("t5", u_net, "no attention"),
    ("mimetic", u_net, "no attention"),
    ("mimetic", own, "in kernels of their own"),
]


@pytest.mark.parametrize(("name", "build", "words"), REFUSED)
def test_a_recipe_refuses_what_it_is_not_for(name, build, words):
    model = build()
    before = snapshot(model)
    with pytest.raises(ValueError, match=words) as caught:
        winit.initialize(model, name, seed=0)
    assert f"The recipe {name!r}" in str(caught.value)
    assert_unchanged(model, before)
    with pytest.raises(ValueError, match=words):
        winit.initialize(model, {".*": name}, seed=0)


def test_a_mapping_takes_recipes_for_a_part():
    model = text()
    head = array(model.get_layer("head").kernel)
    winit.initialize(model, {"attention_1": "gpt2", "tokens": "t5"}, seed=0)
    assert_drawn_from(array(model.get_layer("tokens").embeddings), "normal", 1.0)
    output = array(model.get_layer("attention_1").output_dense.kernel)
    assert_drawn_from(output, "normal", 0.02 / math.sqrt(BRANCHES))
    np.testing.assert_array_equal(array(model.get_layer("head").kernel), head)


@pytest.mark.parametrize("name", [name for name in winit.recipes() if name not in ("fixup", "deepnorm")])
def test_the_same_seed_gives_the_same_weights_and_what_was_asked_for_stays(name):
    def build():
        inputs = keras.Input((LENGTH, WIDTH))
        x = block(inputs, 0, post=False)
        return keras.Model(inputs, layers.Dense(4, kernel_initializer=winit.Orthogonal(3.0), name="asked")(x))

    one, other = build(), build()
    for model in (one, other):
        plan = winit.initialize(model, name, seed=7)
    for variable, twin in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(array(variable), array(twin))
    kernel = array(one.get_layer("asked").kernel)
    np.testing.assert_allclose(kernel.T @ kernel, 9 * np.eye(4), atol=1e-4)
    assert any(row.reason.startswith("the layer asks for orthogonal") for row in plan.rows)
    winit.initialize(one, name, seed=7, overwrite=True)
    assert not np.allclose(array(one.get_layer("asked").kernel), kernel)


def test_a_model_drawn_from_a_recipe_is_saved_with_it(tmp_path):
    model = images()
    winit.initialize(model, "mimetic", seed=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for variable, twin in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(array(variable), array(twin))
    winit.portable(side_by_side_drawn())


def side_by_side_drawn():
    model = side_by_side()
    winit.initialize(model, "depth_scaled", seed=0)
    return model


def test_recipes_are_listed():
    found = winit.recipes()
    assert set(EXPECTED) | {"torch", "mimetic"} == set(found)
    text = str(found)
    for name, claim in found.items():
        assert name in text
        assert claim
    with pytest.raises(ValueError, match='Did you mean "gpt2"'):
        winit.initialize(post_norm(), "gpt")


def normalized_blocks(gamma=True):
    """Two blocks that a batch normalization ends, with γ or without."""
    inputs = keras.Input((12,))
    x = layers.Dense(20, name="stem")(inputs)
    for index in range(2):
        y = layers.Dense(20, name=f"last_{index}")(layers.Dense(28, "relu")(x))
        x = x + layers.BatchNormalization(scale=gamma, name=f"end_{index}")(y)
    return keras.Model(inputs, layers.Dense(3)(x))


def test_after_a_recipe_auto_gives_normalizations_what_their_layers_ask_for():
    model = normalized_blocks()
    winit.initialize(model, "zero_gamma", seed=0)
    np.testing.assert_array_equal(array(model.get_layer("end_0").gamma), 0)
    winit.initialize(model, seed=0)
    np.testing.assert_array_equal(array(model.get_layer("end_0").gamma), 1)


def test_where_a_normalization_has_no_gamma_the_last_kernel_is_zero():
    model = normalized_blocks(gamma=False)
    winit.initialize(model, "zero_gamma", seed=0)
    assert not array(model.get_layer("last_1").kernel).any()
    assert array(model.get_layer("stem").kernel).any()


def test_fixup_takes_a_branch_of_one_kernel_that_does_not_end_it():
    inputs = keras.Input((8,)), keras.Input((8,))
    x = layers.Dense(8, name="stem")(inputs[0])
    x = x + layers.Multiply()([inputs[1], layers.Dense(8, "sigmoid", name="gate")(x)])
    model = keras.Model(inputs, layers.Dense(3)(x))
    plan = winit.initialize(model, "fixup", seed=0)
    assert "alone in branch 1 of 1" in next(row.reason for row in plan.rows if row.path == "gate/kernel")


def test_deepnorm_sees_a_stream_that_a_layer_rescales():
    alpha = (2 * LAYERS) ** 0.25
    inputs = keras.Input((LENGTH, WIDTH))
    x = inputs
    for _ in range(LAYERS):
        for branch in (layers.MultiHeadAttention(HEADS, SIZE), None):
            y = branch(x, x) if branch else layers.Dense(WIDTH)(layers.Dense(INNER, "gelu")(x))
            x = layers.LayerNormalization()(layers.Rescaling(alpha)(x) + y)
    reasons = " ".join(
        row.reason for row in winit.initialize(keras.Model(inputs, x), "deepnorm", seed=0).rows
    )
    assert "last kernel" in reasons
    assert "the stream is" not in reasons


@pytest.mark.parametrize("options", [{"output_shape": 24}, {"value_dim": 12}])
def test_mimetic_wants_values_and_outputs_of_one_size(options):
    inputs = keras.Input((LENGTH, 16))
    x = layers.MultiHeadAttention(2, 8, **options)(inputs, inputs)
    model = keras.Model(inputs, layers.Dense(3)(x))
    before = snapshot(model)
    if "value_dim" in options:  # 2·12 numbers to 16 and back: of one size
        winit.initialize(model, "mimetic", seed=0)
        return
    with pytest.raises(ValueError, match="size of what it reads"):
        winit.initialize(model, "mimetic", seed=0)
    assert_unchanged(model, before)


class Number(layers.Layer):
    """s·x, one number without an axis."""

    def build(self, _shape):
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

    def call(self, x):
        return x * self.scale


@pytest.mark.parametrize("name", ["bert", "vit", "t5"])
def test_a_number_in_a_model_without_branches_is_no_table(name):
    inputs = keras.Input((6, WIDTH))
    x = layers.MultiHeadAttention(HEADS, SIZE)(inputs, inputs)
    model = keras.Model(inputs, layers.Dense(2)(Number()(x)))
    number = model.layers[2].scale
    winit.initialize(model, name, seed=0)
    assert array(number) == 1
