"""The optimizer's state, which belongs to weights that are no longer there once they are drawn anew."""

import keras

from keras_winit.models.running.undo import Undo


def reset_optimizer(model: keras.Model, undo: Undo) -> None:
    """Give the state of a model's optimizer the values that it starts with.

    Raises:
        ValueError: for an optimizer that was built for other weights.
    """
    optimizer = model.optimizer
    fresh = type(optimizer).from_config(optimizer.get_config())
    # What it was built for, which after loading an h5 file may be nothing yet.
    fresh.build(getattr(optimizer, "inner_optimizer", optimizer)._trainable_variables)
    if [tuple(v.shape) for v in fresh.variables] != [tuple(v.shape) for v in optimizer.variables]:
        raise ValueError(
            f"The state of the optimizer {type(optimizer).__name__} does not belong to this model's weights. "
            "Compile the model again."
        )
    for old, new in zip(optimizer.variables, fresh.variables, strict=True):
        undo.assign(old, new)
