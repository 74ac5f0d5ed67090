"""The loss that is asked for: what guessing costs by it, and its gradients, by taps.

A tap is the identity, which shows the values that pass and, on the way back, their gradient. It also reads a
scalar, the source: the gradient with respect to it passes every tap, and needs that of no weight.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_winit.support.losses import (
    CROSSENTROPIES,
    Focus,
    check_is_known,
    check_there_is_one,
    focus_of,
    loss_name,
)

_LEAST = 1e-12  # a probability


class LossOf(NamedTuple):
    """Of (batch, outputs): all that training adds up, and the mean of the named loss alone."""

    total: Callable[[Any, Any], Any]
    plain: Callable[[Any, Any], Any] | None

    def of_constants(self, batch: Any, outputs: Any) -> float | None:
        """The least loss of constant outputs, zero or the batch's mean, if possible without penalties."""
        found = []
        for constant in (np.zeros_like, _mean):
            same = keras.tree.map_structure(lambda each, of=constant: _tensor(of(each)), outputs)
            try:
                with keras.StatelessScope():  # a compiled loss keeps means of what it was given
                    found.append(float(ops.mean((self.plain or self.total)(batch, same))))
            except Exception:  # a loss of the user's own that wants what only the model's call gives
                return None
        return min(filter(math.isfinite, found), default=None)


def _mean(output: Any) -> Any:
    return np.broadcast_to(output.mean(axis=0, keepdims=True), output.shape).astype(output.dtype)


def _tensor(array: Any) -> Any:
    return None if array is None else ops.convert_to_tensor(array)


def loss_of(model: keras.Model, loss: Any) -> LossOf:
    """The loss that is asked for: the one given, else the compiled one.

    Raises:
        TypeError, ValueError: for what is no loss, or a model that has none.
    """
    check_there_is_one(model, loss)
    named = model.loss if loss is None else loss
    plain = _plain(named) if isinstance(named, str) or callable(named) else None
    if loss is not None:
        if plain is None:
            raise TypeError(f"`loss` must be a name, a function or a keras.losses.Loss. Received: {loss!r}.")
        return LossOf(plain, plain)

    def total(batch: Any, outputs: Any) -> Any:
        x, y = keras.tree.map_structure(_tensor, (batch.inputs, batch.labels))
        return _devices() * model.compute_loss(x=x, y=y, y_pred=outputs)

    return LossOf(total, plain)


