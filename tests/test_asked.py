"""What an author chose on purpose stays; what a mapping does not name is left alone."""

import keras
import numpy as np
import pytest
from helpers import array
from keras import layers, ops

import keras_winit as winit
from keras_winit.models.anatomy.following import NUMBER_STD

own = keras.initializers


def ramp(shape, dtype=None):
    return ops.cast(ops.reshape(ops.arange(np.prod(shape)), shape), dtype or "float32")


ASKED = {
    "zeros": ("zeros", "zeros"),
    "ours": (winit.Zeros(), "zeros"),
    "ones": ("ones", "ones"),
    "constant": (own.Constant(0.1), "constant"),
    "function": (ramp, "ramp"),
    "near zero": (own.VarianceScaling(1e-10), "variance_scaling near zero"),
    "actor": (own.RandomUniform(-0.003, 0.003), "random_uniform near zero"),
    "head": (own.RandomNormal(stddev=0.001), "random_normal near zero"),
    "gain": (own.Orthogonal(gain=0.01), "orthogonal times 0.01"),
    "our gain": (winit.Orthogonal(gain=2.0), "orthogonal times 2"),
    "identity": (own.Identity(), "identity"),
    "siren": (winit.Siren(), "siren"),
    "scaled": (winit.Scaled("he_normal", factor=0.5), "scaled"),
    "sparse": (winit.Sparse(), "sparse"),
    "a gate of zeros": (winit.PerGate("zeros", gates=2), "zeros"),
}
ORDINARY = ["glorot_uniform", "he_normal", "winit>lecun_normal", own.RandomNormal(stddev=0.02), "orthogonal"]


def model_with(kernel, bias="zeros"):
    return keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(30, "relu", name="first"),
            layers.Dense(12, kernel_initializer=kernel, bias_initializer=bias, name="asked"),
            layers.Dense(3, name="last"),
        ]
    )


def rows(plan):
    return {short(row): row for row in plan.rows}


def short(row):
    return "/".join(row.path.split("/")[-2:])


@pytest.mark.parametrize("scheme", ["auto", "he_normal", "torch", "looks_linear", {".*": "lecun_normal"}])
@pytest.mark.parametrize("name", ASKED)
def test_what_was_asked_for_on_purpose_is_drawn_as_asked(name, scheme):
    initializer, words = ASKED[name]
    model = model_with(initializer)
    before = array(model.layers[1].kernel.value)
    row = rows(winit.initialize(model, scheme, seed=1))["asked/kernel"]
    assert row.reason == f"the layer asks for {words}"
    after = array(model.layers[1].kernel.value)
    assert after.std() == pytest.approx(before.std(), rel=0.4, abs=1e-12)
    if name in ("zeros", "ours", "ones", "constant", "function", "identity", "a gate of zeros"):
        np.testing.assert_array_equal(after, before)
    # And once more: what is recorded still says what was asked for.
    assert rows(winit.initialize(model, scheme, seed=2))["asked/kernel"].reason == row.reason


@pytest.mark.parametrize("initializer", ORDINARY)
def test_an_ordinary_draw_is_chosen_anew(initializer):
    row = rows(winit.initialize(model_with(initializer), seed=1))["asked/kernel"]
    assert (row.scheme, row.reason) == ("glorot_uniform", "no activation follows")


def wave(x):
    return ops.sin(20 * x)


