"""What is known of a loss: its name, and for which of a model's outputs it is."""

from typing import Any, NamedTuple

import keras

from keras_winit.support.checks import did_you_mean, shown

# The losses whose best constant is a share of each class, and what their labels are.
CROSSENTROPIES = {
    "sparse_categorical_crossentropy": "classes",
    "categorical_crossentropy": "shares",
    "categorical_focal_crossentropy": "shares",
    "binary_crossentropy": "yes",
    "binary_focal_crossentropy": "yes",
}


def loss_name(loss: Any) -> str:
    """The name of the function behind a loss, or "" for what is none."""
    try:
        found = keras.losses.get(loss)
    except (ValueError, TypeError):
        return ""
    inner = getattr(found, "fn", found)  # a Loss of Keras wraps a function
    return str(getattr(inner, "__name__", ""))


class Focus(NamedTuple):
    """What a focal crossentropy makes of −log p: α·(1 − p)^γ·(−log p); a plain one has γ = 0 and α = 1.

    Source: T. Lin et al. 2017, "Focal Loss for Dense Object Detection" (arXiv:1708.02002).

    Attributes:
        gamma: γ.
        yes: α of what is true: a number, or one for each class.
        no: α of what is not, in binary ones.
    """

    gamma: float = 0.0
    yes: Any = 1.0
    no: float = 1.0


def focus_of(loss: Any) -> Focus:
    """How a crossentropy weighs what is likely; Keras' defaults where it is given by its name."""
    name = loss_name(loss)
    if name == "categorical_focal_crossentropy":
        return Focus(getattr(loss, "gamma", 2.0), getattr(loss, "alpha", 0.25))
    if name != "binary_focal_crossentropy":
        return Focus()
    alpha = getattr(loss, "alpha", 0.25) if getattr(loss, "apply_class_balancing", False) else None
    return Focus(getattr(loss, "gamma", 2.0), *((1.0, 1.0) if alpha is None else (alpha, 1 - alpha)))


def check_there_is_one(model: Any, loss: Any) -> None:
    """Raise a ValueError where labels are given, and neither a loss nor a model that is compiled with one."""
    if loss is None and not (getattr(model, "compiled", False) and model.loss):
        raise ValueError(
            "Labels need a loss, and the model is not compiled with one. "
            'Pass `loss`, such as "sparse_categorical_crossentropy".'
        )


def check_is_known(loss: Any) -> None:
    """Raise a ValueError for what Keras does not take for a loss."""
    if not loss_name(loss):
        known = [name for name in dir(keras.losses) if name.islower() and "serialize" not in name]
        hint = did_you_mean(loss, known) if isinstance(loss, str) else ""
        raise ValueError(
            "`loss` must be the name of a loss of Keras, a function or a keras.losses.Loss, or one of these "
            f"for each output. Received: {shown(loss)}.{hint}"
        )


def takes_logits(loss: Any) -> bool:
    """Whether a crossentropy makes probabilities of what it is given."""
    return bool(getattr(loss, "from_logits", False))


def losses_by_output(model: Any, loss: Any, count: int) -> list[Any]:
    """The loss of each of a model's outputs, None where that is not known.

    Args:
        model: whose compiled loss counts where none is given.
        loss: a name, a function, a `keras.losses.Loss`, a nest of these, or None.
        count: how many outputs there are.
    """
    loss = loss if loss is not None else getattr(model, "loss", None)
    if isinstance(loss, dict):
        names = getattr(model, "output_names", None) or []
        found = [loss[name] for name in (names if set(names) == set(loss) else sorted(loss))]
    elif isinstance(loss, (list, tuple)):
        found = list(loss)
    else:
        found = [loss] * count
    return found if len(found) == count else [None] * count
