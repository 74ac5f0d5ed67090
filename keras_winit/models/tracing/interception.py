"""Stand in for Keras' calls of layers and operations; only here are methods of Keras replaced."""

import collections
import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers
from keras.src.backend.common import global_state  # which Keras does not export

# Says what a layer or an operation of `keras.ops` puts out for arguments and options.
Tracer = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


@contextlib.contextmanager
def answering(tracer: Tracer | None) -> Iterator[None]:
    """In the block a tracer answers this thread's calls of layers and operations; for None, Keras does."""
    before = getattr(_THREAD, "tracer", None)
    _THREAD.tracer = tracer
    try:
        yield
    finally:
        _THREAD.tracer = before


_THREAD = threading.local()
# Who needs Keras' methods replaced.
_USERS: set[object] = set()
_ORIGINALS: dict[Any, tuple[str, Any]] = {}
_LOCK = threading.RLock()


def _replacement(original: Any) -> Any:
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        tracer = getattr(_THREAD, "tracer", None)
        if tracer is None:
            return original(self, *arguments, **options)
        return tracer(self, arguments, options)

    return call


@contextlib.contextmanager
def replaced() -> Iterator[None]:
    """In the block calls of layers and operations look for a tracer of their thread."""
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
            for kind, name in ((layers.Layer, "__call__"), (keras.Operation, "symbolic_call")):
                if kind not in _ORIGINALS:
                    _ORIGINALS[kind] = name, vars(kind)[name]
                    setattr(kind, name, _replacement(vars(kind)[name]))
        yield
    finally:
        try:
            put_back()
        except KeyboardInterrupt:  # in the midst of it: from the start
            put_back()
            raise


def stop_tracking() -> None:
    """Until `nothing_left` ends Keras does not track what a layer's call sets as attributes."""
    global_state.set_global_attribute("tracking_on", False)


@contextlib.contextmanager
def nothing_left(model: Any) -> Iterator[keras.StatelessScope]:
    """What calls and new layers leave in a thread and in layers is as before when the block ends.

    In it variables keep their values, and new ones get none.
    """
    # Keras keeps for each thread automatic names, the scope that variables change in, those that wait for a
    # value, and how errors are shown. Python's random numbers give it seeds.
    thread = vars(global_state.GLOBAL_STATE_TRACKER)
    before = dict(thread)
    layers_before = [
        (each, list(each._losses), set(each._loss_ids), each.built, each._called)
        for each in model._flatten_layers()
    ]
    numbers = random.getstate(), np.random.get_state()

    def put_back() -> None:
        thread.update(before)
        for name in thread.keys() - before.keys():
            del thread[name]
        for layer, losses, ids, built, called in layers_before:
            attributes = vars(layer)
            if len(layer._losses) != len(losses):
                layer._losses[:] = losses
            if len(layer._loss_ids) != len(ids):
                layer._loss_ids.clear()
                layer._loss_ids.update(ids)
            if attributes.get("built", built) != built:
                attributes["built"] = built
            if not called:
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