@pytest.mark.parametrize("behind", [False, True], ids=["its own activation", "a layer behind"])
@pytest.mark.parametrize("draw", [winit.initialize, winit.calibrate])
def test_a_draw_before_a_wave_and_a_random_bias_stay(draw, behind):
    """As a SIREN's first kernel, and biases; but not a default, nor a draw before what Keras has."""
    wide = {"kernel_initializer": own.RandomUniform(-0.5, 0.5), "bias_initializer": "he_uniform"}
    first = [layers.Dense(400, None if behind else wave, name="own", **wide)]
    model = keras.Sequential(
        [
            keras.Input((20,)),
            *([*first, layers.Activation(wave)] if behind else first),
            layers.Dense(40, wave, name="default"),
            layers.Dense(40, ops.relu, name="known", kernel_initializer="he_normal"),
            layers.Dense(40, lambda x: ops.gelu(x), name="one_gain", kernel_initializer="he_normal"),
            layers.Dense(40, "softplus", name="two_gains", kernel_initializer="he_normal"),
            layers.Dense(3, name="last"),
        ]
    )
    draw(model, seed=0)
    kernel, bias = (array(each) for each in model.get_layer("own").weights)
    error = np.sqrt(0.8 / 4)  # of a uniform sample's deviation, times √n
    assert kernel.std() == pytest.approx(1 / np.sqrt(12), rel=4 * error / np.sqrt(kernel.size))
    # Keras' fans of a vector are its length, not the kernel's 20.
    assert bias.std() == pytest.approx(np.sqrt(2 / 400), rel=4 * error / np.sqrt(bias.size))
    plan = rows(winit.initialize(model, seed=1, dry_run=True))
    suits = "the layer asks for random_uniform before wave, which no one gain suits"
    assert plan["own/kernel"].reason == suits
    assert plan["own/bias"].reason == "the layer asks for a bias of he_uniform"
    for scheme in ("orthogonal", "keep"):
        found = {row.path.split("/")[-2]: row for row in winit.calibrate(model, seed=1, scheme=scheme).rows}
        assert found["own"].factor is None
        assert found["own"].reason == f"{suits}: its size is what is asked for"
    for name in ("default", "known", "one_gain", "two_gains"):
        assert "asks" not in plan[f"{name}/kernel"].reason


def test_biases_that_torch_has_drawn_are_not_asked_for(tmp_path):
    model = model_with("glorot_uniform")
    winit.initialize(model, "torch", seed=0)
    model.save(tmp_path / "torch.keras")
    reloaded = keras.models.load_model(tmp_path / "torch.keras")
    assert array(reloaded.get_layer("asked").bias).any()
    winit.initialize(reloaded, seed=0)
    assert not array(reloaded.get_layer("asked").bias).any()


class Times(layers.Dense):
    """A layer that multiplies its kernel by twenty, which its author has reckoned with."""

    def call(self, x):
        return ops.sin(ops.matmul(x, 20.0 * self.kernel))


@pytest.mark.parametrize("asked", [winit.Siren(), winit.Constant(0.1), own.Orthogonal(gain=0.2)])
def test_what_the_model_multiplies_by_is_in_what_was_asked_for(asked):
    model = keras.Sequential([keras.Input((20,)), Times(30, kernel_initializer=asked), layers.Dense(3)])
    before = array(model.layers[0].kernel)
    winit.initialize(model, seed=0)
    after = array(model.layers[0].kernel)
    assert np.sqrt(np.mean(after**2)) == pytest.approx(np.sqrt(np.mean(before**2)), rel=0.1)


def test_a_rule_that_names_it_or_overwrite_replaces_it():
    model = model_with("zeros")
    assert rows(winit.initialize(model, {"asked": "he_normal"}))["asked/kernel"].scheme == "he_normal"
    assert array(model.layers[1].kernel.value).any()
    model = model_with("zeros")
    assert rows(winit.initialize(model, {"asked": "auto"}))["asked/kernel"].scheme == "Zeros"
    assert rows(winit.initialize(model, overwrite=True))["asked/kernel"].scheme == "glorot_uniform"
    assert (
        rows(winit.initialize(model, overwrite=True, scheme="he_normal"))["asked/kernel"].scheme
        == "he_normal"
    )


