"""A tensor's values: whether it has any yet, and as an array of numpy without a copy."""

from typing import Any

import keras
import numpy as np
from keras import ops


def host_array(tensor: Any) -> np.ndarray[Any, Any]:
    """The values, to be read only: TensorFlow's and PyTorch's own memory, where numpy can read it."""
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
    """Whether a tensor is one of a program that is being compiled, and has no values yet."""
    if keras.backend.backend() == "jax":
        import jax  # noqa: PLC0415

        return isinstance(tensor, jax.core.Tracer)
    return keras.backend.backend() == "tensorflow" and ops.is_tensor(tensor) and not hasattr(tensor, "numpy")
