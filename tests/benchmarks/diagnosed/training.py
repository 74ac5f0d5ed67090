"""The networks of trainability.py, and how they train there."""

import keras
import numpy as np
from trainability import TASKS

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(task, cell, x):
    activation, depth = cell.split()
    return TASKS[task][1](activation, int(depth), x.shape[1:])


def compiled(model):
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9, clipnorm=1.0), LOSS)
    return model


def trained(model, data, new, seed):
    """The accuracy of a compiled model after training as in trainability.py."""
    keras.utils.set_random_seed(seed)
    model.fit(*data, batch_size=64, epochs=10, verbose=0)
    x, y = new
    logits = model.predict(x, batch_size=len(x), verbose=0)
    return round(float(np.mean(logits.argmax(axis=-1) == y)), 4)
