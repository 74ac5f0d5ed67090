"""Residual branches, found by what is computed."""

import collections
import json

import keras
import numpy as np
import pytest
from branch_models import APPLICATIONS, CASES, SLOW_APPLICATIONS, Expected, pre_norm, resnet
from helpers import array
from keras import layers, ops

import keras_winit as winit
from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.ancestry import Ancestry
from keras_winit.models.anatomy.branches import ENDED, GAMMA, SEVERAL, shares
from keras_winit.models.calibrating.targets import SHORT


def summed_up(branch):
    last = tuple(slot.layer.name for slot in branch.last)
    ends = branch.ends is not None
    return Expected(last, branch.kind, len(branch.kernels), ends, branch.projected)


@pytest.mark.parametrize("build", CASES, ids=lambda build: build.__name__)
def test_branches_of_models_of_ones_own(build):
    case, found = CASES[build], winit.branches(build())
    assert [summed_up(branch) for branch in found] == case.branches
    assert len(found.others) == len(case.others)
    for word, other in zip(case.others, found.others, strict=True):
        assert word in other.reason
    assert max((branch.stream for branch in found), default=0) == case.streams
    assert [branch.number for branch in found] == list(range(1, len(found) + 1))
    assert {branch.count for branch in found} <= {len(found)}


def check_family(name, family):
    model = getattr(keras.applications, name)(weights=None, input_shape=(family.size, family.size, 3))
    found = winit.branches(model)
    kinds = collections.Counter(branch.kind for branch in found)
    kernels = collections.Counter(len(branch.kernels) for branch in found)
    assert kinds == collections.Counter(family.kinds)
    assert kernels == collections.Counter(family.kernels)
    assert sum(branch.projected for branch in found) == family.projected
    assert sum(branch.ends is not None for branch in found) == family.ends
    assert all(len(branch.last) == 1 for branch in found)
    # The layer that ends a branch is called so in all of these, or is the branch's last convolution.
    assert all(branch.last[0] == branch.kernels[-1] for branch in found)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_branches_of_keras_applications(name):
    check_family(name, APPLICATIONS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_APPLICATIONS)
def test_branches_of_all_keras_applications(name):
    check_family(name, SLOW_APPLICATIONS[name])


@pytest.mark.parametrize("method", ["initialize", "calibrate"])
def test_a_branch_starts_small_beside_its_stream(method):
    model = pre_norm()
    data = np.random.default_rng(0).normal(size=(64, 6, 16)).astype("float32")
    down = model.get_layer("down_0")
    if method == "initialize":
        plan = winit.initialize(model, seed=0)
        row = next(row for row in plan.rows if row.path == down.kernel.path)
        assert row.scheme == "scaled(glorot_uniform)"
        assert row.reason == "no activation follows; ends one of 4 pre-norm branches, 0.5 times"
        assert array(down.kernel).std() == pytest.approx(0.5 * (2 / 48) ** 0.5, rel=0.1)
    else:
        winit.calibrate(model, data, seed=0, progress=False)
        inner = keras.Model(model.inputs, down.output)
        assert array(inner(data)).std() == pytest.approx(SHORT * 0.5, rel=0.01)


def normalized_branches(count, **options):
    inputs = x = keras.Input((8,))
    for _ in range(count):
        x = x + layers.BatchNormalization(**options)(layers.Dense(8)(x))
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize("method", [winit.initialize, winit.calibrate])
@pytest.mark.parametrize(("count", "gamma"), [(ENDED - 1, 1), (ENDED, GAMMA)])
def test_the_gammas_that_end_many_branches_start_them_small(method, count, gamma):
    model = normalized_branches(count)
    for _ in range(2):  # what is recorded in a layer is not what its author asked for
        method(model, seed=0)
        ends = [branch.ends for branch in winit.branches(model)]
        assert len(ends) == count
        for end in ends:
            np.testing.assert_allclose(array(end.gamma), gamma)


@pytest.mark.parametrize("own", ["zeros", keras.initializers.Constant(0.7)])
def test_a_gamma_that_its_layer_asks_for_stays(own):
    model = normalized_branches(ENDED, gamma_initializer=own)
    winit.initialize(model, seed=0)
    np.testing.assert_allclose(array(winit.branches(model)[0].ends.gamma), 0 if own == "zeros" else 0.7)


@pytest.mark.parametrize("scheme", ["he_normal", "depth_scaled", "gpt2", "torch"])
def test_a_named_scheme_or_a_recipe_leaves_gammas_alone(scheme):
    model = normalized_branches(ENDED)
    winit.initialize(model, scheme, seed=0)
    np.testing.assert_array_equal(array(winit.branches(model)[0].ends.gamma), 1)


