"""The command line, as a user runs it."""

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


def test_demo_needs_an_epoch(capsys):
    assert main(["demo", "--epochs", "0"]) == 2
    assert "`epochs` must be at least 1" in capsys.readouterr().err


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the demo's figures are claimed for TensorFlow")
def test_demo_in_a_process_of_its_own(tmp_path):
    path = tmp_path / "better.keras"
    finished = run_python("-m", "keras_winit", "demo", "--save", str(path))
    assert finished.returncode == 0, finished.stderr[-3000:]
    rows = [line.split() for line in finished.stdout.splitlines() if "%" in line]
    default, ours = (float(next(cell for cell in row if "%" in cell).rstrip("%")) for row in rows)
    assert ours > 85
    assert default < 50
    assert "its predictions are equal" in finished.stdout
    assert path.exists()
    # A pipe gets no progress bar.
    assert "━" not in finished.stdout + finished.stderr


def test_a_new_process_exits_with_the_status():
    assert run_python("-m", "keras_winit", "recommend", "reul").returncode == 2
