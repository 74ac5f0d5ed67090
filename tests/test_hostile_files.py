"""Model files damaged or made by an enemy, and full disks: status 2, one line, nothing changed."""

import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import run_python, since
from hostile import _FOREIGN, EFFORT, hunting, words
from hypothesis import given
from hypothesis import strategies as st

import keras_winit as winit
from keras_winit.__main__ import main

COMMANDS = {
    "initialize": ["initialize", "{path}", "{out}", "--seed", "0"],
    "in place": ["initialize", "{path}", "{path}", "--seed", "0"],
    "calibrate": ["calibrate", "{path}", "{out}", "--seed", "0"],
    "portable": ["portable", "{path}", "{out}"],
    "diagnose": ["diagnose", "{path}"],
    "plot": ["diagnose", "{path}", "--plot", "{plot}"],
}
commands = st.sampled_from(sorted(COMMANDS))


class Place:
    """A folder with a model file and the targets of every command, old files all of them."""

    def __init__(self, folder):
        self.folder = folder
        self.path, self.out, self.plot = folder / "model.keras", folder / "out.keras", folder / "out.png"
        hidden = keras.layers.Dense(5, "relu", kernel_initializer=winit.Scaled("he_normal"), name="hidden")
        # Larger than what a buffer holds.
        wide = keras.layers.Dense(3000, kernel_initializer="winit>he_normal", name="wide")
        model = keras.Sequential([keras.Input((6,)), hidden, wide])
        model.compile("sgd", keras.losses.MeanSquaredError())
        model.save(self.path)
        self.content = self.path.read_bytes()
        self.reset()

    def reset(self, content=None):
        self.path.write_bytes(self.content if content is None else content)
        for old in (self.out, self.plot):
            old.write_bytes(b"what was there")

    def now(self):
        return {item.name: item.read_bytes() for item in self.folder.iterdir() if item.is_file()}

    def run(self, command):
        """The status of a command; an error is one line, and leaves every file as it was."""
        before = self.now()
        filled = [part.format(path=self.path, out=self.out, plot=self.plot) for part in COMMANDS[command]]
        printed, complaint = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(complaint),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            status = main(filled)
        if status == 2:
            lines = complaint.getvalue().splitlines()
            assert len([line for line in lines if line.startswith("keras-winit ")]) == 1, lines
            assert not any("Traceback" in line for line in lines)
            assert lines[-1].startswith("keras-winit ")
            assert len(lines[-1]) < 1500
            assert lines[-1].isprintable()
            assert self.now() == before
        assert not [item for item in self.folder.iterdir() if item.name.startswith(".")]
        return status


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@EFFORT
def test_truncated_files(effort, place):
    @hunting(60, effort)
    @given(size=st.integers(0, len(place.content) - 1), command=commands)
    def attempt(size, command):
        place.reset(place.content[:size])
        assert place.run(command) == 2

    attempt()


@EFFORT
def test_files_with_flipped_bits(effort, place):
    assert place.run("initialize") == 0
    drawn = keras.models.load_model(place.out).get_weights()
    # Few bytes matter apart from the weights, whose sum is checked: look there more often.
    where = st.one_of(st.integers(0, len(place.content) - 1), st.integers(0, 3000), st.integers(-1500, -1))

    @hunting(60, effort)
    @given(flips=st.lists(st.tuples(where, st.integers(0, 7)), min_size=1, max_size=4), command=commands)
    def attempt(flips, command):
        content = bytearray(place.content)
        for byte, bit in flips:
            content[byte] ^= 1 << bit
        place.reset(bytes(content))
        status = place.run(command)
        assert status in (0, 1, 2)
        if command == "initialize" and status == 0:
            for one, other in zip(keras.models.load_model(place.out).get_weights(), drawn, strict=True):
                np.testing.assert_array_equal(one, other)

    attempt()


