"""The global random states of Python, numpy, Keras and PyTorch, which a model's own code may draw from."""

import contextlib
import random
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras.src.backend.common import global_state  # which Keras does not export
from keras.src.random.seed_generator import global_seed_generator

from keras_winit.drawing.seeds import fold

_GENERATOR = "global_seed_generator"  # its name among Keras' global attributes


def start_randomness(seed: int) -> None:
    """Give each the state that it is to have at each start."""
    place = int(fold(seed, "training"))
    random.seed(place)
    np.random.seed(place)
    state = global_seed_generator().state
    state.assign(np.array([place, 0], state.dtype))
    if keras.backend.backend() == "torch":
        import torch  # noqa: PLC0415 - the backend in use

        torch.manual_seed(place)


@contextlib.contextmanager
def randomness_kept() -> Iterator[None]:
    """All are as before when the block ends."""
    python, array = random.getstate(), np.random.get_state()
    generator = global_state.get_global_attribute(_GENERATOR)
    state = None if generator is None else keras.ops.convert_to_numpy(generator.state).copy()
    torch_back = _torch_states()

    def put_back() -> None:
        if generator is not None:
            generator.state.assign(state)
        global_state.set_global_attribute(_GENERATOR, generator)
        torch_back()
        np.random.set_state(array)
        random.setstate(python)

    try:
        yield
    finally:
        try:
            put_back()
        except KeyboardInterrupt:  # in the midst of it: from the start
            put_back()
            raise


def _torch_states() -> Callable[[], None]:
    if keras.backend.backend() != "torch":
        return lambda: None
    import torch  # noqa: PLC0415 - the backend in use

    here = torch.get_rng_state()
    there = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def put_back() -> None:
        torch.set_rng_state(here)
        if there:
            torch.cuda.set_rng_state_all(there)

    return put_back
