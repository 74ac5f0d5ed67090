"""The dtype to compute random numbers in."""

import keras


def compute_dtype(dtype: str) -> str:
    """At least float32 for real numbers; integers as they are.

    bfloat16's own uniform takes only 128 values, and is biased; many an operation lacks it.
    """
    if dtype == "float64" or not keras.backend.is_float_dtype(dtype):
        return dtype
    return "float32"
