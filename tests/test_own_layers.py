"""Layers of a user's own: what their weights are for follows from what they compute."""

import keras
import numpy as np
import own_layers
import pytest
from helpers import array, assert_semi_orthogonal
from keras import layers, ops

import keras_winit as winit
from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.following import NUMBER_STD

MEASURED = [kind for kind in own_layers.LAYERS if kind.power]


def rows_of(plan):
    return [(row.role, *(row.fans or ())) for row in plan.rows]


@pytest.mark.parametrize("kind", own_layers.LAYERS, ids=lambda kind: kind.__name__)
def test_roles_and_fans_follow_from_the_computation(kind):
    model = own_layers.model_of(kind)
    assert rows_of(winit.initialize(model, dry_run=True)) == list(kind.expected)
    layer = model.layers[-1]
    variables = zip(layer.weights, kind.expected, strict=True)
    for variable, (role, *fans) in variables:
        if role in ("kernel", "embedding") and not isinstance(layer, layers.Dense):
            found = winit.layer_fans(layer, variable)
            assert found == tuple(fans)
            assert found.note.startswith("from the computation: ")


@pytest.mark.parametrize(
    "kind", [kind for kind in own_layers.LAYERS if hasattr(kind, "follows")], ids=lambda kind: kind.__name__
)
def test_a_signal_that_is_mixed_stays_one_and_one_that_is_compared_does_not(kind):
    first = winit.initialize(own_layers.model_of(kind), dry_run=True).rows[0]
    assert first.activation == kind.follows


def test_axes_are_those_of_the_variable_not_of_its_view():
    def axes_of(kind):
        return Anatomy(own_layers.model_of(kind)).slots[0].axes

    assert axes_of(own_layers.Matmul) == ([0], [1])
    assert axes_of(own_layers.TransposedUse) == ([1], [0])


def test_there_are_enough_kinds():
    assert len(MEASURED) >= 20


@pytest.mark.parametrize("kind", MEASURED, ids=lambda kind: kind.__name__)
def test_the_variance_that_comes_out_is_the_one_that_the_fans_promise(kind):
    data, found = own_layers.inputs_for(kind), []
    model = own_layers.model_of(kind)
    for seed in range(3):
        winit.initialize(model, "lecun_normal", seed=seed)
        found.append(np.mean(np.square(array(model(data)))))
    assert np.mean(found) == pytest.approx(kind.power, rel=0.05)


def test_what_another_network_puts_out_is_no_kernel():
    class Hyper(layers.Layer):
        def build(self, shape):
            self.writer = layers.Dense(shape[-1] * 3, name="writer")
            self.writer.build(shape)

        def call(self, x):
            kernel = ops.reshape(self.writer(x), (-1, x.shape[-1], 3))
            return ops.einsum("bd,bdh->bh", x, kernel)

    inputs = keras.Input((8,))
    plan = winit.initialize(keras.Model(inputs, Hyper()(inputs)), dry_run=True)
    assert rows_of(plan) == [("kernel", 8, 24), ("bias", 8, 24)]


def test_a_fixed_matrix_is_a_state_that_only_a_reset_draws():
    class Fixed(layers.Layer):
        def build(self, shape):
            self.phases = self.add_weight(shape=(shape[-1], 5), initializer="random_normal", trainable=False)

        def call(self, x):
            return ops.cos(ops.matmul(x, self.phases))

    model = keras.Sequential([keras.Input((4,)), Fixed()])
    before = array(model.weights[0].value)
    plan = winit.initialize(model, seed=1)
    assert [row.scheme for row in plan.rows] == [None]
    np.testing.assert_array_equal(array(model.weights[0].value), before)
    winit.initialize(model, "configured", seed=1)
    assert not np.array_equal(array(model.weights[0].value), before)


def test_parts_that_are_cut_apart_are_drawn_apart():
    model = own_layers.model_of(own_layers.Split)
    winit.initialize(model, "orthogonal", seed=2)
    for part in np.split(array(model.weights[0].value), 3, axis=1):
        assert_semi_orthogonal(part)


