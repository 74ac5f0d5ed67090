"""Stand in for Keras' calls of layers and operations, in one thread, and leave nothing behind.

This is the only file that replaces methods of Keras.
"""

import collections
import contextlib
import random
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import keras
import numpy as np
from keras import layers
from keras.src.backend.common import global_state  # which Keras does not export


class Tracer(Protocol):
    """What answers in the place of layers and operations."""

    def called(self, layer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """What a layer puts out."""

    def operation(self, operation: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """What an operation of `keras.ops` puts out."""


@contextlib.contextmanager
def answering(tracer: Tracer | None) -> Iterator[None]:
    """In the block this thread's calls of layers and operations go to a tracer; None lets Keras answer."""
    before = getattr(_THREAD, "tracer", None)
    _THREAD.tracer = tracer
    try:
        yield
    finally:
        _THREAD.tracer = before


# The tracer of each thread that traces now, and who needs Keras' methods replaced.
_THREAD = threading.local()
_USERS: set[object] = set()
_ORIGINALS: dict[Any, tuple[str, Any]] = {}
_LOCK = threading.RLock()


def _layer_call(original: Any) -> Any:
    def __call__(self: Any, *arguments: Any, **options: Any) -> Any:  # noqa: N807 - in place of it
        tracer = getattr(_THREAD, "tracer", None)
        if tracer is None:
            return original(self, *arguments, **options)
        return tracer.called(self, arguments, options)

    return __call__


def _symbolic_call(original: Any) -> Any:
    def symbolic_call(self: Any, *arguments: Any, **options: Any) -> Any:
        tracer = getattr(_THREAD, "tracer", None)
        if tracer is None:
            return original(self, *arguments, **options)
        return tracer.operation(self, arguments, options)

    return symbolic_call


_REPLACED = ((layers.Layer, "__call__", _layer_call), (keras.Operation, "symbolic_call", _symbolic_call))


@contextlib.contextmanager
def replaced() -> Iterator[None]:
    """In the block calls of layers and operations ask whether their thread traces."""
    user = object()

    def put_back() -> None:
        with _LOCK:
            _USERS.discard(user)
            if not _USERS:
                for kind, (name, original) in _ORIGINALS.items():
                    setattr(kind, name, original)
                _ORIGINALS.clear()

    try:
        with _LOCK:
            _USERS.add(user)
            for kind, name, replacement in _REPLACED:
                if kind not in _ORIGINALS:
                    _ORIGINALS[kind] = name, vars(kind)[name]
                    setattr(kind, name, replacement(vars(kind)[name]))
        yield
    finally:
        try:
            put_back()
        except KeyboardInterrupt:  # in the midst of it: from the start
            put_back()
            raise


@contextlib.contextmanager
def untracked() -> Iterator[None]:
    """In the block Keras does not track what a layer's call sets as attributes."""
    global_state.set_global_attribute("tracking_on", False)
    yield  # `nothing_left` puts it back


@contextlib.contextmanager
def nothing_left(model: Any) -> Iterator[keras.StatelessScope]:
    """What calls and new layers leave in a thread, and in layers, is as before when the block ends.

    In the block variables keep their values, and new ones get none.
    """
    # Automatic names, the scope that variables change in, variables that wait for a value, how errors are
    # shown: Keras keeps it all for each thread apart. Python's random numbers give it seeds.
    thread = vars(global_state.GLOBAL_STATE_TRACKER)
    before = dict(thread)
    every = model._flatten_layers()
    layers_before = [
        (vars(each), each._losses, list(each._losses), each._loss_ids, set(each._loss_ids), each.built)
        for each in every
    ]
    uncalled = [vars(each) for each in every if not each._called]
    numbers = random.getstate(), np.random.get_state()

    def put_back() -> None:
        thread.update(before)
        for name in thread.keys() - before.keys():
            del thread[name]
        for attributes, losses, held, ids, known, built in layers_before:
            if len(losses) != len(held):
                losses[:] = held
            if len(ids) != len(known):
                ids.clear()
                ids.update(known)
            if attributes.get("built", built) != built:
                attributes["built"] = built
        for attributes in uncalled:
            attributes["_called"] = False
        random.setstate(numbers[0])
        np.random.set_state(numbers[1])

    try:
        thread["object_name_uids"] = before.get("object_name_uids", collections.defaultdict(int)).copy()
        thread["uninitialized_variables"] = []
        thread["traceback_filtering"] = False
        thread["stateless_scope"] = scope = keras.StatelessScope(initialize_variables=False)
        yield scope
    finally:
        try:
            put_back()
        except KeyboardInterrupt:  # in the midst of it: from the start
            put_back()
            raise
