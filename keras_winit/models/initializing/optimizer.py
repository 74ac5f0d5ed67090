"""The optimizer's state, which belongs to weights that are no longer there once they are drawn anew."""

import keras

from keras_winit.models.running.undo import Undo


def reset_optimizer(optimizer: keras.optimizers.Optimizer, undo: Undo) -> None:
    """Give the state of an optimizer the values that it starts with.

    Raises:
        ValueError: for an optimizer that was built for other weights.
    """
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


def rate_of(optimizer: keras.optimizers.Optimizer) -> str:
    """The learning rate in force, which is not part of the state: a callback may have changed it."""
    if isinstance(optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        return "its learning rate follows its schedule from the start"
    return f"its learning rate stays {float(keras.ops.convert_to_numpy(optimizer.learning_rate)):.3g}"
