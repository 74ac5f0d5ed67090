"""Query, key, value and output: fans and draws of their own, whatever one instance their author shared."""

import math

import keras
import numpy as np
import pytest
from helpers import array, std_tolerance
from keras import layers, ops

import keras_winit as winit
from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.attention import attentions

WIDTH, LENGTH = 40, 6

LAYERS = {
    "multi-head": lambda **given: layers.MultiHeadAttention(5, 12, 16, **given),
    "grouped": lambda **given: layers.GroupQueryAttention(12, 6, 2, **given),
}
SHARED = {
    "keras, a seed": lambda: keras.initializers.HeNormal(seed=1),
    "ours, a seed": lambda: winit.LecunNormal(seed=1),
    "a generator": lambda: winit.GlorotNormal(seed=keras.random.SeedGenerator(1)),
    "on purpose": lambda: winit.Orthogonal(2.0, seed=1),
    "a plain normal": lambda: keras.initializers.RandomNormal(0.05, seed=1),
}


def attention(kind, shared):
    inputs = keras.Input((LENGTH, WIDTH))
    layer = LAYERS[kind](kernel_initializer=SHARED[shared](), name="attention")
    return keras.Model(inputs, layer(inputs, inputs))


def kernels(model):
    return {v.path.split("/")[-2]: array(v) for v in model.trainable_variables if v.path.endswith("kernel")}


@pytest.mark.parametrize("scheme", ["auto", "configured", "torch", "bert", "t5", "he_normal"])
@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("kind", LAYERS)
def test_no_two_projections_share_their_draws(kind, shared, scheme):
    model = attention(kind, shared)
    plan = winit.initialize(model, scheme, seed=3)
    found = kernels(model)
    assert set(found) == {"query", "key", "value", "attention_output"}
    for name, one in found.items():
        for other in (found[each] for each in found if each < name):
            few = min(one.size, other.size)
            one_flat, other_flat = one.ravel()[:few], other.ravel()[:few]
            assert abs(np.corrcoef(one_flat, other_flat)[0, 1]) < 5.5 / math.sqrt(few)
    seeds = [row.seed for row in plan.rows if row.role == "kernel" and row.seed is not None]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("kind", LAYERS)
def test_each_projection_has_fans_of_its_own(kind, shared):
    model = attention(kind, shared)
    plan = winit.initialize(model, "lecun_normal", seed=3, overwrite=True)
    fans = {row.path.split("/")[-2]: row.fans for row in plan.rows if row.role == "kernel"}
    for name, kernel in kernels(model).items():
        fan_in = math.prod(kernel.shape[:-1]) if name == "attention_output" else WIDTH
        assert fans[name].fan_in == fan_in
        assert fans[name].fan_out == kernel.size / fan_in
        assert kernel.std() == pytest.approx(fan_in**-0.5, rel=std_tolerance("normal", kernel.size))


@pytest.mark.parametrize("kind", LAYERS)
def test_what_was_asked_for_on_purpose_is_orthogonal_in_each(kind):
    model = attention(kind, "on purpose")
    winit.initialize(model, seed=3)
    for name, kernel in kernels(model).items():
        matrix = kernel.reshape(-1, WIDTH) if name == "attention_output" else kernel.reshape(WIDTH, -1)
        short = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
        np.testing.assert_allclose(short, 4 * np.eye(len(short)), atol=1e-4)