def test_experts_are_each_orthogonal():
    model = own_layers.model_of(own_layers.Experts)
    winit.initialize(model, "orthogonal", seed=2)
    for expert in array(model.weights[0].value):
        assert_semi_orthogonal(expert)


def test_a_function_of_a_variable_stays_what_its_layer_makes_of_it():
    class Positive(layers.Layer):
        def build(self, shape):
            self.logits = self.add_weight(shape=(shape[-1], 6), initializer=keras.initializers.Constant(-3.0))

        def call(self, x):
            return ops.matmul(x, ops.softplus(self.logits))

    model = keras.Sequential([keras.Input((4,)), Positive()])
    plan = winit.initialize(model, seed=1)
    assert plan.rows[0].reason == "the layer asks for constant"
    np.testing.assert_array_equal(array(model.weights[0].value), -3.0)


class Cell(layers.Layer):
    """A recurrent cell of one's own."""

    def __init__(self, units=6, **options):
        super().__init__(**options)
        self.units = self.state_size = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units))
        self.u = self.add_weight(shape=(self.units, self.units))

    def call(self, x, states):
        state = ops.tanh(ops.matmul(x, self.w) + ops.matmul(states[0], self.u))
        return state, [state]


def test_a_cell_of_ones_own_has_a_recurrent_kernel():
    model = keras.Sequential([keras.Input((5, 3)), layers.RNN(Cell())])
    plan = winit.initialize(model, seed=1)
    assert [(row.role, row.scheme, row.activation) for row in plan.rows] == [
        ("kernel", "glorot_uniform", "tanh"),
        ("recurrent", "orthogonal", None),
    ]
    assert_semi_orthogonal(array(model.layers[0].cell.u.value))


