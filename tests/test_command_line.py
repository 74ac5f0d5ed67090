"""The command line, as a user runs it."""

import contextlib
import importlib
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import BACKEND, run_python

import keras_winit as winit
from keras_winit.__main__ import main
from keras_winit.schemes import scheme_class


def test_schemes_lists_every_name_formula_and_source(capsys):
    assert main(["schemes"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for name in winit.names():
        scheme = scheme_class(name)
        assert f"winit>{name} " in printed
        # A long cell is folded over lines; its beginning is on the first.
        assert scheme.formula.split(" ")[0] in printed
        assert scheme.source.split(" ")[0] in printed
        for alias in scheme.aliases:
            assert alias in printed


def test_recommend(capsys):
    assert main(["recommend", "gelu"]) == 0
    assert capsys.readouterr().out.strip() == str(winit.recommend("gelu"))
    assert main(["recommend", "gelu", "--method", "exact", "--distribution", "normal"]) == 0
    assert "variance_scaling" in capsys.readouterr().out


def test_unknown_names_exit_2_with_a_suggestion(capsys):
    assert main(["recommend", "reul"]) == 2
    printed = capsys.readouterr()
    assert 'Did you mean "relu"' in printed.err
    assert not printed.out


@pytest.mark.parametrize(
    "arguments", [[], ["no-such-command"], ["recommend"], ["recommend", "relu", "--method", "x"]]
)
def test_misuse_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == winit.__version__


def test_a_file_that_is_no_archive_is_said_to_be_none(tmp_path, capsys):
    path = tmp_path / "text.keras"
    path.write_text("hello", "utf-8")
    assert main(["trace", str(path)]) == 2
    assert "is a zip archive, and this is none" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["nonsense", "numpy"])
@pytest.mark.parametrize("arguments", [("-m", "keras_winit", "schemes"), ("-c", "import keras_winit")])
def test_a_missing_backend_is_one_clear_error(arguments, backend):
    finished = run_python(*arguments, KERAS_BACKEND=backend)
    said = finished.stderr.strip().splitlines()
    assert f"The backend '{backend}' of KERAS_BACKEND cannot be used" in said[-1]
    assert 'pip install "keras-winit[tensorflow]"' in said[-1]
    assert (finished.returncode, len(said)) == (2, 1) if "-m" in arguments else finished.returncode == 1


def test_each_command_says_what_it_does(capsys):
    for command in ("schemes", "recipes", "recommend", "trace", "branches", "compare", "demo"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        described = capsys.readouterr().out.split("\n\n")[1]
        assert described.endswith("."), command


def test_demo_needs_an_epoch(capsys):
    assert main(["demo", "--epochs", "0"]) == 2
    assert "`epochs` must be at least 1" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.skipif(BACKEND != "tensorflow", reason="the demo's figures are claimed for TensorFlow")
def test_demo_in_a_process_of_its_own(tmp_path):
    path = tmp_path / "better.keras"
    finished = run_python("-m", "keras_winit", "demo", "--save", str(path), TF_CPP_MIN_LOG_LEVEL=None)
    assert finished.returncode == 0, finished.stderr[-3000:]
    rows = [line.split() for line in finished.stdout.splitlines() if "%" in line]
    default, ours = (float(next(cell for cell in row if "%" in cell).rstrip("%")) for row in rows)
    assert ours > 85
    assert default < 50
    assert "its predictions are equal" in finished.stdout
    assert path.exists()
    # Nothing of TensorFlow's log, and a pipe gets no progress bar.
    assert not finished.stderr.strip()
    assert "━" not in finished.stdout + finished.stderr


def saved(folder, ending="keras"):
    hidden = keras.layers.Dense(5, "relu", kernel_initializer="winit>he_normal")
    model = keras.Sequential([keras.Input((6,)), hidden, keras.layers.Dense(2)])
    model.compile("adam", keras.losses.MeanSquaredError())
    path = folder / f"model.{ending}"
    model.save(path)
    return model, path


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_initialize_and_portable(ending, tmp_path, capsys):
    model, path = saved(tmp_path, ending)
    out = tmp_path / f"out.{ending}"
    assert main(["initialize", str(path), str(out), "--scheme", "orthogonal", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert "orthogonal" in printed
    assert "seed 3" in printed
    assert printed.endswith(f"Written to {out}.\n")
    winit.initialize(model, "orthogonal", seed=3)
    found = keras.models.load_model(out)
    for one, other in zip(found.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert type(found.layers[0].kernel_initializer) is winit.Orthogonal
    # In place, and without this package afterwards.
    assert main(["portable", str(out), str(out)]) == 0
    again = keras.models.load_model(out)
    assert type(again.layers[0].kernel_initializer) is keras.initializers.Orthogonal
    for one, other in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.compiled
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted([path.name, out.name])


def test_the_file_to_write_may_stand_behind_an_option(tmp_path, capsys):
    path, out = str(saved(tmp_path)[1]), tmp_path / "out.keras"
    assert main(["initialize", path, "--seed", "3", str(out)]) == 0
    assert out.exists()
    assert main(["initialize", path, "--seed", "3", "--", str(out)]) == 0
    with pytest.raises(SystemExit):
        main(["initialize", path, "--seed", "3", str(out), "more.keras"])
    assert f"unrecognized arguments: {out} more.keras" in capsys.readouterr().err


def test_an_h5_file_whose_loss_keras_cannot_read(tmp_path):
    model, path = saved(tmp_path, "h5")
    model.compile("adam", "mse")  # Keras writes this so that it cannot load it itself
    model.save(path)
    with pytest.warns(UserWarning, match="compile state .* is left out"):
        assert main(["portable", str(path), str(tmp_path / "out.h5")]) == 0
    for one, other in zip(
        keras.models.load_model(tmp_path / "out.h5").get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_file_is_written_only_where_one_is_named(tmp_path, capsys):
    _, path = saved(tmp_path)
    before = path.read_bytes()
    assert main(["initialize", str(path)]) == 2
    assert "--dry-run" in capsys.readouterr().err
    assert main(["initialize", str(path), "--dry-run"]) == 0
    assert "would be drawn" in capsys.readouterr().out
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_a_compiled_model_that_was_not_trained_is_read_in_silence(tmp_path, recwarn):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("adam", "mse")
    model.save(tmp_path / "model.keras")
    assert main(["initialize", str(tmp_path / "model.keras"), "--dry-run"]) == 0
    assert not [warning for warning in recwarn if "optimizer" in str(warning.message)]


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    _, path = saved(tmp_path)
    assert main(["initialize", str(path), str(tmp_path / "out.keras"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "would be drawn" in printed
    assert "Written" not in printed
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["initialize", "{path}", "{folder}/out.txt"], "ends in .keras or .h5"),
        (["initialize", "{folder}/none.keras", "{folder}/out.keras"], "There is no file"),
        (["initialize", "{path}", "{folder}/no/out.keras"], "There is no folder"),
        (["initialize", "{path}", "{folder}/out.keras", "--scheme", "he_norml"], 'Did you mean "he_normal"'),
        (["portable", "{broken}", "{folder}/out.keras"], "Keras cannot load"),
        (["portable", "{path}", "{folder}/out"], "ends in .keras or .h5"),
    ],
)
def test_model_commands_exit_2_and_write_nothing(arguments, message, tmp_path, capsys):
    _, path = saved(tmp_path)
    broken = tmp_path / "broken.keras"
    broken.write_bytes(path.read_bytes()[:100])
    before = sorted(item.name for item in tmp_path.iterdir())
    filled = [part.format(path=path, folder=tmp_path, broken=broken) for part in arguments]
    assert main(filled) == 2
    assert message in capsys.readouterr().err
    assert sorted(item.name for item in tmp_path.iterdir()) == before


def test_a_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    _, path = saved(tmp_path)
    old = path.read_bytes()

    def fail(self, target):
        with open(target, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Sequential, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        main(["initialize", str(path), str(path)])
    assert path.read_bytes() == old
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def batch_files(folder, count=20):
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(count, 6)).astype("float32"))
    np.save(folder / "y.npy", np.ones((count, 2)))
    (folder / "text.npy").write_text("1, 2, 3")
    return str(folder / "x.npy"), str(folder / "y.npy")


def test_diagnose_exits_with_the_health(tmp_path, capsys):
    model, path = saved(tmp_path)
    data, labels = batch_files(tmp_path)
    assert main(["diagnose", str(path)]) == 0
    assert "healthy: 0 errors, " in capsys.readouterr().out
    plot = tmp_path / "out.png"
    given = ["--data", data, "--labels", labels, "--loss", "mse"]
    assert main(["diagnose", str(path), "--json", *given, "--plot", str(plot)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert report["loss"] > 0
    assert report["batch"] == "20 samples of the data"
    assert plot.read_bytes()[:4] == b"\x89PNG"
    model.layers[0].kernel.assign(np.zeros((6, 5)))
    model.save(path)
    assert main(["diagnose", str(path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    assert report["findings"][0]["code"] == "zero"


def test_calibrate_writes_a_calibrated_model(tmp_path, capsys):
    model, path = saved(tmp_path)
    data, _ = batch_files(tmp_path)
    out = tmp_path / "out.keras"
    assert main(["calibrate", str(path), str(out), "--data", data, "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert "2 kernels rescaled" in printed
    assert printed.endswith(f"Written to {out}.\n")
    found = keras.models.load_model(out)
    winit.calibrate(model, np.load(data), seed=3)
    for one, other in zip(found.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["diagnose", "{folder}/none.keras"], "There is no file"),
        (["diagnose", "{path}", "--data", "{folder}/none.npy"], "There is no file"),
        (["diagnose", "{path}", "--data", "{path}"], "ends in .npy or .npz"),
        (["diagnose", "{path}", "--data", "{folder}/text.npy"], "numpy cannot read"),
        (["diagnose", "{path}", "--data", "{folder}/y.npy"], "cannot be called"),
        (["diagnose", "{path}", "--plot", "{folder}/out.txt"], "A plot ends in"),
        (["diagnose", "{path}", "--plot", "{folder}/no/out.png"], "There is no folder"),
        (["diagnose", "{path}", "--labels", "{folder}/y.npy"], "without `data`"),
        (["diagnose", "{path}", "--data", "{folder}/x.npy", "--loss", "mse"], "needs `labels`"),
        (["calibrate", "{path}", "{folder}/out.keras", "--data", "{folder}/y.npy"], "cannot be called"),
        (["calibrate", "{path}", "{folder}/out.keras", "--target-std", "0"], "target_std"),
        (["calibrate", "{path}", "{folder}/out.keras", "--scheme", "he_norml"], "Did you mean"),
    ],
)
def test_what_cannot_run_exits_2_and_writes_nothing(arguments, message, tmp_path, capsys):
    _, path = saved(tmp_path)
    batch_files(tmp_path)
    before = sorted(item.name for item in tmp_path.iterdir())
    assert main([part.format(path=path, folder=tmp_path) for part in arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert not printed.out
    assert sorted(item.name for item in tmp_path.iterdir()) == before


@pytest.mark.long
def test_bars_are_for_terminals(tmp_path):
    """A pseudo-terminal on standard error gets a bar; a pipe, as that of the demo above, gets nothing."""
    pty = pytest.importorskip("pty")
    _, path = saved(tmp_path)
    command = [sys.executable, "-m", "keras_winit", "diagnose", str(path)]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while piece := os.read(ours, 4096):
            shown += piece
    assert running.wait() == 0
    assert b"diagnosing" in shown
    assert "━".encode() in shown
    assert "━" not in running.stdout.read().decode()


once = pytest.mark.skipif(BACKEND != "tensorflow", reason="the same on every backend, and slow")

LAYERS = """
import keras

@keras.saving.register_keras_serializable("theirs")
class Doubled(keras.layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(name="w", shape=(shape[-1], 3))

    def call(self, x):
        return 2 * keras.ops.matmul(x, self.w)
"""


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """The current folder, with a model whose layer is defined in a module that nobody has imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_layers.py").write_text(LAYERS)
    known = dict(keras.saving.get_custom_objects())

    def forget():
        sys.modules.pop("my_layers", None)
        keras.saving.get_custom_objects().clear()
        keras.saving.get_custom_objects().update(known)

    layer = importlib.import_module("my_layers").Doubled()
    keras.Sequential([keras.Input((4,)), layer]).save("model.keras")
    forget()
    yield tmp_path
    forget()


@pytest.mark.parametrize("module", ["my_layers", "my_layers.py", "{folder}/my_layers.py"])
def test_a_models_own_layers_are_imported(module, theirs, capsys):
    assert main(["trace", "model.keras", "--import", module.format(folder=theirs)]) == 0
    assert "Matmul" in capsys.readouterr().out


@pytest.mark.long
@once
def test_an_unknown_class_is_named_in_three_lines_at_most(theirs):
    command = [sys.executable, "-m", "keras_winit", "initialize", "model.keras", "--dry-run"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert len(finished.stderr.splitlines()) <= 3
    said = [line for line in finished.stderr.splitlines() if line.startswith("keras-winit")]
    assert len(said) == 1
    assert "Doubled" in said[0]
    assert "--import" in said[0]
    assert len(said[0]) < 300


@pytest.mark.parametrize(
    ("module", "message"), [("no_such_module", "cannot be imported"), ("no_such.py", "There is no file")]
)
def test_a_module_that_is_not_there_is_named(module, message, theirs, capsys):
    assert main(["trace", "model.keras", "--import", module]) == 2
    said = capsys.readouterr().err
    assert module in said
    assert message in said


def test_a_trace_as_json(tmp_path, capsys):
    _, path = saved(tmp_path)
    assert main(["trace", str(path), "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert steps[-1]["note"] == "→ output"


def test_compare_prints_a_table_and_writes_the_winner(tmp_path, capsys):
    model, path = saved(tmp_path)
    data, labels = batch_files(tmp_path)
    given = ["compare", str(path), "--data", data, "--labels", labels, "--steps", "2", "--seed", "3"]
    before = path.read_bytes()
    plot = tmp_path / "out.png"
    assert main([*given, "--schemes", "zeros,torch", "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    assert "wins, last loss" in printed
    assert "Written" not in printed
    assert plot.read_bytes()[:4] == b"\x89PNG"
    assert path.read_bytes() == before
    out = tmp_path / "out.keras"
    options = ["--schemes", "zeros, torch", "--learning-rates", "0.01,0.02", "--json", "--batch-size", "4"]
    assert main([given[0], given[1], str(out), *given[2:], *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["batch"] == "4 samples"
    best = found["trials"][found["winner"]]
    assert f"drawn with {best['start']}" in found["applied"]
    written = keras.models.load_model(out)
    winit.initialize(model, best["start"], seed=3)
    for one, other in zip(written.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    rate = keras.ops.convert_to_numpy(written.optimizer.learning_rate)
    assert float(rate) == pytest.approx(best["learning_rate"])


def test_where_every_start_diverges_nothing_is_written(tmp_path, capsys):
    _, path = saved(tmp_path)
    data, labels = batch_files(tmp_path)
    np.save(labels, np.full((20, 2), 1e25))  # whose square is infinite
    out = tmp_path / "out.keras"
    given = ["--data", data, "--labels", labels, "--steps", "2", "--schemes", "torch"]
    assert main(["compare", str(path), str(out), *given]) == 1
    assert "no start came to the end" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--schemes", "torhc"], "Did you mean"),
        (["--steps", "0"], "`steps` must be at least 1"),
        (["--learning-rates", "-1"], "must be greater than 0"),
        (["--labels", "{folder}/none.npy"], "There is no file"),
        (["--plot", "{folder}/out.txt"], "A plot ends in"),
    ],
)
def test_a_comparison_that_cannot_run_exits_2(options, message, tmp_path, capsys):
    _, path = saved(tmp_path)
    data, labels = batch_files(tmp_path)
    given = [part.format(folder=tmp_path) for part in options]
    assert main(["compare", str(path), "--data", data, "--labels", labels, *given]) == 2
    assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["compare", str(path), "--data", data, "--learning-rates", "fast"])
    assert "numbers with commas between" in capsys.readouterr().err


def test_recipes_are_listed(capsys):
    assert main(["recipes"]) == 0
    assert capsys.readouterr().out.strip() == str(winit.recipes()).strip()


def test_branches_of_a_saved_model(tmp_path, capsys):
    path = str(tmp_path / "model.keras")
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(5, "relu")(inputs)
    keras.Model(inputs, inputs + keras.layers.Dense(6, name="last")(hidden)).save(path)
    assert main(["branches", path]) == 0
    assert "last/kernel" in capsys.readouterr().out
    assert main(["branches", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["branches"][0]["kind"] == "plain"
    assert main(["initialize", path, path, "--scheme", "gpt2", "--seed", "1"]) == 0
    assert "gpt2: last kernel of branch 1 of 1" in " ".join(capsys.readouterr().out.split())