class ByHand(layers.Layer):
    """One head whose kernels are the layer's own."""

    def __init__(self, *, packed=False, shared=False, gated=False, **options):
        super().__init__(**options)
        self.packed, self.shared, self.gated = packed, shared, gated

    def build(self, shape):
        names = ("packed",) if self.packed else ("one", "other", "third")
        widths = [WIDTH * 3 // len(names)] * len(names)
        widths[0] *= 2 if self.gated else 1
        pairs = zip(names, widths, strict=True)
        self.kernels = [self.add_weight(shape=(shape[-1], width), name=name) for name, width in pairs]

    def call(self, x):
        if self.packed:
            query, key, value = ops.split(ops.matmul(x, self.kernels[0]), 3, axis=-1)
        else:
            query, key, value = (ops.matmul(x, kernel) for kernel in self.kernels)
            query = key if self.shared else query
        if self.gated:
            query, gate = ops.split(query, 2, axis=-1)
            value = value * ops.sigmoid(gate)
        weights = ops.softmax(ops.matmul(query, ops.swapaxes(key, 1, 2)) / math.sqrt(WIDTH))
        return ops.matmul(weights, value)


def in_block(attend, kind="post-norm"):
    """A model with one block around an attention, and the answers behind it."""
    x = inputs = keras.Input((LENGTH, WIDTH))
    if kind == "pre-norm":
        x = x + attend(layers.LayerNormalization()(x))
    elif kind == "post-norm":
        x = layers.LayerNormalization()(x + attend(x))
    else:
        x = attend(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def by_hand(**options):
    return in_block(ByHand(**options))


def times_glorot(model):
    """Each kernel's deviation against Glorot's, but for the answers'."""
    return {
        row.path.split("/")[-1 if "by_hand" in row.path else -2]: array(v).std()
        / math.sqrt(2 / sum(row.fans))
        for row, v in zip(winit.initialize(model, seed=0).rows, model.variables, strict=True)
        if row.role == "kernel" and len(row.shape) > 1 and "answer" not in row.reason
    }


@pytest.mark.parametrize("kind", LAYERS)
def test_a_query_in_a_post_norm_branch_starts_small_so_that_attention_starts_nearly_even(kind):
    layer = LAYERS[kind]()
    model = in_block(lambda x: layer(x, x))
    found = times_glorot(model)
    assert found.pop("query") == pytest.approx(0.3, rel=0.1)
    assert all(ratio == pytest.approx(1, rel=0.1) for ratio in found.values()), found
    twice = {row.path: row.scheme for row in winit.initialize(model, seed=0).rows if row.role == "kernel"}
    assert [scheme for path, scheme in twice.items() if "/query/" in path] == ["scaled(glorot_uniform)"]


@pytest.mark.parametrize("around", ["pre-norm", "nothing"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_query_elsewhere_is_as_large_as_its_fans_say(kind, around):
    layer = LAYERS[kind]()
    found = times_glorot(in_block(lambda x: layer(x, x), around))
    assert all(ratio == pytest.approx(1, rel=0.1) for ratio in found.values()), found


def test_queries_are_known_by_what_is_computed():
    found = times_glorot(by_hand())
    assert found == {"one": pytest.approx(0.3, rel=0.1)} | dict.fromkeys(
        ("other", "third"), pytest.approx(1, rel=0.1)
    )


@pytest.mark.parametrize("options", [{"packed": True}, {"shared": True}, {"gated": True}])
def test_a_kernel_that_puts_out_more_than_queries_is_as_large_as_its_fans_say(options):
    assert all(ratio == pytest.approx(1, rel=0.1) for ratio in times_glorot(by_hand(**options)).values())


def test_attention_starts_nearly_even():
    """Of sixteen places, the first looks at the one that it likes best with less than a sixth."""
    inputs = keras.Input((16, WIDTH))
    layer = layers.MultiHeadAttention(5, 8)
    outputs, scores = layer(inputs, inputs, return_attention_scores=True)
    outputs = layers.LayerNormalization()(inputs + outputs)
    model, seen = keras.Model(inputs, layers.Dense(3)(outputs)), keras.Model(inputs, scores)
    x = np.random.default_rng(0).normal(size=(64, 16, WIDTH)).astype("float32")
    winit.initialize(model, seed=0)
    assert array(seen(x)).max(axis=-1).mean() < 1 / 6
    winit.initialize(model, "glorot_uniform", seed=0)
    assert array(seen(x)).max(axis=-1).mean() > 1 / 6


class KeysFirst(layers.Layer):
    """Scores by an einsum whose operands may come in either order."""

    def __init__(self, equation, *, swapped, **options):
        super().__init__(**options)
        self.equation, self.swapped = equation, swapped

    def build(self, shape):
        names = ("asks", "has", "is")
        self.kernels = [self.add_weight(shape=(shape[-1], WIDTH), name=name) for name in names]

    def call(self, x):
        query, key, value = (ops.matmul(x, kernel) for kernel in self.kernels)
        scores = ops.einsum(self.equation, *((key, query) if self.swapped else (query, key)))
        return ops.matmul(ops.softmax(scores), value)


@pytest.mark.parametrize(("equation", "swapped"), [("bqd,bkd->bqk", False), ("bkd,bqd->bqk", True)])
def test_query_and_key_are_told_by_the_axis_that_values_are_summed_along(equation, swapped):
    model = in_block(KeysFirst(equation, swapped=swapped))
    (found,) = attentions(Anatomy(model))
    parts = (found.query, found.key, found.value)
    assert [part.slot.variable.name for part in parts] == ["asks", "has", "is"]
    assert found.width == WIDTH
