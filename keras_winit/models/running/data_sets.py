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
    for batch in _items(data):
        # A DataLoader collates a pair to a list.
        yield keras.utils.unpack_x_y_sample_weight(tuple(batch) if isinstance(batch, list) else batch)


def _items(data: Any) -> Iterator[Any]:
    if not isinstance(data, keras.utils.PyDataset):
        yield from data
        return
    # It may have no end, and no `__iter__`.
    for index in itertools.count() if data.num_batches is None else range(data.num_batches):
        yield data[index]
