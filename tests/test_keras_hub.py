"""Models of keras-hub, made of its own layers: pip install ".[test,packages]" && pytest -m packages"""

import keras
import numpy as np
import pytest
from helpers import array
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
