"""Models of keras-hub, made of its own layers: pip install ".[test,packages]" && pytest -m packages"""

import re

import keras
import numpy as np
import pytest
from helpers import array, std_tolerance
from keras import ops
from test_reset import left_trained

import keras_winit as winit

pytestmark = pytest.mark.packages
keras_hub = pytest.importorskip("keras_hub", reason='pip install ".[packages]"')

SIZES = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16}
TEXT = {"vocabulary_size": 50, "intermediate_dim": 32}


def llama():
    heads = {"num_query_heads": 4, "num_key_value_heads": 2}
    return keras_hub.models.LlamaBackbone(num_layers=2, hidden_dim=16, **heads, **TEXT)


def whisper():
    lengths = {"max_encoder_sequence_length": 32, "max_decoder_sequence_length": 16}
    return keras_hub.models.WhisperBackbone(**SIZES, **TEXT, **lengths)


def mmdit():
    """The transformer of Stable Diffusion 3."""
    from keras_hub.src.models.stable_diffusion_3.mmdit import MMDiT

    shapes = {"latent_shape": (8, 8, 4), "context_shape": (6, 12), "pooled_projection_shape": (10,)}
    return MMDiT(patch_size=2, position_size=8, **SIZES, **shapes)


MODELS = {
    "bert": lambda: keras_hub.models.BertBackbone(**SIZES, **TEXT, max_sequence_length=12),
    "gpt2": lambda: keras_hub.models.GPT2Backbone(**SIZES, **TEXT, max_sequence_length=16),
    "llama": llama,
    "llama for text": lambda: keras_hub.models.LlamaCausalLM(backbone=llama()),
    "t5": lambda: keras_hub.models.T5Backbone(**SIZES, **TEXT),
    "t5 gated": lambda: keras_hub.models.T5Backbone(**SIZES, **TEXT, use_gated_activation=True),
    "vit": lambda: keras_hub.models.ViTBackbone((32, 32, 3), 8, 2, 2, 16, 32),
    "whisper": whisper,
    "mmdit": mmdit,
}


@pytest.fixture(params=MODELS)
def model(request):
    keras.utils.set_random_seed(0)
    return MODELS[request.param]()


def test_it_is_traced_to_the_last_operation(model):
    trace = winit.trace(model)
    assert trace.reason is None
    assert not trace.opaque
    called = {step.operation for step in trace.steps if step.in_layer}
    # What has weights, and no layers inside, is a step; or its operations are.
    for layer in model._flatten_layers():
        inner = layer._flatten_layers(include_self=False, recursive=False)
        if layer.weights and not inner:
            assert layer in called or trace.is_open(layer), layer.path


@pytest.mark.parametrize("scheme", ["configured", "auto"])
def test_no_trained_weight_is_left(model, scheme):
    assert left_trained(model, scheme) == []


def test_every_weight_has_a_use(model):
    plan = winit.initialize(model, seed=1, dry_run=True)
    reasons = {row.reason for row in plan.kept}
    assert reasons <= {"frozen"}
    assert not [row for row in plan.rows if "not seen" in row.reason]


def test_the_same_seed_gives_the_same_weights():
    one, other = MODELS["t5"](), MODELS["t5"]()
    for each in (one, other):
        winit.initialize(each, seed=5)
    for variable, twin in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(array(variable.value), array(twin.value))


def test_a_gate_has_its_activation_and_a_norm_its_start():
    model = llama()
    left_trained(model, "auto")
    rows = {row.path: row for row in winit.initialize(model, dry_run=True).rows}
    block = "transformer_layer_0/"
    gate = rows[block + "feedforward_gate_dense/kernel"]
    assert (gate.activation, gate.reason) == ("silu", "silu follows, in a chain of fewer than 10 kernels")
    assert rows[block + "feedforward_intermediate_dense/kernel"].activation == "linear"
    scale = rows[block + "self_attention_layernorm/scale"]
    assert (scale.role, scale.scheme, scale.reason) == ("gain", "Ones", "its initial value")
    layer = model.get_layer("transformer_layer_0")._self_attention_layernorm
    np.testing.assert_array_equal(array(layer.scale.value), np.ones(16))


def test_llama_is_calibrated_and_found_healthy():
    model = llama()
    tokens = np.random.default_rng(0).integers(0, 50, (16, 12))
    data = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    calibration = winit.calibrate(model, data, seed=0, progress=False)
    assert len(calibration.calibrated) == 7 * 2
    assert {row.path.split("/")[0] for row in calibration.skipped} == {"token_embedding"}
    assert not calibration.unknown
    report = winit.diagnose(model, data)
    assert report.ok, report.findings
    assert all(np.isfinite(array(ops.mean(output))) for output in keras.tree.flatten(model(data)))