def _devices() -> int:
    """How many parts of a batch tf.distribute adds up, by which Keras divides each part's loss."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf  # noqa: PLC0415 - the backend in use

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def _plain(loss: Any) -> Callable[[Any, Any], Any]:
    """The mean over samples, added up over outputs; no weights, no other reduction."""
    try:
        found = keras.losses.get(loss)
    except (ValueError, TypeError):
        check_is_known(loss)
        raise
    each = found.call if isinstance(found, keras.losses.Loss) else found

    def mean(batch: Any, outputs: Any) -> Any:
        labels, outputs = keras.tree.flatten(batch.labels), keras.tree.flatten(outputs)
        if len(labels) != len(outputs):
            raise ValueError(
                f"The model has {len(outputs)} outputs and there are {len(labels)} arrays of labels. "
                "Pass as many labels, or compile the model with its losses."
            )
        total: Any = 0.0
        for label, output in zip(labels, outputs, strict=True):
            given = ops.convert_to_tensor(label)
            if len(given.shape) + 1 == len(output.shape) and output.shape[-1] == 1:
                given = ops.expand_dims(given, -1)
            total = total + ops.mean(each(given, output))
        return total

    return mean


class Guess(NamedTuple):
    """The loss of the best constant; and of no preference, if that is more: what a first loss is held to."""

    best: float | None
    fair: float | None


def guess_of(model: keras.Model, loss: Any, labels: Any, width: int) -> Guess:
    """What guessing costs, with `width` numbers side by side in the first output."""
    best = loss_of_guessing(model, loss, labels)
    if best is None:
        return Guess(None, None)
    loss = loss if loss is not None else model.loss
    kind, focus = CROSSENTROPIES.get(loss_name(loss)), focus_of(loss)
    if kind is None:
        return Guess(best, best)
    chance = 1 / 2 if kind == "yes" else 1 / max(width, 1)
    return Guess(best, max(best, float(np.max(focus.yes) * _surprise(chance, focus))))


def loss_of_guessing(model: keras.Model, loss: Any, labels: Any) -> float | None:
    """The loss of the best constant, for crossentropies and squared and absolute errors; else None."""
    loss = loss if loss is not None else getattr(model, "loss", None)
    if not hasattr(labels, "shape") or not loss:
        return None
    name = loss_name(loss)
    answers = labels.astype("float64")
    if name in CROSSENTROPIES:
        return _entropy(CROSSENTROPIES[name], answers, focus_of(loss))
    if name in ("mean_squared_error", "mse"):
        return float(np.mean(np.var(answers, axis=0)))
    if name in ("mean_absolute_error", "mae"):
        return float(np.mean(np.abs(answers - np.median(answers, axis=0))))
    return None


def _entropy(kind: str, answers: Any, focus: Focus) -> float:
    """The loss of the best constant: without a focus, the entropy of the labels."""
    if kind == "yes":
        share = answers.mean(axis=0)[..., None]
        tried = np.linspace(0, 1, 1001) if focus.gamma else share
        costs = share * focus.yes * _surprise(tried, focus)
        costs = costs + (1 - share) * focus.no * _surprise(1 - tried, focus)
        return float(np.mean(costs.min(axis=-1)))
    if kind == "classes":
        _, counts = np.unique(answers, return_counts=True)
        shares = counts / counts.sum()
    else:
        shares = answers.reshape(-1, answers.shape[-1]).mean(axis=0)
    weights = shares * np.asarray(focus.yes)
    # A focal loss likes best what is flatter than the shares: some power of them, exactly so for two classes.
    powers = np.linspace(0, 1, 101)[:, None] if focus.gamma else np.ones((1, 1))
    tried = np.where(weights > 0, weights, 0.0) ** powers * (weights > 0)
    tried /= tried.sum(axis=1, keepdims=True)
    return float(np.min(_surprise(tried, focus) @ weights))


def _surprise(chances: Any, focus: Focus) -> Any:
    return -((1 - chances) ** focus.gamma) * np.log(np.clip(chances, _LEAST, 1))


See = Callable[[Any], None]  # is given a tensor with values


def tap(tensor: Any, source: Any, see: See, see_gradient: See) -> Any:
    """The tensor; its values are shown at once, those of its gradient later."""
    return _TAPS[keras.backend.backend()](tensor, source, see, see_gradient)


def gradient(objective: Callable[[Any], Any]) -> None:
    """Compute the gradient of a scalar function of the source, for its taps."""
    _GRADIENTS[keras.backend.backend()](objective)


def _tap_tensorflow(tensor: Any, source: Any, see: See, see_gradient: See) -> Any:
    import tensorflow as tf  # noqa: PLC0415 - the backend in use

    def identity(x: Any, scalar: Any) -> Any:
        def back(upstream: Any) -> Any:
            see_gradient(tf.convert_to_tensor(upstream))  # that of a look-up is one of rows alone
            return upstream, tf.zeros_like(scalar)

        return tf.identity(x), back

    see(tensor)
    return tf.custom_gradient(identity)(tensor, source)


def _gradient_tensorflow(objective: Callable[[Any], Any]) -> None:
    import tensorflow as tf  # noqa: PLC0415

    source = tf.constant(0.0)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(source)
        value = tf.convert_to_tensor(objective(source))
    tape.gradient(value, source)


def _tap_jax(tensor: Any, source: Any, see: See, see_gradient: See) -> Any:
    import jax  # noqa: PLC0415

    def forward(x: Any, scalar: Any) -> Any:
        see(x)
        return x, scalar

    def back(scalar: Any, upstream: Any) -> Any:
        see_gradient(upstream)
        return upstream, jax.numpy.zeros_like(scalar)

    identity = jax.custom_vjp(lambda x, _scalar: x)
    identity.defvjp(forward, back)
    return identity(tensor, source)


def _gradient_jax(objective: Callable[[Any], Any]) -> None:
    import jax  # noqa: PLC0415

    jax.grad(objective)(jax.numpy.zeros(()))


def _tap_torch(tensor: Any, source: Any, see: See, see_gradient: See) -> Any:
    import torch  # noqa: PLC0415 - the backend in use

    class Identity(torch.autograd.Function):
        """What does not copy, and has no sum for the source on the way back, as adding it would."""

        @staticmethod
        def forward(_context: Any, x: Any, _scalar: Any) -> Any:
            return x.view_as(x)

        @staticmethod
        def backward(_context: Any, upstream: Any) -> Any:
            see_gradient(upstream.detach())
            return upstream, torch.zeros((), device=source.device)

    see(tensor.detach())
    return Identity.apply(tensor, source)


def _gradient_torch(objective: Callable[[Any], Any]) -> None:
    import torch  # noqa: PLC0415

    source = torch.zeros((), requires_grad=True, device=keras.ops.zeros(()).device)
    value = objective(source)
    if value.requires_grad:  # else nothing that it depends on was tapped
        torch.autograd.grad(value, source, allow_unused=True)


_TAPS = {"tensorflow": _tap_tensorflow, "jax": _tap_jax, "torch": _tap_torch}
_GRADIENTS = {"tensorflow": _gradient_tensorflow, "jax": _gradient_jax, "torch": _gradient_torch}