class Numbers(layers.Layer):
    """A layer that goes by numbers, so that nobody can trace it."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 4), initializer="random_normal")

    def call(self, x):
        return ops.matmul(x, self.w) * np.sign(float(ops.sum(self.w)))

    def compute_output_shape(self, shape):
        return (*shape[:-1], 4)


def test_what_is_not_seen_is_not_asserted():
    inputs = keras.Input((5,))
    before = layers.Dense(7, kernel_initializer="he_normal", name="before")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="behind")(Numbers(name="numbers")(before)))
    rows = {row.path: row for row in winit.initialize(model, seed=1).rows}
    assert rows["before/kernel"].scheme == "variance_scaling"  # He's, with exact fans
    assert rows["before/kernel"].activation is None
    assert rows["before/kernel"].reason == "what follows is not seen: numbers (Numbers): as the layer asks"
    assert rows["behind/kernel"].reason.startswith("an answer: ")
    own = next(row for path, row in rows.items() if path.startswith("numbers/"))
    assert (own.role, own.scheme) == ("other", "RandomNormal")


def test_a_layer_that_cannot_be_traced_can_say_what_it_is():
    class Said(Numbers):
        pass

    @winit.layer_fans.register(Said)
    def _(layer, variable):
        return winit.Fans(*variable.shape)

    inputs = keras.Input((5,))
    model = keras.Model(inputs, Said(name="said")(inputs))
    (row,) = winit.initialize(model, "lecun_normal", seed=1).rows
    assert (row.role, row.fans, row.scheme) == ("kernel", (5, 4), "lecun_normal")


def test_what_is_kept_because_nothing_is_known_is_said():
    class Secret(Numbers):
        def __init__(self, secret):
            super().__init__()
            self.w = self.add_weight(shape=(5, 4), initializer="random_normal")

        def build(self, _shape):
            pass

    inputs = keras.Input((5,))
    model = keras.Model(inputs, Secret(object())(inputs))
    plan = winit.initialize(model, seed=1)
    assert "1 kept because nothing is known of it" in str(plan)
    report = winit.diagnose(model, np.ones((4, 5), "float32"))
    assert any("nothing is known of it" in note for note in report.notes)
    calibration = winit.calibrate(model, np.ones((4, 5), "float32"), seed=1)
    assert "1 weight of whose use nothing is known" in str(calibration)


@pytest.mark.parametrize("last", [True, False])
def test_a_zero_weight_of_ones_own_layer_is_found(last):
    """As the last one it learns; before a ReLU and other kernels it gets no gradient."""
    inputs = keras.Input(own_layers.Matmul.given[1:])
    x = own_layers.Matmul(name="own")(inputs)
    x = x if last else layers.Dense(3)(layers.Dense(5, "relu")(layers.ReLU()(x)))
    model = keras.Model(inputs, x)
    for weight in model.get_layer("own").weights:
        weight.assign(np.zeros(weight.shape))
    report = winit.diagnose(model)
    assert report.ok == last
    assert report.findings[0].code == "zero"
    assert report.findings[0].path == model.get_layer("own").weights[0].path


def test_seeds_do_not_depend_on_names_that_keras_makes_up():
    drawn = []
    for _ in range(2):  # the second model's variables have other automatic names
        model = own_layers.model_of(own_layers.LowRank)
        winit.initialize(model, seed=3)
        drawn.append([array(variable.value) for variable in model.weights])
    for one, other in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, other)


class Twice(layers.Layer):
    """Two kernels, one behind the other, and a third that reads what a normalization hands on."""

    def build(self, shape):
        normal = keras.initializers.RandomNormal(stddev=0.3)
        shapes = ((shape[-1], 40), (40, 30), (30, 20))
        self.first, self.second, self.third = (self.add_weight(shape=s, initializer=normal) for s in shapes)
        self.offset = self.add_weight(shape=(40,), initializer="zeros")

    def seen(self, x):
        one = ops.matmul(x, self.first)
        two = ops.matmul(ops.relu(one + self.offset), self.second)
        size = ops.rsqrt(ops.mean(ops.square(two), axis=-1, keepdims=True) + 1e-6)
        return one, two, ops.matmul(two * size, self.third)

    def call(self, x):
        return self.seen(x)[2]


@pytest.mark.parametrize("scheme", ["keep", "orthogonal"])
def test_each_kernel_of_a_layer_is_calibrated_where_it_meets_the_signal(scheme):
    layer = Twice()
    inputs = keras.Input((16,))
    model = keras.Model(inputs, layers.Dense(4)(layer(inputs)))
    data = 5 * np.random.default_rng(0).standard_normal((256, 16), "float32")
    before = array(layer.second.value)
    calibration = winit.calibrate(model, data, scheme=scheme, target_std=1.0, seed=0, progress=False)
    one, two, three = (array(tensor) for tensor in layer.seen(data))
    assert one.std() == pytest.approx(1, rel=0.01)
    assert three.std() == pytest.approx(1, rel=0.01)
    assert array(model(data)).std() == pytest.approx(NUMBER_STD, rel=0.01)
    assert [(row.factor is None, row.normalized) for row in calibration.rows] == [
        (False, False),
        (True, True),  # the normalization divides by its size
        (False, False),
        (False, False),
    ]
    if scheme == "keep":
        np.testing.assert_array_equal(array(layer.second.value), before)
        assert two.std() != pytest.approx(1, rel=0.1)


SINGLE = [
    *(own_layers.Matmul, own_layers.Vector, own_layers.SideBySide, own_layers.Relations),
    *(own_layers.EqualizedOutput, own_layers.EqualizedInput, own_layers.ProductFirst, own_layers.Experts),
    *(own_layers.Convolution, own_layers.TransposedConvolution),
]


@pytest.mark.parametrize("kind", SINGLE, ids=lambda kind: kind.__name__)
def test_what_a_layer_puts_out_is_what_calibrate_says(kind):
    inputs = own_layers.inputs_for(kind)[:256]
    model = own_layers.model_of(kind)
    calibration = winit.calibrate(model, 7 * inputs, seed=0, progress=False)
    assert not calibration.skipped
    if kind is not own_layers.TransposedConvolution:  # of which the layer hands on the inside
        assert array(model(7 * inputs)).std() == pytest.approx(NUMBER_STD, rel=1e-3)


def test_a_kernel_and_its_square_are_told_apart():
    inputs = keras.Input((8, 8, 60))
    model = keras.Model(inputs, own_layers.Demodulated()(inputs))
    data = np.random.default_rng(0).standard_normal((20, 8, 8, 60), "float32")
    (row,) = winit.initialize(model, "looks_linear", seed=0).rows
    assert (row.role, *row.fans) == own_layers.Demodulated.expected[0]
    assert not winit.calibrate(model, data, seed=0, progress=False).skipped


@pytest.mark.parametrize("kind", [own_layers.ProductFirst, own_layers.FourProjections, own_layers.TiedTable])
def test_kernels_that_meet_the_signal_together_share_the_factor(kind):
    model, data = own_layers.model_of(kind), own_layers.inputs_for(kind)
    calibration = winit.calibrate(model, data, scheme="lecun_normal", seed=0, progress=False)
    if kind is own_layers.TiedTable:
        assert [row.reason[:12] for row in calibration.skipped] == ["an embedding"]
    if kind is own_layers.ProductFirst:
        assert not calibration.skipped
        one, other = calibration.calibrated
        assert one.factor == other.factor
        assert array(model(data)).std() == pytest.approx(NUMBER_STD, rel=0.01)


class Moved(layers.Layer):
    """A kernel that is turned before it meets the signal, by each of the operations that can."""

    def build(self, shape):
        self.table = self.add_weight(shape=(7, shape[-1], 1), name="table")

    def call(self, x):
        turned = ops.swapaxes(ops.moveaxis(self.table, -1, 0), -1, -2)  # (1, inputs, outputs)
        return ops.matmul(x, ops.transpose(ops.transpose(turned[0]), (1, 0)))


class Tempered(layers.Layer):
    """Times a number, by the operation that also multiplies matrices."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 5), name="kernel")
        self.temperature = self.add_weight(shape=(), initializer="ones", name="temperature")

    def call(self, x):
        return ops.dot(ops.matmul(x, self.kernel), self.temperature)


