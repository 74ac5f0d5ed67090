"""The gates of Keras' recurrent cells, which lie side by side in their kernels and biases."""

import sys
from typing import Any

from keras import layers

# Keras does not export the cell of a convolutional LSTM; making a layer to ask it takes too long.
_CONV_LSTM_CELL = sys.modules[layers.ConvLSTM1D.__bases__[0].__module__].ConvLSTMCell
_LSTM = ("input", "forget", "candidate", "output")

# By Keras' order. What a cell computes from its state is called its candidate.
GATES: dict[type, tuple[str, ...]] = {
    layers.SimpleRNNCell: ("candidate",),
    layers.GRUCell: ("update", "reset", "candidate"),
    layers.LSTMCell: _LSTM,
    _CONV_LSTM_CELL: _LSTM,
}
CELLS = tuple(GATES)


def gates(layer: Any) -> tuple[str, ...]:
    """The gates of a recurrent cell, by name; none of any other layer."""
    return next((names for cell, names in GATES.items() if isinstance(layer, cell)), ())
