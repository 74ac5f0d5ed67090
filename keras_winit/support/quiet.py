"""A command prints its own lines, and nothing of what TensorFlow says when it is loaded."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def runs_as_a_command() -> bool:
    """Whether this process was started as `python -m keras_winit` or `keras-winit`."""
    started = sys.orig_argv[1:]
    module = started[started.index("-m") + 1 :][:1] if "-m" in started else []
    return module == ["keras_winit"] or Path(sys.argv[0] if sys.argv else "").stem == "keras-winit"


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """In the block nothing that compiled code writes to standard error is seen. Exceptions are."""
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


if runs_as_a_command():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what it says later
    with silence():
        importlib.import_module("keras")