# How many branches there are, their kind, the kernels of each in a layer, the streams, and what the layers of
# the last kernels are called.
BRANCHES = {
    "bert": (4, "post-norm", [4, 2], 1, "attention_output|feedforward_output"),
    "gpt2": (4, "pre-norm", [4, 2], 1, "attention_output|feedforward_output"),
    "llama": (4, "pre-norm", [4, 3], 1, "attention_output|feedforward_output"),
    "vit": (4, "pre-norm", [4, 2], 1, "attention_output|dense_2"),
    "t5": (10, "pre-norm", [4, 3], 2, "output_projector"),
    "t5 gated": (10, "pre-norm", [4, 3], 2, "output_projector"),
    "whisper": (10, "pre-norm", [4, 2], 2, "attention_output|feedforward_output"),
    "mmdit": (6, "pre-norm", [4, 2], 2, "attention_proj|dense2"),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_its_branches_are_found(name):
    count, kind, kernels, streams, last = BRANCHES[name]
    found = winit.branches(MODELS[name]())
    assert len(found) == count
    assert {branch.kind for branch in found} == {kind}
    assert {len(branch.kernels) for branch in found} == set(kernels)
    assert max(branch.stream for branch in found) == streams
    for branch in found:
        assert len(branch.last) == 1
        assert re.search(last, branch.last[0].path)
    assert all(each.reason for each in found.others)


def spread(model, pattern):
    """The deviation over all weights whose path matches, and how many numbers that is."""
    weights = [array(v).ravel() for v in model.trainable_variables if re.search(pattern, v.path)]
    assert weights, pattern
    numbers = np.concatenate(weights)
    return numbers.std(), numbers.size


RECIPES = [
    ("gpt2", "gpt2", {"(query|key|value|intermediate_dense)/kernel": 0.02, "embedding": 0.02}),
    ("gpt2", "gpt2", {"(attention_output|feedforward_output_dense)/kernel": 0.02 / 2}),
    ("gpt2", "llama", {"(attention_output|feedforward_output_dense)/kernel": 0.02 / 2}),
    ("bert", "bert", {"kernel|embedding/": 0.02 * 0.8796256610342398}),
    ("t5", "t5 gated", {"query_projector": (16 * 8) ** -0.5, "(key|value)_projector": 0.25}),
    ("t5", "t5 gated", {"/output_projector": None, "token_embedding": 1.0}),
    ("deepnorm", "bert", {"(query|key)/kernel": 0.25, "value/kernel": 0.25 * 16**-0.25}),
    ("small_wang", "gpt2", {"attention_output/kernel": 2 / (2 * 4), "query/kernel": (2 / 80) ** 0.5}),
]


@pytest.mark.parametrize(("recipe", "name", "expected"), RECIPES)
def test_a_recipe_draws_its_numbers(recipe, name, expected):
    model = MODELS[name]()
    winit.initialize(model, recipe, seed=0)
    for pattern, std in expected.items():
        if std is not None:
            found, count = spread(model, pattern)
            assert found == pytest.approx(std, rel=std_tolerance("normal", count)), pattern


def test_vit_follows_its_recipe():
    model = MODELS["vit"]()
    winit.initialize(model, "vit", seed=0)
    found, count = spread(model, "mha/.*kernel")
    assert found == pytest.approx((2 / 32) ** 0.5, rel=std_tolerance("uniform", count))
    found, count = spread(model, "mlp/.*kernel")
    assert found == pytest.approx((2 / 48) ** 0.5, rel=std_tolerance("uniform", count))
    assert not spread(model, "class_token")[0]
    assert 0 < spread(model, "mlp/.*bias")[0] < 2e-6


PROJECTIONS = {
    "bert": "self_attention_layer/",
    "llama": "self_attention/",
    "t5": "self_attention/",
    "vit": "mha/",
}


@pytest.mark.parametrize("scheme", ["auto", "configured", "glorot_normal", "torch"])
@pytest.mark.parametrize("name", PROJECTIONS)
def test_projections_of_attention_never_share_their_draws(name, scheme):
    model = MODELS[name]()
    winit.initialize(model, scheme, seed=0)
    kernels = [v for v in model.trainable_variables if PROJECTIONS[name] in v.path and "kernel" in v.path]
    kernels = [array(v).ravel() for v in kernels if "norm" not in v.path]
    assert len(kernels) >= 8
    for index, one in enumerate(kernels):
        for other in kernels[:index]:
            few = min(one.size, other.size)
            assert abs(np.corrcoef(one[:few], other[:few])[0, 1]) < 6 / few**0.5
