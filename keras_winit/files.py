"""Model files: read with a clear error, written whole or not at all."""

import os
import tempfile
import warnings
from pathlib import Path

import keras

_ENDINGS = (".keras", ".h5")


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


def _first_lines(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 500 else text[:500] + " …"