def test_bytes_that_are_no_model(place):
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", b" " * 2**28)
        archive.writestr("model.weights.h5", b"")
    for content in (b"", b"PK\x05\x06" + bytes(18), b"\x89HDF\r\n\x1a\n", os.urandom(1000), bomb.getvalue()):
        for command in COMMANDS:
            place.reset(content)
            assert place.run(command) == 2
    place.path.unlink()
    place.path.mkdir()
    assert place.run("initialize") == 2


def rewritten(content, where, value):
    """A .keras file with a value in a place of its configuration."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(result, "w") as new:
        for name in archive.namelist():
            member = archive.read(name)
            if name == "config.json":
                config = item = json.loads(member)
                for step in where[:-1]:
                    item = item[step]
                item[where[-1]] = value
                member = json.dumps(config)
            new.writestr(name, member)
    return result.getvalue()


HIDDEN = ("config", "layers", 1, "config")
SCHEME = (*HIDDEN, "kernel_initializer", "config")
PLACES = {
    "layer": ("config", "layers", 1),
    "initializer": (*HIDDEN, "kernel_initializer"),
    "bias initializer": (*HIDDEN, "bias_initializer"),
    "activation": (*HIDDEN, "activation"),
    "policy": (*HIDDEN, "dtype"),
    "seed": (*SCHEME, "seed"),
    "wrapped": (*SCHEME, "initializer"),
    "factor": (*SCHEME, "factor"),
    "loss": ("compile_config", "loss"),
    "optimizer": ("compile_config", "optimizer"),
}


def payloads(folder, mark):
    """Configurations that make a file if they are believed."""
    (folder / "planted.py").write_text(
        f"open({str(mark)!r}, 'w')\nclass Thing: from_config = open\ndef thing(x): pass\n"
    )
    shell, code = f"touch {mark}", f"open({str(mark)!r}, 'w')"
    lambda_ = keras.saving.serialize_keras_object(lambda *_, **__: Path("mark").touch())
    named = {"registered_name": None, "build_config": None}
    return {
        "os.system": {"class_name": "system", "module": "os", "config": shell, **named},
        "os.system called": {"class_name": "system", "module": "os", "config": {"command": shell}, **named},
        "a function": {
            "class_name": "function",
            "module": "os",
            "config": "system",
            "registered_name": "system",
        },
        "exec": {"class_name": "exec", "module": "builtins", "config": {"source": code}, **named},
        "Popen": {
            "class_name": "Popen",
            "module": "subprocess",
            "config": {"args": ["touch", str(mark)]},
            **named,
        },
        "a module": {"class_name": "Thing", "module": "planted", "config": {"file": str(mark)}, **named},
        "its function": {"class_name": "function", "module": "planted", "config": "thing", **named},
        "a lambda": lambda_,
        "a Lambda": {
            "class_name": "Lambda",
            "module": "keras.layers",
            "config": {"name": "x", "function": lambda_, "arguments": {}},
            **named,
        },
        "get_file": {
            "class_name": "function",
            "module": "keras.utils",
            "config": "get_file",
            "registered_name": "get_file",
        },
        "no such name": {
            "class_name": "X",
            "module": None,
            "config": {},
            "registered_name": "nobody>nothing",
        },
        "no such scheme": {
            "class_name": "winit>nonsense",
            "module": None,
            "config": {},
            "registered_name": "winit>nonsense",
        },
        "text": "winit>nonsense",
    }


@since(3, 12, "Keras itself looks up any of its functions")
@pytest.mark.parametrize("where", PLACES)
def test_foreign_classes_are_refused_and_not_run(where, place, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("enemy")
    mark = folder / "mark"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)
    for index, (name, payload) in enumerate(payloads(folder, mark).items()):
        place.reset(rewritten(place.content, PLACES[where], payload))
        command = sorted(COMMANDS)[index % len(COMMANDS)]
        status = place.run(command)
        # Keras looks the name of a loss up when it is first used.
        assert status == 2 or (where, name) == ("loss", "text"), (name, command)
        assert not mark.exists(), name
        assert "planted" not in sys.modules


def test_a_scheme_that_does_not_exist_is_named(place, capsys):
    for where in ("initializer", "wrapped"):
        place.reset(rewritten(place.content, PLACES[where], "winit>he_norml"))
        assert main(["initialize", str(place.path), str(place.out)]) == 2
        assert "he_norml" in capsys.readouterr().err


_odd = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    words,
    st.sampled_from([-1, 0, 10**400, 2**63, 10**18, [], {}, [[]], [None], "\x1b[2J", *_FOREIGN]),
)


@EFFORT
def test_configurations_with_anything_in_them(effort, place):
    with zipfile.ZipFile(place.path) as archive:
        config = json.loads(archive.read("config.json"))
    spots = []

    def walk(item, where):
        for key in item if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ():
            spots.append((*where, key))
            walk(item[key], spots[-1])

    walk(config, ())

    @hunting(80, effort)
    @given(spot=st.sampled_from(spots), value=_odd, command=commands)
    def attempt(spot, value, command):
        place.reset(rewritten(place.content, spot, value))
        assert place.run(command) in (0, 1, 2)

    attempt()


@pytest.mark.long
def test_a_damaged_file_in_a_process_of_its_own(place):
    place.reset(place.content[: len(place.content) // 2])
    finished = run_python("-m", "keras_winit", "initialize", str(place.path), str(place.out))
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr
    assert finished.stderr.splitlines()[-1].startswith("keras-winit initialize: Keras cannot load")
    assert place.out.read_bytes() == b"what was there"


@contextlib.contextmanager
def no_file_larger_than(size):
    """What a full disk is: a write that is taken in part, or refused."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@EFFORT
