"""Tables that are added to each other, as positions are to tokens, get one scale."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_winit as winit

STD = 0.1 / math.sqrt(12)  # of Keras' own tables, U(±0.05)
WIDTH, LENGTH = 24, 40
WIDE = keras.initializers.RandomNormal(stddev=1.0)


class Positions(layers.Layer):
    """A table with a row for each place, added to what it is given, or put out to be added."""

    def __init__(self, *, adds, initializer="glorot_uniform", **options):
        super().__init__(**options)
        self.adds, self.initializer = adds, initializer

    def build(self, shape):
        self.table = self.add_weight(shape=(LENGTH, WIDTH), initializer=self.initializer, name="table")

    def call(self, x):
        rows = self.table[: x.shape[1]]
        return x + rows if self.adds else ops.broadcast_to(rows, ops.shape(x))


def added(x, _, name):
    return Positions(adds=True, name=name)(x)


def broadcast(x, _, name):
    return x + Positions(adds=False, name=name)(x)


def looked_up(x, places, name):
    return x + layers.Embedding(LENGTH, WIDTH, embeddings_initializer=WIDE, name=name)(places)


def zero(x, _, name):
    return Positions(adds=True, initializer="zeros", name=name)(x)


def behind_a_kernel(x, _, name):
    return Positions(adds=True, name=name)(layers.Dense(WIDTH)(x))


def concatenated(x, places, name):
    table = layers.Embedding(LENGTH, WIDTH, embeddings_initializer=WIDE, name=name)(places)
    return layers.Concatenate()([x, table])


def model(*positions):
    tokens, places = keras.Input((LENGTH,), dtype="int32"), keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(300, WIDTH, name="tokens")(tokens)
    for number, position in enumerate(positions):
        x = position(x, places, f"table_{number}")
    branch = layers.Dense(WIDTH)(layers.LayerNormalization()(x))
    x = layers.LayerNormalization()(layers.Dense(WIDTH)(x) + branch)  # a sum without a table in it
    inputs = tokens if {*positions} <= {added, broadcast, zero, behind_a_kernel} else [tokens, places]
    return keras.Model(inputs, layers.Dense(3)(x))


def tables(model):
    return [layer.weights[0] for layer in model.layers if layer.name.startswith("table_")]


def assert_std(variable, std):
    """Of a sample: a relative error of 1/√(2n), and four of these."""
    values = ops.convert_to_numpy(variable)
    assert values.std() == pytest.approx(std, rel=4 / math.sqrt(2 * values.size))


def with_features(x, places, name):
    table = layers.Embedding(LENGTH, WIDTH, embeddings_initializer=WIDE, name=name)(places)
    return layers.Add()([x, table, layers.Dense(WIDTH)(layers.UnitNormalization()(x))])


@pytest.mark.parametrize("draw", [winit.initialize, winit.calibrate])
@pytest.mark.parametrize(
    "positions", [[added], [broadcast], [looked_up], [looked_up, added, broadcast], [with_features]]
)
def test_tables_that_are_added_get_the_scale_of_the_largest(positions, draw):
    built = model(*positions)
    draw(built, seed=0)
    assert len(tables(built)) == len(positions)
    for table in (built.get_layer("tokens").embeddings, *tables(built)):
        assert_std(table, STD)


class Tokens(layers.Layer):
    """A table that is made larger before its rows are looked up."""

    def build(self, _shape):
        self.table = self.add_weight(
            shape=(300, WIDTH), initializer=keras.initializers.RandomNormal(stddev=0.02)
        )

    def call(self, tokens):
        return ops.take(self.table * 5.0, tokens, axis=0)


def test_it_is_the_scale_in_the_sum_that_counts():
    tokens = keras.Input((LENGTH,), dtype="int32")
    x = layers.LayerNormalization()(added(Tokens(name="tokens")(tokens), None, "table_0"))
    built = keras.Model(tokens, layers.Dense(3)(x))
    winit.initialize(built, seed=0)
    assert_std(built.get_layer("tokens").table, 0.02)
    assert_std(tables(built)[0], 5 * 0.02)


def test_the_plan_says_so_the_second_time_too():
    built = model(looked_up)
    first, second = (winit.initialize(built, seed=seed) for seed in (0, 1))
    for plan in (first, second):
        (row,) = [row for row in plan.rows if "table_0" in row.path]
        assert row.reason == "added to tokens/embeddings: of the same scale"
        assert row.scheme == "random_normal"


@pytest.mark.parametrize(
    ("position", "std"),
    [(behind_a_kernel, math.sqrt(2 / (LENGTH + WIDTH))), (concatenated, 1.0), (zero, 0.0)],
)
def test_what_is_added_to_no_table_is_as_its_layer_asks(position, std):
    built = model(position)
    winit.initialize(built, seed=0)
    assert_std(tables(built)[0], std)


def test_a_reset_and_a_rule_that_names_it_are_not_concerned():
    built = model(looked_up)
    winit.initialize(built, "configured", seed=0)
    assert_std(tables(built)[0], 1.0)
    winit.initialize(built, {"table_0": keras.initializers.RandomNormal(stddev=0.5)}, seed=0)
    assert_std(tables(built)[0], 0.5)


def test_a_table_of_the_same_scale_keeps_the_distribution_that_its_layer_asks_for():
    built = model(lambda x, places, name: x + layers.Embedding(LENGTH, WIDTH, name=name)(places))
    plan = winit.initialize(built, seed=0)
    (row,) = [row for row in plan.rows if "table_0" in row.path]
    assert row.scheme == "RandomUniform"
    assert np.abs(ops.convert_to_numpy(tables(built)[0])).max() <= 0.05


class Block(layers.Layer):
    """Two branches, each with a normalization before it or behind its sum."""

    def __init__(self, *, pre, **options):
        super().__init__(**options)
        self.pre = pre
        self.kernels = [layers.Dense(WIDTH, "relu") for _ in range(2)]
        self.norms = [layers.LayerNormalization() for _ in range(2)]

    def call(self, x):
        for kernel, norm in zip(self.kernels, self.norms, strict=True):
            x = x + kernel(norm(x)) if self.pre else norm(x + kernel(x))
        return x


class Words(layers.Layer):
    """A table that is looked up, and puts out the answers too."""

    def build(self, _shape):
        self.embeddings = self.add_weight(shape=(300, WIDTH), initializer="uniform", name="embeddings")

    def call(self, x, reverse=False):
        if reverse:
            return ops.matmul(x, ops.transpose(self.embeddings))
        return ops.take(self.embeddings, x, axis=0)


def language_model(blocks=8, *, pre=True, tied=False, times=1.0, **options):
    tokens = keras.Input((LENGTH,), dtype="int32")
    table = Words(name="tokens") if tied else layers.Embedding(300, WIDTH, name="tokens", **options)
    x = table(tokens)
    x = added(x if times == 1 else layers.Rescaling(times)(x), None, "table_0")
    for _ in range(blocks):
        x = Block(pre=pre)(x)
    x = layers.LayerNormalization()(x)
    return keras.Model(tokens, table(x, reverse=True) if tied else layers.Dense(300)(x))


@pytest.mark.parametrize("draw", [winit.initialize, winit.calibrate])
def test_what_starts_a_stream_of_many_pre_norm_branches_is_not_drowned_by_them(draw):
    built = language_model()
    for _ in range(2):  # once drawn, what the layer asked for is still known
        draw(built, seed=0)
        assert_std(built.get_layer("tokens").embeddings, 1.0)
        assert_std(tables(built)[0], 1.0)
    reason = {row.path.split("/")[0]: row.reason for row in winit.initialize(built, seed=0).rows}
    assert reason["tokens"] == "starts a stream of 16 pre-norm branches, which are small beside 1"
    assert reason["table_0"] == "added to tokens/embeddings: of the same scale"


AS_ASKED = {
    "few branches": {"blocks": 7},
    "post-norm": {"pre": False},
    "tied to the answers": {"tied": True},
    "multiplied before the stream": {"times": 5.0},
    "large on purpose": {"embeddings_initializer": keras.initializers.RandomNormal(stddev=1.5)},
}


@pytest.mark.parametrize("options", AS_ASKED.values(), ids=AS_ASKED)
def test_other_tables_are_as_their_layer_asks(options):
    built = language_model(**options)
    winit.initialize(built, seed=0)
    large = options.get("embeddings_initializer")
    table = built.get_layer("tokens").embeddings
    if large is not None:
        assert_std(table, 1.5)
    else:
        assert np.abs(ops.convert_to_numpy(table)).max() <= 0.05


def attended(x):
    y = layers.LayerNormalization()(x)
    return x + layers.MultiHeadAttention(2, WIDTH // 2)(y, y)


def convolved(x):
    return x + layers.Conv1D(WIDTH, 3, padding="same")(layers.LayerNormalization()(x))


def attended_first(x):
    return layers.LayerNormalization()(x + layers.MultiHeadAttention(2, WIDTH // 2)(x, x))


def of_patches(read, *, block=attended, position=added, depth=2, start="patches"):
    """Patches with places, pre-norm blocks, and what reads them."""
    if start == "patches":
        inputs = keras.Input((LENGTH, 5))
        x = layers.Dense(WIDTH)(inputs)
    else:
        inputs = keras.Input((LENGTH,), dtype="int32")
        x = layers.Dense(WIDTH)(layers.Embedding(300, 5)(inputs))
    x = position(x, None, "table_0")
    for _ in range(depth):
        x = block(x)
    return keras.Model(inputs, layers.Dense(3)(read(layers.LayerNormalization()(x))))


ALIKE = {
    "the mean of all places": layers.GlobalAveragePooling1D(),
    "the mean, by an operation": lambda x: ops.mean(x, axis=1),
    "the first place": lambda x: x[:, 0],
    "an answer at each place": lambda x: x,
    "a hidden layer and their mean": lambda x: layers.GlobalAveragePooling1D()(layers.Dense(7, "relu")(x)),
}


@pytest.mark.parametrize("draw", [winit.initialize, winit.calibrate])
@pytest.mark.parametrize("read", ALIKE.values(), ids=ALIKE)
def test_places_beside_patches_are_as_large_where_nothing_else_tells_them_apart(read, draw):
    built = of_patches(read)
    for _ in range(2):
        draw(built, seed=0)
        assert_std(tables(built)[0], 1.0)


SMALL_PLACES = {
    "told apart by what reads them": {"read": layers.Flatten()},
    "told apart by a convolution that reads them": {"read": layers.Conv1D(4, 3)},
    "told apart in a branch": {"read": layers.GlobalAveragePooling1D(), "block": convolved},
    "in a post-norm stream": {"read": layers.GlobalAveragePooling1D(), "block": attended_first},
    "beside what was looked up": {"read": layers.GlobalAveragePooling1D(), "start": "tokens"},
}


@pytest.mark.parametrize("options", SMALL_PLACES.values(), ids=SMALL_PLACES)
def test_other_places_are_as_their_layer_asks(options):
    built = of_patches(**options)
    winit.initialize(built, seed=0)
    assert_std(tables(built)[0], math.sqrt(2 / (LENGTH + WIDTH)))


def test_places_that_were_asked_for_on_purpose_stay():
    built = of_patches(layers.GlobalAveragePooling1D(), position=zero)
    winit.initialize(built, seed=0)
    assert_std(tables(built)[0], 0.0)


def test_of_tables_as_large_the_first_counts():
    """Whatever order Python happens to give them: five models, of five tables each."""
    for _ in range(5):
        places = keras.Input((LENGTH,), dtype="int32")
        every = [layers.Embedding(LENGTH, WIDTH, name=f"table_{number}") for number in range(5)]
        built = keras.Model(places, layers.Dense(3)(layers.Add()([table(places) for table in every])))
        every[0].embeddings_initializer = keras.initializers.RandomNormal(stddev=0.3)
        winit.initialize(built, seed=0)
        for table in tables(built):
            assert_std(table, 0.3)


@pytest.mark.parametrize(
    "product", [layers.Dot(-1), lambda pair: ops.sum(pair[0] * pair[1], -1, keepdims=True)]
)
def test_a_product_of_tables_is_no_sum_of_them(product):
    """A recommender: user · item, and a bias of either."""
    users, items = keras.Input((), dtype="int32"), keras.Input((), dtype="int32")
    wide = [layers.Embedding(LENGTH, WIDTH, embeddings_initializer=WIDE, name=f"table_{n}") for n in (0, 1)]
    biases = [layers.Embedding(LENGTH, 1, name=name) for name in ("of_users", "of_items")]
    user, item = wide[0](users), wide[1](items)
    built = keras.Model([users, items], product([user, item]) + biases[0](users) + biases[1](items))
    plan = winit.initialize(built, seed=0)
    assert {row.reason for row in plan.rows} == {"an embedding: as the layer asks"}
    for table in tables(built):
        assert_std(table, 1.0)


class Normalized(layers.Layer):
    """Rows that are divided by their own length: one table still."""

    def call(self, x):
        return x / ops.norm(x, axis=-1, keepdims=True)


def test_a_table_divided_by_itself_is_one():
    places = keras.Input((LENGTH,), dtype="int32")
    large, small = (layers.Embedding(n, WIDTH, name=f"table_{n}") for n in (2 * LENGTH, LENGTH))
    large.embeddings_initializer = keras.initializers.RandomNormal(stddev=0.3)
    built = keras.Model(places, layers.Dense(3)(Normalized()(large(places)) + small(places)))
    winit.initialize(built, seed=0)
    assert_std(small.embeddings, 0.3)
