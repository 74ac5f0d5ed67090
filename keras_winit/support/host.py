"""What Keras does not say outright: whether a tensor has values, and which layer is built."""

import contextlib
from typing import Any

import keras
import numpy as np
from keras import ops


def host_array(tensor: Any) -> np.ndarray[Any, Any]:
    """The values, to be read only: the backend's own memory where numpy can."""
    backend = keras.backend.backend()
    try:
        if backend == "tensorflow" and not isinstance(tensor, keras.Variable):
            return np.asarray(memoryview(tensor))
        if backend == "torch" and ops.is_tensor(tensor):
            return np.asarray(tensor.detach().numpy())
    except (TypeError, ValueError, BufferError):  # of half precision, or on another device
        pass
    return np.asarray(ops.convert_to_numpy(tensor))


def is_traced(tensor: Any) -> bool:
    """Whether a tensor is of a program that is being compiled, without values."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax  # noqa: PLC0415

        return isinstance(tensor, jax.core.Tracer)
    return backend == "tensorflow" and ops.is_tensor(tensor) and not hasattr(tensor, "numpy")


def layer_being_built() -> Any:
    """The layer whose weight is being made on this thread; None if that is not known."""
    try:
        from keras.src.backend.common.global_state import get_global_attribute  # noqa: PLC0415

        scopes = get_global_attribute("name_scope_stack") or [None]
    except ImportError:  # of another version of Keras
        return None
    return getattr(scopes[-1], "caller", None)


def building(layer: Any) -> contextlib.AbstractContextManager[Any]:
    """In the block an initializer is called as if the layer were being built."""
    try:  # without TensorFlow's own scope, which takes longer than a small draw
        from keras.src.backend.common.name_scope import name_scope  # noqa: PLC0415
    except ImportError:  # of another version of Keras
        name_scope = keras.name_scope
    scope: contextlib.AbstractContextManager[Any] = name_scope(layer.name, caller=layer)
    return scope
