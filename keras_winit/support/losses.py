"""What is known of a loss: its name, its outputs, and the labels that it cannot take."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_winit.support.checks import did_you_mean, shown

# Losses whose best constant is a share of each class, and their labels.
CROSSENTROPIES = {
    "sparse_categorical_crossentropy": "classes",
    "categorical_crossentropy": "shares",
    "categorical_focal_crossentropy": "shares",
    "binary_crossentropy": "yes",
    "binary_focal_crossentropy": "yes",
}


def loss_name(loss: Any) -> str:
    """The name of a loss's function, "" of what is none."""
    try:
        found = keras.losses.get(loss)
    except (ValueError, TypeError):
        return ""
    return str(getattr(getattr(found, "fn", found), "__name__", ""))  # a Loss of Keras wraps a function


class Focus(NamedTuple):
    """What a focal crossentropy makes of −log p: α·(1 − p)^γ·(−log p); a plain one has γ = 0 and α = 1.

    α is `yes` for what is true, a number or one for each class, and `no` for what is not, in binary ones.

    Source: T. Lin et al. 2017, "Focal Loss for Dense Object Detection" (arXiv:1708.02002).
    """

    gamma: float = 0.0
    yes: Any = 1.0
    no: float = 1.0


def focus_of(loss: Any) -> Focus:
    """How a crossentropy weighs what is likely; of a name by Keras' defaults."""
    name = loss_name(loss)
    if name not in ("categorical_focal_crossentropy", "binary_focal_crossentropy"):
        return Focus()
    gamma, alpha = getattr(loss, "gamma", 2.0), getattr(loss, "alpha", 0.25)
    if name == "categorical_focal_crossentropy":
        return Focus(gamma, alpha)
    balanced = alpha is not None and getattr(loss, "apply_class_balancing", False)
    return Focus(gamma, alpha, 1 - alpha) if balanced else Focus(gamma)


def check_there_is_one(model: Any, loss: Any) -> None:
    """Raise a ValueError where there is neither a loss nor a model that is compiled with one."""
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
    """Whether a crossentropy is given logits."""
    return bool(getattr(loss, "from_logits", False))


def losses_by_output(model: Any, loss: Any, count: int) -> list[Any]:
    """The loss of each output, by the model's own where none is given; None where that is not known."""
    loss = loss if loss is not None else getattr(model, "loss", None)
    if isinstance(loss, dict):
        names = getattr(model, "output_names", None) or []
        found = [loss[name] for name in (names if set(names) == set(loss) else sorted(loss))]
    elif isinstance(loss, (list, tuple)):
        found = list(loss)
    else:
        found = [loss] * count
    return found if len(found) == count else [None] * count


# Those that compare each number of an output with a label.
_EACH_NUMBER = {
    *(name for name, kind in CROSSENTROPIES.items() if kind != "classes"),
    *("mean_squared_error", "mean_absolute_error", "mean_absolute_percentage_error"),
    *("mean_squared_logarithmic_error", "huber", "log_cosh", "poisson"),
}


def check_labels(model: keras.Model, loss: Any, labels: Any, outputs: Iterable[Any]) -> None:
    """Raise a ValueError for labels that a loss of Keras cannot compare with outputs of such shapes.

    Labels by name, and those of the user's own model or loss, are left to the call.
    """
    if isinstance(labels, dict) or (loss is None and not trains_as_keras(model)):
        return
    arrays, shapes = keras.tree.flatten(labels), [tuple(getattr(each, "shape", ())) for each in outputs]
    if len(arrays) != len(shapes):
        return
    for array, shape, each in zip(arrays, shapes, losses_by_output(model, loss, len(shapes)), strict=True):
        if array is None or each is None or not shape or None in shape[1:] or not _is_of_keras(each):
            continue
        name = loss_name(each)
        check_finite("labels", array)
        if CROSSENTROPIES.get(name) == "classes" and getattr(each, "axis", -1) == -1:
            _check_classes(np.asarray(array), shape, getattr(each, "ignore_class", None))
        elif name in _EACH_NUMBER and not _fit(array.shape[1:], shape[1:]):
            raise ValueError(
                f"The labels must have the shape of the model's output for the loss {name}, "
                f"{_of_a_sample(shape)} for each sample. Received: {_of_a_sample(array.shape)}."
            )


def trains_as_keras(model: keras.Model) -> bool:
    """Whether a model's step and loss are those of Keras, and what they take as labels is known."""
    own = ("compute_loss", "train_step")
    return all(getattr(type(model), name) is getattr(keras.Model, name) for name in own)


def check_finite(name: str, nest: Any) -> None:
    """Raise a ValueError for a NaN or an infinite number."""
    for array in keras.tree.flatten(nest):
        if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                f"`{name}` must be finite. Received: {np.count_nonzero(~np.isfinite(array))} values that are "
                f"NaN or infinite, in an array of shape {array.shape}."
            )


def _is_of_keras(loss: Any) -> bool:
    return isinstance(loss, str) or str(getattr(loss, "__module__", "")).startswith("keras.")


def _check_classes(labels: Any, shape: tuple[int, ...], ignored: int | None) -> None:
    classes, places = shape[-1], shape[1:-1]
    if labels.shape[1:] not in (places, (*places, 1)):
        hint = ' For one number for each class use "categorical_crossentropy".'
        raise ValueError(
            "The labels must be one class for each sample, of the shape "
            f"{_of_a_sample((0, *places))}, for the loss sparse_categorical_crossentropy. Received: "
            f"{_of_a_sample(labels.shape)}.{hint if labels.shape[1:] == shape[1:] else ''}"
        )
    wrong = (labels < 0) | (labels >= classes)
    if ignored is not None:
        wrong &= labels != ignored
    elif keras.backend.backend() == "jax" and len(np.unique(labels[labels < 0])) == 1:
        wrong &= labels >= 0  # one number for what is left out; other backends refuse it
    if wrong.any():
        raise ValueError(
            f"The labels must be classes from 0 to {classes - 1}: the model puts out {classes} numbers. "
            f"Received: {np.count_nonzero(wrong)} others, from {labels[wrong].min():g} to "
            f"{labels[wrong].max():g}. Labels that are to be left out are named by the loss's `ignore_class`."
        )


def _fit(given: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether Keras can compare them: it adds or drops a last axis of one, and repeats axes of one."""
    if len(given) + 1 == len(wanted) and wanted[-1] == 1:
        given = (*given, 1)
    elif len(given) == len(wanted) + 1 and given[-1] == 1:
        given = given[:-1]
    return len(given) == len(wanted) and all(
        a == b or 1 in (a, b) for a, b in zip(given, wanted, strict=True)
    )


def _of_a_sample(shape: Any) -> str:
    return str(tuple(shape[1:])) if len(shape) > 1 else "() (one number)"
