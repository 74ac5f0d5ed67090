"""The package as a whole: its layers, its imports, its weight, its docstrings."""

import ast
import doctest
import importlib
import inspect
import json
import pkgutil
from importlib import metadata
from pathlib import Path

import pytest
from helpers import BACKEND, run_python

import keras_winit as winit

ROOT = Path(winit.__file__).parent
MODULES = sorted(
    {"keras_winit", *(module.name for module in pkgutil.walk_packages(winit.__path__, "keras_winit."))}
)

# From the bottom up: a module imports only what stands before it, from its folder or from a lower one.
FOLDERS = {
    "support": "checks host exact losses loading terminal printing",
    "drawing": "seeds sharding jax_random tensorflow_random sampling scrambled orthonormal",
    "theory": "fans activations gains linearity",
    "schemes": "base registry basic variance_scheme variance orthogonal structured compose icnr bias "
    "looks_linear",
    "": "choose files listing plots",
    "models": "",
    "models.tracing": "kinds structure trace interception opening tracer",
    "models.anatomy": "contractions views passing uses layer_fans fresh slots anatomy normalizing ancestry "
    "following branch branches attention links",
    "models.running": "watching undo batch",
    "models.recipes": "recipe torch residual transformers mimetic",
    "models.initializing": "plan fitting mirroring sizes choosing initialize",
    "models.calibrating": "calibration targets centring rescaling composite one_pass calibrate",
    "models.comparing": "comparison putting_back training compare",
    "models.diagnosing": "findings report seen loss signals reading judging answering weights diagnose",
}
_INSIDE = [
    f"{folder}.{name}".strip(".")
    for folder, names in FOLDERS.items()
    for name in (*names.split(), *([""] if folder else []))
]
# The folder of models has modules beside its folders.
LAYERS = [*_INSIDE, "models.portable", "demo", "", "options", "__main__"]
LEVEL = {name: level for level, name in enumerate(LAYERS)}


def short(module):
    return module.removeprefix("keras_winit").removeprefix(".")


def imports(module):
    """The modules of this package that a module imports, names of modules resolved."""
    spec = importlib.util.find_spec(module)
    for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module in MODULES:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in inner if name in MODULES)
            if not all(name in MODULES for name in inner):
                yield node.module


def test_every_module_has_its_layer():
    assert {short(module) for module in MODULES} == set(LEVEL)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_only_downwards(module):
    for imported in imports(module):
        assert LEVEL[short(imported)] < LEVEL[short(module)], f"{module} imports {imported}"


@pytest.mark.parametrize("module", MODULES)
def test_doctests(module):
    if module in ("keras_winit.drawing.jax_random", "keras_winit.drawing.tensorflow_random"):
        pytest.importorskip("jax")
    loaded = importlib.import_module(module)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in finder.find(loaded, extraglobs=None):
        runner.run(test)
    assert runner.failures == 0


@pytest.mark.parametrize("name", winit.__all__)
def test_every_public_name_is_documented_with_an_example(name):
    text = inspect.getdoc(getattr(winit, name))
    assert text
    assert ">>>" in text, f"{name} has no example"
    assert "{" not in text.split("Example")[0], f"{name} has a placeholder left"


def test_runtime_dependencies_are_keras_and_numpy():
    needed = [need for need in metadata.requires("keras-winit") if "extra ==" not in need]
    assert sorted(need.split(">")[0].strip() for need in needed) == ["keras", "numpy"]
    extras = set(metadata.metadata("keras-winit").get_all("Provides-Extra"))
    assert extras == {"tensorflow", "jax", "torch", "plots", "demo", "test", "packages", "dev"}
    assert metadata.metadata("keras-winit")["License-Expression"] == "Apache-2.0"


def test_version_and_types():
    assert metadata.version("keras-winit") == winit.__version__
    assert (ROOT / "py.typed").exists()


IMPORTED = """
import json, sys
import keras
before = set(sys.modules)
import keras_winit
print("JSON" + json.dumps(sorted(set(sys.modules) - before)))
"""


once = pytest.mark.skipif(BACKEND != "tensorflow", reason="the same on every backend, and slow")


@pytest.mark.long
@once
def test_importing_brings_nothing_heavy():
    """What it costs is measured by tests/benchmarks/importing.py."""
    finished = run_python("-c", IMPORTED)
    assert finished.returncode == 0, finished.stderr[-2000:]
    modules = json.loads(finished.stdout.split("JSON")[1])
    heavy = {"rich.table", "matplotlib", "scipy", "sklearn"}
    assert not heavy & set(modules)


STRIPPED = """
import keras, sys
from importlib.machinery import SourceFileLoader

def compiled(self, data, path, *, _optimize=-1):
    return compile(data, path, "exec", dont_inherit=True, optimize=2)

def nothing_compiled_before(self, path):
    raise OSError(path)

SourceFileLoader.source_to_code = compiled
SourceFileLoader.path_stats = nothing_compiled_before
import keras_winit as w
print(w.HeUniform.__doc__, w.HeUniform(seed=1)((2, 3)).shape[0])
"""


@pytest.mark.long
@once
def test_it_survives_stripped_docstrings():
    """As by `python -OO`, which would also compile all of the backend anew."""
    finished = run_python("-c", STRIPPED)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.split() == ["None", "2"]
