"""A tensor's values as an array of numpy, without a copy where they are in this machine's memory."""

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
