"""Data sets: what yields batches, of whatever package it is."""

import itertools
from collections.abc import Iterator
from typing import Any

import keras


def is_data_set(data: Any) -> bool:
    """Whether data comes in batches of its own: a tf.data.Dataset, a PyDataset, a DataLoader, a generator."""
    if isinstance(data, keras.utils.PyDataset):
        return True
    plain = hasattr(data, "shape") or isinstance(data, (dict, list, tuple, str, bytes))
    return not plain and hasattr(data, "__iter__")


def batches_in(data: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Each batch of a data set, as (inputs, labels, sample weights); what is not there is None."""
    if isinstance(data, keras.utils.PyDataset):  # it may have no end, and no `__iter__`
        indices = itertools.count() if data.num_batches is None else range(data.num_batches)
        return map(_triple, map(data.__getitem__, indices))
    return map(_triple, data)  # no generator of ours, which would close the user's when it ends


def _triple(batch: Any) -> tuple[Any, Any, Any]:
    # A DataLoader collates a pair to a list.
    found: tuple[Any, Any, Any] = keras.utils.unpack_x_y_sample_weight(
        tuple(batch) if isinstance(batch, list) else batch
    )
    return found
