"""Beside the packages that people use Keras with: pip install ".[test,packages]" && pytest -m packages"""

import importlib.util

import keras
import numpy as np
import pytest
from helpers import array
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import keras_winit as winit

pytestmark = pytest.mark.packages


def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f'{package} is not here: pip install ".[packages]"')


SIZES = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16}
TEXT = {"vocabulary_size": 100, "max_sequence_length": 24, "intermediate_dim": 40}
# Backbones of keras-hub with random weights, and the number of kernels and embeddings in each. Positions
# that BERT and GPT-2 add are neither: a ViT looks its own up.
BACKBONES = {
    "BertBackbone": ({**SIZES, **TEXT}, 15),
    "GPT2Backbone": ({**SIZES, **TEXT}, 13),
    "ViTBackbone": ({**SIZES, "image_shape": (32, 32, 3), "patch_size": 8, "mlp_dim": 40}, 14),
}


def backbone(name):
    import keras_hub

    keras.utils.set_random_seed(0)
    return getattr(keras_hub.models, name)(**BACKBONES[name][0])


def example(model):
    rng = np.random.default_rng(0)
    if not isinstance(model.input, dict):
        return rng.normal(size=(4, *model.input.shape[1:])).astype("float32")
    tokens = rng.integers(0, 100, (4, 12))
    given = {"token_ids": tokens, "segment_ids": tokens * 0, "padding_mask": np.ones_like(tokens)}
    return {name: given[name] for name in model.input}


def outputs(model):
    return [array(tensor) for tensor in keras.tree.flatten(model(example(model)))]


def assert_same_outputs(one, other):
    for a, b in zip(outputs(one), outputs(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@needs("keras_hub")
@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_is_drawn_calibrated_and_found_healthy(name):
    model, count = backbone(name), BACKBONES[name][1]
    plan = winit.initialize(model, seed=0)
    drawn = [row for row in plan.drawn if row.role in ("kernel", "embedding")]
    assert len(drawn) == count
    assert len({row.seed for row in drawn}) == count
    # By the fans of its einsum, and not by those of a shape of three axes.
    query = next(row for row in drawn if row.path.endswith("query/kernel"))
    assert query.fans == (16, 16)
    calibration = winit.calibrate(model, example(model), seed=0, progress=False)
    left = {"an embedding: it has the size that its scheme gives it"}
    assert {row.reason for row in calibration.skipped} <= left
    assert len(calibration.calibrated) + len(calibration.skipped) == count
    report = winit.diagnose(model, example(model))
    assert report.ok, report.findings


@needs("keras_hub")
@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_reloads_and_is_portable(name, tmp_path):
    model = backbone(name)
    winit.initialize(model, seed=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert_same_outputs(model, again)  # keras-hub's own configuration: it holds no initializers
    copy = winit.portable(model)
    assert_same_outputs(model, copy)


@needs("keras_tuner")
def test_a_tuner_chooses_among_all_names(tmp_path):
    import keras_tuner

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    # All that can draw a matrix as it is.
    usable = [name for name in winit.names() if winit.get(name).ranks[1] != 2 and _draws_a_matrix(name)]
    assert len(usable) > 20

    def build(hp):
        scheme = hp.Choice("scheme", usable)
        model = keras.Sequential(
            [
                keras.Input((64,)),
                layers.Dense(32, "relu", kernel_initializer=f"winit>{scheme}"),
                layers.Dense(10, kernel_initializer=f"winit>{scheme}"),
            ]
        )
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    tuner = keras_tuner.GridSearch(build, "val_loss", directory=tmp_path, project_name="schemes")
    tuner.search(x[:256], y[:256], validation_data=(x[256:512], y[256:512]), epochs=1, verbose=0)
    trials = tuner.oracle.trials.values()
    assert {trial.hyperparameters["scheme"] for trial in trials} == set(usable)
    failed = {
        trial.hyperparameters["scheme"]: trial.message for trial in trials if trial.status != "COMPLETED"
    }
    assert not failed
    best = tuner.get_best_hyperparameters()[0]["scheme"]
    assert best not in ("zeros", "ones", "constant")
    reloaded = tuner.get_best_models()[0]
    assert reloaded.layers[0].kernel_initializer.name == best


def _draws_a_matrix(name):
    try:
        return tuple(winit.get(name)((32, 10)).shape) == (32, 10)
    except ValueError:
        return False


def network(X, y, scheme="winit>he_uniform"):  # noqa: N803 - the wrapper passes X by name
    model = keras.Sequential(
        [
            keras.Input((X.shape[1],)),
            layers.Dense(32, "relu", kernel_initializer=scheme),
            layers.Dense(y.shape[1], "softmax", kernel_initializer=winit.for_activation("softmax")),
        ]
    )
    winit.calibrate(model, X, scheme="keep", seed=0, progress=False)
    model.compile("adam", "categorical_crossentropy")
    return model


@pytest.mark.parametrize("scheme", ["winit>he_uniform", winit.Orthogonal(seed=3)])
def test_a_scikit_learn_pipeline(scheme):
    x, y = load_digits(return_X_y=True)
    wrapped = keras.wrappers.SKLearnClassifier(network, model_kwargs={"scheme": scheme})
    pipeline = make_pipeline(StandardScaler(), wrapped)
    options = {"sklearnclassifier__epochs": 20, "sklearnclassifier__verbose": 0}
    scores = cross_val_score(pipeline, x[:900].astype("float32"), y[:900], cv=3, params=options)
    assert scores.mean() > 0.85