def test_a_full_disk_leaves_the_old_file(effort, place):
    assert place.run("initialize") == 0
    whole = place.out.stat().st_size

    @hunting(25, effort)
    @given(
        size=st.one_of(st.integers(0, 300), st.integers(0, whole * 9 // 10)),
        command=st.sampled_from(["initialize", "in place", "calibrate", "portable", "plot"]),
    )
    def attempt(size, command):
        place.reset()
        size = min(size, 9000) if command == "plot" else size
        with no_file_larger_than(size):
            assert place.run(command) == 2

    attempt()
    place.reset()
    assert place.run("in place") == 0


@pytest.mark.parametrize("command", ["initialize", "in place", "calibrate", "portable", "plot"])
def test_targets_that_cannot_be_written(command, place, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(30, "Read-only file system")

    for name in ("os.replace", "os.mkdir"):
        with monkeypatch.context() as patched:
            patched.setattr(name, refuse)
            assert place.run(command) == 2
    with monkeypatch.context() as patched:
        patched.setattr(
            keras.Sequential, "save", lambda *_: (_ for _ in ()).throw(RuntimeError("of a library"))
        )
        assert place.run(command) == 2 or command == "plot"
    if command != "in place":
        for target in (place.out, place.plot):
            target.unlink()
            target.mkdir()
        assert place.run(command) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not hold for root")
def test_a_folder_that_is_read_only(place):
    place.folder.chmod(0o555)
    try:
        for command in ("initialize", "in place", "calibrate", "portable", "plot"):
            assert place.run(command) == 2
    finally:
        place.folder.chmod(0o755)


def test_a_written_file_has_the_permissions_of_the_old_one(place):
    place.out.chmod(0o640)
    assert place.run("initialize") == 0
    assert place.out.stat().st_mode & 0o777 == 0o640
    place.out.unlink()
    assert place.run("initialize") == 0
    assert place.out.stat().st_mode & 0o777 == place.path.stat().st_mode & 0o777


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_an_output_that_takes_nothing():
    command = [sys.executable, "-m", "keras_winit", "recommend", "relu"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        finished = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, check=False)
    assert finished.returncode == 2
    assert b"Traceback" not in finished.stderr
    assert b"cannot be written to standard output" in finished.stderr.splitlines()[-1]