class Strided(layers.Layer):
    """A convolution whose stride is an integer of numpy."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(4, shape[-1], 6), name="kernel")

    def call(self, x):
        strides = int(np.int64(2)) if keras.backend.backend() != "tensorflow" else np.int64(2)
        return ops.conv(x, self.kernel, strides=strides, padding="same")


class Bilinear(layers.Layer):
    """Attention whose scores are q·W·k, with a matrix of its own between."""

    def build(self, shape):
        self.between = self.add_weight(shape=(shape[-1], shape[-1]), name="between")

    def call(self, x):
        scores = ops.einsum("bqd,de,bke->bqk", x, self.between, x)
        return ops.matmul(ops.softmax(scores), x)


@pytest.mark.parametrize(
    ("layer", "path", "fans"),
    [
        (Moved, "table", (9, 7)),
        (Tempered, "kernel", (9, 5)),
        (Strided, "kernel", (36, 12)),
        (Bilinear, "between", None),
    ],
)
def test_what_is_rare_is_seen_too_and_leaves_no_names_behind(layer, path, fans):
    inputs = keras.Input((8, 9))
    model = keras.Model(inputs, layers.Dense(2)(layer(name="own")(inputs)))
    names = dict(keras.src.backend.common.global_state.get_global_attribute("object_name_uids"))
    plan = winit.initialize(model, seed=0, dry_run=True)
    assert dict(keras.src.backend.common.global_state.get_global_attribute("object_name_uids")) == names
    (row,) = [row for row in plan.rows if row.path == f"own/{path}"]
    assert fans is None or row.fans == fans
    winit.diagnose(model)
