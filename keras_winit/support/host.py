"""A tensor's values: whether it has any yet, as an array of numpy without a copy, and sums over them."""

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


def product(left: Any, right: Any) -> Any:
    """The product of two arrays of numpy, vectors or matrices, of floats.

    On PyTorch by its own threads: numpy's would go on waiting on the cores where PyTorch computes next,
    which made everything around a product take four times as long.
    """
    if keras.backend.backend() != "torch":
        return left @ right
    import torch  # noqa: PLC0415 - the backend in use

    def tensor(array: Any) -> Any:  # of memory as PyTorch takes it
        as_it_is = array.flags.writeable and min(array.strides) >= 0
        return torch.from_numpy(array if as_it_is else array.copy())

    return torch.matmul(tensor(left), tensor(right)).numpy()


def is_traced(tensor: Any) -> bool:
    """Whether a tensor is one of a program that is being compiled, and has no values yet."""
    if keras.backend.backend() == "jax":
        import jax  # noqa: PLC0415

        return isinstance(tensor, jax.core.Tracer)
    return keras.backend.backend() == "tensorflow" and ops.is_tensor(tensor) and not hasattr(tensor, "numpy")
