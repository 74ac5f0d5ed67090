"""Saved models come back in a new process with their initializers, from every format."""

import copy
import inspect
import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from cases import BY_NAME, home_initializer, home_model
from helpers import BACKEND, array, run_python, since
from reload import describe

import keras_winit as winit
from keras_winit.schemes import scheme_class

GOLDEN = Path(__file__).parent / "golden"
RELOAD = str(Path(__file__).parent / "reload.py")


def initializer(name):
    case = BY_NAME[name]
    seed = {"seed": 7} if "seed" in winit.get(name).get_config() else {}
    return winit.get(name, **case.arguments, **seed)


def in_a_new_process(paths):
    finished = run_python(RELOAD, *map(str, paths))
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout.split("JSON")[-1])


def assert_same(found, expected):
    assert found["class"] == expected["class"]
    # An argument that came later has its default; what was saved is as it was.
    arguments = inspect.signature(getattr(winit, expected["class"])).parameters
    later = {key: arguments[key].default for key in found["config"].keys() - expected["config"].keys()}
    assert found["config"] == {**later, **expected["config"]}
    np.testing.assert_allclose(found["outputs"], expected["outputs"], rtol=1e-4, atol=1e-5)


@since(3, 13, "layers refuse what a newer Keras writes of them")
@pytest.mark.long
def test_golden_files_of_every_scheme_load():
    expected = json.loads((GOLDEN / "expected.json").read_text())
    wanted = {f"{name}.{kind}" for name in winit.names() for kind in ("keras", "h5")}
    assert wanted <= set(expected), "run tests/golden/make.py for a new scheme"
    for name, found in zip(expected, in_a_new_process(GOLDEN / name for name in expected), strict=True):
        assert_same(found, expected[name])


def test_files_of_the_oldest_keras_load():
    folder = GOLDEN / "keras_3_10"
    for name, expected in json.loads((folder / "expected.json").read_text()).items():
        assert_same(describe(str(folder / name)), expected)


@since(3, 13, "layers refuse what a newer Keras writes of them")
@pytest.mark.parametrize("name", winit.names())
def test_golden_files_load_under_every_alias(name, tmp_path):
    """No file is written with an alias, but one made by hand, or by an older name, has to load."""
    cls = scheme_class(name)
    with zipfile.ZipFile(GOLDEN / f"{name}.keras") as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    expected = json.loads((GOLDEN / "expected.json").read_text())[f"{name}.keras"]
    for alias in (*cls.aliases, cls.__name__):
        path = tmp_path / f"{alias}.keras"
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members.items():
                archive.writestr(
                    member, content.replace(f'winit>{name}"'.encode(), f'winit>{alias}"'.encode())
                )
        assert f'winit>{alias}"'.encode() in zipfile.ZipFile(path).read("config.json")
        assert_same(describe(str(path)), expected)


@pytest.mark.long
def test_every_scheme_reloads_in_a_new_process(tmp_path):
    expected = {}
    for name in winit.names():
        for kind in ("keras", "h5"):
            path = tmp_path / f"{name}.{kind}"
            model = home_model(BY_NAME[name], initializer(name))
            assert type(home_initializer(BY_NAME[name], model)) is type(initializer(name))
            model.save(path)
            expected[path] = describe(str(path))
    for path, found in zip(expected, in_a_new_process(expected), strict=True):
        assert_same(found, expected[path])


@pytest.mark.parametrize("name", winit.names())
def test_json_clone_and_copy(name):
    case, original = BY_NAME[name], initializer(name)
    model = home_model(case, original)
    for again in (
        keras.models.model_from_json(model.to_json()),
        keras.models.clone_model(model),
        copy.deepcopy(model),
    ):
        revived = home_initializer(case, again)
        assert type(revived) is type(original)
        assert revived.get_config() == original.get_config()
    copied = copy.deepcopy(model)
    data = np.ones((2, *model.input_shape[1:]), "float32")
    np.testing.assert_allclose(array(copied(data)), array(model(data)), rtol=1e-5)


def test_a_generator_as_seed_survives_a_file(tmp_path):
    scheme = winit.HeNormal(seed=keras.random.SeedGenerator(3))
    model = home_model(BY_NAME["he_normal"], scheme)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras").get_layer("home").kernel_initializer
    assert isinstance(again.seed, keras.random.SeedGenerator)
    assert again.get_config() == scheme.get_config()


@pytest.mark.long
def test_a_file_without_the_import_says_what_is_missing(tmp_path):
    path = tmp_path / "model.keras"
    home_model(BY_NAME["he_normal"], "winit>he_normal").save(path)
    finished = run_python("-c", "import sys, keras; keras.models.load_model(sys.argv[1])", str(path))
    assert finished.returncode == 1
    assert "keras_winit" in finished.stderr


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the SavedModel format is TensorFlow's")
def test_export(tmp_path):
    import tensorflow as tf

    for name in ("he_uniform", "orthogonal", "icnr", "chrono_bias"):
        model = home_model(BY_NAME[name], initializer(name))
        model.export(tmp_path / name, verbose=False)
        data = np.ones((2, *model.input_shape[1:]), "float32")
        served = tf.saved_model.load(str(tmp_path / name))
        np.testing.assert_allclose(array(served.serve(data)), array(model(data)), rtol=1e-5)