def test_a_scheme_for_all_is_forgotten_where_the_layer_asked_for_another():
    model = model_with("zeros")
    winit.initialize(model, "he_normal", seed=1, overwrite=True)
    assert array(model.layers[1].kernel.value).any()
    assert rows(winit.initialize(model, seed=1))["asked/kernel"].reason == "the layer asks for zeros"
    assert not array(model.layers[1].kernel.value).any()


def test_a_scheme_for_all_that_was_drawn_again_is_not_asked_for():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(32, "tanh"), layers.Dense(2)])
    for scheme in ("looks_linear", "configured", "he_normal"):
        plan = winit.initialize(model, scheme, seed=0)
    assert [row.scheme for row in plan.rows if row.role == "kernel"] == ["he_normal"] * 2


@pytest.mark.parametrize("scheme", ["orthogonal", "configured", "keep"])
def test_calibrate_leaves_the_size_that_was_asked_for(scheme):
    data = np.random.default_rng(0).standard_normal((64, 20), "float32")
    for initializer in (own.Orthogonal(gain=0.01), own.RandomNormal(stddev=0.001)):
        model = model_with(initializer, bias=winit.Constant(0.3))
        std = array(model.layers[1].kernel.value).std()
        calibration = winit.calibrate(model, data, scheme=scheme, seed=0, progress=False)
        (row,) = [row for row in calibration.rows if short(row) == "asked/kernel"]
        assert row.factor is None
        assert "its size is what is asked for" in row.reason
        assert array(model.layers[1].kernel.value).std() == pytest.approx(std, rel=0.2)
        np.testing.assert_allclose(array(model.layers[1].bias.value), 0.3, rtol=1e-6)


def test_calibrate_rescales_what_was_trained_away_from_what_was_asked_for():
    data = np.random.default_rng(0).standard_normal((64, 20), "float32")
    model = model_with(own.RandomNormal(stddev=0.001))
    model.layers[1].kernel.assign(0.2 * np.random.default_rng(1).standard_normal((30, 12)))
    calibration = winit.calibrate(model, data, scheme="keep", progress=False)
    assert set(map(short, calibration.calibrated)) == {"first/kernel", "asked/kernel", "last/kernel"}


ACTS = {
    "initialize": winit.initialize,
    "he_normal": lambda model, **options: winit.initialize(model, "he_normal", **options),
    "configured": lambda model, **options: winit.initialize(model, "configured", **options),
    "torch": lambda model, **options: winit.initialize(model, "torch", **options),
    "looks_linear": lambda model, **options: winit.initialize(model, "looks_linear", **options),
    "calibrate": lambda model, **options: winit.calibrate(
        model, np.ones((8, 20)) * np.arange(8)[:, None], **options
    ),
    "keep": lambda model, **options: winit.calibrate(model, scheme="keep", **options),
    "bias": lambda model, **options: winit.calibrate(model, center="bias", **options),
}


@pytest.mark.parametrize("act", ACTS)
def test_a_bias_at_the_prior_survives(act):
    model = keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(32, "relu"),
            layers.Dense(1, "sigmoid", name="out", bias_initializer=winit.PriorBias(counts=[990, 10])),
        ]
    )
    ACTS[act](model, seed=0)
    assert array(model.layers[-1].bias.value)[0] == pytest.approx(np.log(10 / 990), rel=1e-5)


def test_an_embedding_is_drawn_as_its_layer_asks():
    embedding = layers.Embedding(500, 40, embeddings_initializer=own.RandomNormal(stddev=0.03), name="words")
    model = keras.Sequential([keras.Input((7,)), embedding, layers.Flatten(), layers.Dense(3)])
    before = array(embedding.embeddings.value)
    row = rows(winit.initialize(model, seed=1))["words/embeddings"]
    assert row.reason == "an embedding: as the layer asks"
    after = array(embedding.embeddings.value)
    assert not np.array_equal(before, after)
    assert after.std() == pytest.approx(0.03, rel=0.03)
    assert rows(winit.initialize(model, "lecun_normal"))["words/embeddings"].scheme == "lecun_normal"
    assert rows(winit.initialize(model, seed=1))["words/embeddings"].scheme == "RandomNormal"


