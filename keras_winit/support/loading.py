"""Keras is loaded: with a clear error without its backend, and in silence for a command."""

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_BACKENDS = ("tensorflow", "jax", "torch")


def runs_as_a_command() -> bool:
    """Whether this is `python -m keras_winit` or `keras-winit`."""
    started = sys.orig_argv[1:]
    module = started[started.index("-m") + 1 :][:1] if "-m" in started else []
    return module == ["keras_winit"] or Path(sys.argv[0] if sys.argv else "").stem == "keras-winit"


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """In the block nothing that compiled code writes to standard error is seen."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def load_keras() -> None:
    """Import Keras.

    Raises:
        ImportError: where its backend is unknown, not installed, or none that this library draws on;
            a command ends with exit code 2.
    """
    command = runs_as_a_command()
    if command:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what it says later
    try:
        with silence() if command else contextlib.nullcontext():
            backend = importlib.import_module("keras").config.backend()
        if backend not in _BACKENDS:
            raise ValueError("keras_winit has no random numbers for it")
    except (ImportError, ValueError) as error:
        if importlib.util.find_spec("keras") is None:
            raise
        chosen = os.environ.get("KERAS_BACKEND")
        which = f"The backend {chosen!r} of KERAS_BACKEND" if chosen else "The backend of Keras"
        message = (
            f"{which} cannot be used: {error}. "
            "Set KERAS_BACKEND to tensorflow, jax or torch, and install it: "
            'pip install "keras-winit[tensorflow]", "keras-winit[jax]" or "keras-winit[torch]".'
        )
        if not command:
            raise ImportError(message) from error
        sys.stderr.write(f"keras-winit: {message}\n")
        sys.exit(2)


load_keras()
