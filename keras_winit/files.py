"""Model files: read with a clear error, written whole or not at all."""

import contextlib
import importlib
import importlib.util
import os
import re
import stat
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

_MOST_TEXT = 2**26  # bytes of a model's configuration; the largest have a few megabytes
_HEAD, _TAIL = 200, 400  # of a long message: Keras says last what it met first


def check_model_path(path: str) -> Path:
    """The path, if its ending is that of a model file."""
    if not path.endswith((".keras", ".h5")):
        raise ValueError(f"A model file ends in .keras or .h5. Received: {path!r}.")
    return Path(path)


def read_model(path: str) -> keras.Model:
    """The model in a file."""
    if not check_model_path(path).is_file():
        raise ValueError(f"There is no file {path!r}.")
    _check_archive(path)
    try:
        with without_optimizer_warnings():
            return keras.models.load_model(path)
    except Exception as error:  # whatever a damaged file makes Keras raise
        model = _without_compile_state(path)
        if model is None:
            raise ValueError(f"Keras cannot load {path!r}: {_unknown(error) or one_line(error)}") from error
        warnings.warn(f"The compile state of {path!r} is left out: {one_line(error)}", stacklevel=2)
        return model


@contextlib.contextmanager
def without_optimizer_warnings() -> Iterator[None]:
    """Without Keras' warning of a compiled, untrained model, which has no state to lose."""
    with warnings.catch_warnings():
        untrained = r"Skipping variable loading for optimizer .* optimizer has [0-2] variables"
        warnings.filterwarnings("ignore", untrained, UserWarning)
        yield


def import_module(name: str) -> None:
    """Import a module by its name, from this folder too, or a .py file by its path."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise ValueError(f"There is no file {name!r} to import.")
        module, folder = Path(name).stem, str(Path(name).resolve().parent)
    else:
        module, folder = name, str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a module may raise
        raise ValueError(f"{name!r} cannot be imported: {one_line(error)}") from error


def _unknown(error: Exception) -> str | None:
    """What to say where Keras does not know a class or function."""
    found = re.search(
        r"Could not (?:locate|find) (?:class|function|object)[^'\"]*['\"]([^'\"]+)['\"]", str(error)
    )
    if found is None:
        return None
    return (
        f"nothing that is imported defines {found[1]!r}. On the command line, name what does: "
        "--import MODULE, or --import FILE.py"
    )


def _check_archive(path: str) -> None:
    """See that a .keras file is whole, and that no configuration is huge when unpacked."""
    if path.endswith(".keras") and not zipfile.is_zipfile(path):
        raise ValueError(
            f"Keras cannot load {path!r}: a .keras file is a zip archive, and this is none, or is cut off."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {item.filename: item.file_size for item in archive.infolist()}
    except Exception:  # no archive, or a damaged one: Keras is to say so
        return
    for name, size in sizes.items():
        if name.endswith(".json") and size > _MOST_TEXT:
            raise ValueError(f"Keras cannot load {path!r}: {name!r} in it would unpack to {size} bytes.")


def _without_compile_state(path: str) -> keras.Model | None:
    """An h5 model of which Keras can read all but losses or metrics; else None."""
    if not path.endswith(".h5"):
        return None
    try:
        return keras.models.load_model(path, compile=False)
    except Exception:  # then it is not the compile state
        return None


def write_model(model: keras.Model, path: str) -> None:
    """Save a model: whole, or not at all."""
    with written_whole(check_model_path(path)) as name:
        model.save(name)


@contextlib.contextmanager
def written_whole(target: Path) -> Iterator[str]:
    """A temporary name beside the target, renamed when the block ends: never half a file.

    Where nothing can be written, an old file stays as it was.
    """
    _check_folder(str(target))
    if target.is_dir():
        raise ValueError(f"A file cannot be written in place of the folder {str(target)!r}.")
    # A short name: the target's may be as long as one can be.
    with tempfile.TemporaryDirectory(prefix=".keras-winit-", dir=target.parent) as folder:
        name = os.path.join(folder, f"new{target.suffix}")
        try:
            yield name
            if target.exists():
                os.chmod(name, stat.S_IMODE(target.stat().st_mode))
            os.replace(name, target)
        except (OSError, ValueError, TypeError):
            raise
        except Exception as error:  # what a library between makes of a full disk
            raise OSError(f"{str(target)!r} cannot be written: {one_line(error)}") from error


def read_arrays(path: str | None) -> Any:
    """The array in a .npy file, or those in a .npz file by name; None for None."""
    if path is None:
        return None
    if not path.endswith((".npy", ".npz")):
        raise ValueError(f"Arrays are in a file that ends in .npy or .npz. Received: {path!r}.")
    try:
        found = np.load(path, allow_pickle=False)
        return dict(found) if isinstance(found, np.lib.npyio.NpzFile) else found
    except FileNotFoundError as error:
        raise ValueError(f"There is no file {path!r}.") from error
    except Exception as error:  # whatever a damaged file makes numpy raise
        raise ValueError(f"numpy cannot read {path!r}: {one_line(error)}") from error


def check_plot_path(path: str | None) -> None:
    """See that a plot can be written there, before much time is spent."""
    if path is None:
        return
    if not path.endswith((".png", ".svg", ".pdf")):
        raise ValueError(f"A plot ends in .png, .svg, .pdf. Received: {path!r}.")
    _check_folder(path)
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError('Plots need matplotlib: pip install "keras-winit[plots]".')


def _check_folder(path: str) -> None:
    folder = Path(path).parent
    if not folder.is_dir():
        raise ValueError(f"There is no folder {str(folder)!r} to write {path!r} in.")


def one_line(error: Exception) -> str:
    """An error's message, or both ends of a long one, on one line and without what moves a terminal."""
    text = " ".join(str(error).split())
    text = text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]} … {text[-_TAIL:]}"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
