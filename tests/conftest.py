"""What holds for each process of the tests: one thread, imports kept for good, and steps without XLA."""

import gc
import os

import pytest

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # before numpy and torch are imported: waiting threads spin


def pytest_collection_finish():
    """Modules are no garbage: not to look through them again and again saves a twentieth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def steps_without_xla():
    """On TensorFlow Keras would compile each model's step by XLA, for longer than the few steps here take."""
    import keras

    if keras.backend.backend() == "tensorflow":
        keras.src.trainers.trainer.model_supports_jit = lambda _: False
