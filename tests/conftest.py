"""What holds for each process of the tests: one thread to compute in, and imports that are kept for good."""

import gc
import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # before numpy and torch are imported: waiting threads spin


def pytest_collection_finish():
    """Modules are no garbage: not to look through them again and again saves a twentieth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