@pytest.mark.parametrize(
    ("count", "pre", "post"),
    [(SEVERAL - 1, set(), set()), (SEVERAL, {1 / 2}, {1 / 4}), (25, {1 / 5}, {1 / 25})],
)
@pytest.mark.parametrize("kind", ["pre-norm", "post-norm"])
def test_many_branches_start_smaller(count, pre, post, kind):
    inputs = x = keras.Input((8,))
    share = pre if kind == "pre-norm" else post
    for _ in range(count):
        norm, kernel = layers.LayerNormalization(), layers.Dense(8)
        x = x + kernel(norm(x)) if kind == "pre-norm" else norm(x + kernel(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    anatomy = Anatomy(model)
    assert set(shares(anatomy).values()) == share


def test_a_branch_says_where_it_is_and_what_normalizes_it():
    found = winit.branches(resnet())
    assert [branch.add.kind for branch in found] == ["Add", "Add"]
    assert found[0].ends.name == "end"
    assert [slot.layer.name for slot in found[0].kernels] == ["first", "second"]
    assert (found[0].begins, found[0].behind) == (None, None)
    pre = winit.branches(pre_norm())
    assert all(isinstance(branch.begins, layers.LayerNormalization) for branch in pre)
    assert [branch.behind is not None for branch in pre] == [False, False, False, True]
    assert [branch.place for branch in pre] == [1, 2, 3, 4]
    assert {branch.depth for branch in pre} == {4}


def test_branches_print_as_a_table_and_as_json():
    found = winit.branches(resnet())
    text = str(found)
    assert text.startswith("2 branches of ")
    assert "2 of 2" in text
    assert "second/kernel" in text
    assert "end ends" in text
    data = json.loads(json.dumps(found.to_dict()))
    assert data["branches"][0]["last"] == ["second/kernel"]
    assert data["branches"][0]["ends"] == "end"
    assert "<table>" in found._repr_html_()


def test_a_branch_and_what_it_is_made_of_print_in_a_line():
    branch = winit.branches(resnet())[1]
    assert repr(branch).startswith("<Branch 2 of 2: ")
    assert f"ends with {branch.last[0].path}" in repr(branch)
    for part in (branch, branch.add, branch.joined):
        assert "\n" not in repr(part)
        assert len(repr(part)) < 200
    sizes = "×".join(map(str, branch.joined.shape))
    origin = f"step {branch.joined.step.index + 1}"
    assert repr(branch.joined) == f"<Value {sizes} of float32, from {origin}>"


def test_what_has_no_branches_says_so():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)], name="plain")
    assert repr(winit.branches(model)) == "<Branches: no branches of 'plain'>"


def test_a_part_that_is_not_looked_into_is_a_branch_without_known_kernels():
    class Opaque(layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], shape[-1]))

        def call(self, x):
            return keras.ops.convert_to_tensor(np.asarray(x)) @ self.w

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    inputs = keras.Input((8,))
    found = winit.branches(keras.Model(inputs, inputs + Opaque()(inputs)))
    assert len(found) == 1
    assert len(found[0].last) == 0
    assert "not seen" in str(found)


@pytest.mark.parametrize("bad", [None, "model", 3])
def test_what_is_no_model_is_refused(bad):
    with pytest.raises(TypeError):
        winit.branches(bad)


class Biased(layers.Layer):
    """Attention whose scores get a bias that is computed from the same signal, and a mask."""

    def build(self, shape):
        for name, units in {"query": 12, "key": 12, "value": 20, "place": shape[1]}.items():
            setattr(self, name, self.add_weight(name=name, shape=(shape[-1], units)))

    def call(self, x):
        scores = (x @ self.query) @ ops.transpose(x @ self.key, (0, 2, 1)) + x @ self.place
        return ops.softmax(scores + ops.mean(x, axis=-1, keepdims=True)) @ (x @ self.value)


def test_sums_of_scores_are_no_branches():
    inputs = keras.Input((6, 20))
    found = winit.branches(keras.Model(inputs, inputs + Biased()(inputs)))
    assert [slot.variable.name for branch in found for slot in branch.last] == ["value"]
    assert len([each for each in found.others if "scores" in each.reason]) == 2


@pytest.mark.parametrize("call", [winit.initialize, winit.calibrate, winit.diagnose])
def test_what_values_come_from_is_looked_for_once(call, monkeypatch):
    inputs = x = keras.Input((8, 8))
    for _ in range(4):
        y = layers.MultiHeadAttention(2, 4)(x, x)
        x = layers.LayerNormalization()(x + y)
    model, made = keras.Model(inputs, layers.Dense(3)(x)), []
    begin = Ancestry.__init__
    monkeypatch.setattr(Ancestry, "__init__", lambda self, anatomy: made.append(begin(self, anatomy)))
    call(model)
    assert len(made) == 1