def pretrained():
    rng = np.random.default_rng(0)
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, use_bias=False, name="c1")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(16, 3, activation="gelu", name="c2")(x)
    backbone = keras.Model(inputs, layers.GlobalAveragePooling2D()(x), name="backbone")
    for variable in backbone.variables:
        variable.assign(0.4 * np.abs(rng.normal(size=variable.shape)) + 0.1)
    parts = [backbone, layers.Dense(32, "relu", name="head_1"), layers.Dense(4, name="head_2")]
    return backbone, keras.Sequential([keras.Input((16, 16, 3)), *parts])


@pytest.mark.parametrize("scheme", [{"head": "orthogonal"}, {"head": "auto", ".*": "keep"}])
@pytest.mark.parametrize("act", ["initialize", "calibrate"])
def test_a_backbone_that_a_mapping_does_not_name_stays_to_the_last_bit(act, scheme):
    backbone, model = pretrained()
    data = np.random.default_rng(1).normal(size=(32, 16, 16, 3)).astype("float32")
    features, variables = array(backbone(data)), [array(v.value) for v in backbone.variables]
    if act == "initialize":
        winit.initialize(model, scheme, seed=0)
    else:
        calibration = winit.calibrate(model, data, scheme=scheme, seed=0, progress=False)
        assert set(map(short, calibration.calibrated)) == {"head_1/kernel", "head_2/kernel"}
        assert not calibration.statistics
        (reason,) = {row.reason for row in calibration.skipped}
        assert reason == "kept: the mapping does not give it a scheme"
        (answers,) = [row for row in calibration.calibrated if short(row) == "head_2/kernel"]
        assert array(model(data)).std() == pytest.approx(answers.after, rel=0.01)
        assert answers.after <= NUMBER_STD
    for variable, value in zip(backbone.variables, variables, strict=True):
        np.testing.assert_array_equal(array(variable.value), value)
    np.testing.assert_array_equal(array(backbone(data)), features)


@pytest.mark.parametrize("scheme", ["auto", "configured", "lecun_normal"])
def test_an_adapter_that_is_named_starts_as_no_change(scheme):
    model = keras.Sequential([keras.Input((30,)), layers.Dense(20, name="adapted"), layers.Dense(3)])
    layer = model.layers[0]
    layer.enable_lora(4)
    layer.lora_kernel_a.assign(np.ones((30, 4)))
    layer.lora_kernel_b.assign(np.ones((4, 20)))
    kernel, head = array(layer._kernel), array(model.layers[1].kernel)
    plan = winit.initialize(model, {"lora": scheme}, seed=0)
    assert {short(row): row.scheme for row in plan.drawn} == {
        "adapted/lora_kernel_a": "lecun_normal" if scheme == "lecun_normal" else "he_uniform",
        "adapted/lora_kernel_b": "zeros",
    }
    assert not array(layer.lora_kernel_b).any()
    drawn = array(layer.lora_kernel_a)
    expected = np.sqrt((1 if scheme == "lecun_normal" else 2) / 30)
    assert drawn.std() == pytest.approx(expected, rel=0.25)
    np.testing.assert_array_equal(array(layer._kernel), kernel)
    np.testing.assert_array_equal(array(model.layers[1].kernel), head)


@pytest.mark.parametrize("scheme", ["auto", {"lora": "keep", ".*": "auto"}, {".*": "orthogonal"}])
def test_an_adapter_that_is_not_named_is_kept(scheme):
    model = keras.Sequential([keras.Input((30,)), layers.Dense(20, name="adapted")])
    model.layers[0].enable_lora(4)
    before = array(model.layers[0].lora_kernel_a)
    winit.initialize(model, scheme, seed=0)
    np.testing.assert_array_equal(array(model.layers[0].lora_kernel_a), before)
