"""A tensor's values: whether it has any yet, and as an array of numpy without a copy where they are here."""

from typing import Any

import keras
import numpy as np
from keras import ops


def host_array(tensor: Any) -> np.ndarray[Any, Any]:
    """The values, to be read only. JAX and PyTorch show their own memory; so does TensorFlow, if asked."""
    if keras.backend.backend() == "tensorflow" and not isinstance(tensor, keras.Variable):
        try:
            return np.asarray(memoryview(tensor))
        except (TypeError, ValueError, BufferError):  # of half precision, or on another device
            pass
    return np.asarray(ops.convert_to_numpy(tensor))


def is_traced(tensor: Any) -> bool:
    """Whether a tensor is one of a program that is being compiled, and has no values yet."""
    if keras.backend.backend() == "jax":
        import jax  # noqa: PLC0415

        return isinstance(tensor, jax.core.Tracer)
    return keras.backend.backend() == "tensorflow" and ops.is_tensor(tensor) and not hasattr(tensor, "numpy")
