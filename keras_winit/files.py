"""Model files: read with a clear error, written whole or not at all."""

import importlib.util
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

_ENDINGS = (".keras", ".h5")
_ARRAY_ENDINGS = (".npy", ".npz")
_PLOT_ENDINGS = (".png", ".svg", ".pdf")


def check_model_path(path: str) -> Path:
    """The path, if its ending is that of a model file."""
    if not path.endswith(_ENDINGS):
        raise ValueError(f"A model file ends in {' or '.join(_ENDINGS)}. Received: {path!r}.")
    return Path(path)


def read_model(path: str) -> keras.Model:
    """The model in a file."""
    if not check_model_path(path).is_file():
        raise ValueError(f"There is no file {path!r}.")
    try:
        return keras.models.load_model(path)
    except Exception as error:  # whatever a damaged file makes Keras raise
        model = _without_compile_state(path)
        if model is None:
            raise ValueError(f"Keras cannot load {path!r}: {_first_lines(error)}") from error
        warnings.warn(f"The compile state of {path!r} is left out: {_first_lines(error)}", stacklevel=2)
        return model


def _without_compile_state(path: str) -> keras.Model | None:
    """An h5 model whose losses or metrics Keras cannot read, though the model itself it can."""
    if not path.endswith(".h5"):
        return None
    try:
        return keras.models.load_model(path, compile=False)
    except Exception:  # then it is not the compile state
        return None


def write_model(model: keras.Model, path: str) -> None:
    """Save a model under a temporary name beside its place, then rename it: never half a file."""
    target = check_model_path(path)
    if not target.parent.is_dir():
        raise ValueError(f"There is no folder {str(target.parent)!r} to write {path!r} in.")
    handle, name = tempfile.mkstemp(suffix=target.suffix, prefix=f".{target.stem}-", dir=target.parent)
    os.close(handle)
    try:
        model.save(name)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_arrays(path: str | None) -> Any:
    """The array in a .npy file, or those in a .npz file by name; None for None."""
    if path is None:
        return None
    if not path.endswith(_ARRAY_ENDINGS):
        raise ValueError(
            f"Arrays are in a file that ends in {' or '.join(_ARRAY_ENDINGS)}. Received: {path!r}."
        )
    try:
        found = np.load(path, allow_pickle=False)
        return dict(found) if isinstance(found, np.lib.npyio.NpzFile) else found
    except FileNotFoundError as error:
        raise ValueError(f"There is no file {path!r}.") from error
    except Exception as error:  # whatever a damaged file makes numpy raise
        raise ValueError(f"numpy cannot read {path!r}: {_first_lines(error)}") from error


def check_plot_path(path: str | None) -> None:
    """See that a plot can be written there, before anything else takes time."""
    if path is None:
        return
    if not path.endswith(_PLOT_ENDINGS):
        raise ValueError(f"A plot ends in {', '.join(_PLOT_ENDINGS)}. Received: {path!r}.")
    if not Path(path).parent.is_dir():
        raise ValueError(f"There is no folder {str(Path(path).parent)!r} to write {path!r} in.")
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError('Plots need matplotlib: pip install "keras-winit[plots]".')


def _first_lines(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 500 else text[:500] + " …"
