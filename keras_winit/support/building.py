"""Which layer an initializer is called for: Keras tells it no more than a shape."""

import contextlib
from typing import Any

import keras


def layer_being_built() -> Any:
    """The layer whose weight is being made, on this thread; None where that is not known."""
    try:
        from keras.src.backend.common.global_state import get_global_attribute  # noqa: PLC0415

        scopes = get_global_attribute("name_scope_stack") or [None]
    except ImportError:  # of another version of Keras
        return None
    return getattr(scopes[-1], "caller", None)


def building(layer: Any) -> contextlib.AbstractContextManager[Any]:
    """In the block an initializer is called as if the layer were being built."""
    try:  # without the scope that TensorFlow opens for its own names, which takes longer than a small draw
        from keras.src.backend.common.name_scope import name_scope  # noqa: PLC0415
    except ImportError:  # of another version of Keras
        name_scope = keras.name_scope
    scope: contextlib.AbstractContextManager[Any] = name_scope(layer.name, caller=layer)
    return scope
