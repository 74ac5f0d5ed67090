"""Taps: the identity, which shows the values that pass and, on the way back, their gradient.

Each tap also reads a scalar, the source. A gradient with respect to that source passes every tap,
and needs the gradient of no weight.
"""

from collections.abc import Callable
from typing import Any

import keras

# Is given a tensor with values.
See = Callable[[Any], None]


def tap(tensor: Any, source: Any, see: See, see_gradient: See) -> Any:
    """The tensor; its values are shown at once, those of its gradient when it is computed."""
    return _TAPS[keras.backend.backend()](tensor, source, see, see_gradient)


def gradient(objective: Callable[[Any], Any]) -> None:
    """Compute the gradient of a scalar function of the source, for what its taps show."""
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
