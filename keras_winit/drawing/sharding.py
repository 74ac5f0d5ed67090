"""Weights that are laid out over many devices, as `keras.distribution` asks for on JAX."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_winit.support.host import is_traced

_DEVICES = 8  # or fewer that divide it


def laid_out(draw: Callable[[], Any], layout: Any, *, whole: bool) -> Any:
    """The tensor that `draw` returns, distributed by a `keras.distribution.TensorLayout` or a JAX sharding.

    Where it is split, one compiled program draws it, in which every device computes its own part: JAX's
    random bits depend on the key and an element's place, not on the number of devices.

    Args:
        whole: whether parts cannot be computed apart, or `draw` cannot be compiled: it is called as it is,
            and the tensor distributed afterwards.

    Raises:
        ValueError: on another backend than JAX, and for a layout without devices.
    """
    if keras.backend.backend() != "jax":
        raise ValueError(
            "`layout` distributes a weight over devices, which only the JAX backend does. "
            f"Received: layout={layout!r} on the {keras.backend.backend()!r} backend. Leave it out."
        )
    import jax  # noqa: PLC0415 - the backend in use

    layout = getattr(layout, "backend_layout", layout)
    if isinstance(getattr(layout, "mesh", None), jax.sharding.AbstractMesh):
        # Keras calls inside `jax.sharding.explicit_axes`, where each operation has to say how its result is
        # laid out; here the compiler finds out.
        mesh = jax.sharding.get_mesh()
        with jax.set_mesh(mesh):
            return laid_out(draw, jax.sharding.NamedSharding(mesh, layout.spec), whole=whole)
    if whole or layout.is_fully_replicated:
        return jax.device_put(draw(), layout)
    return program(draw, layout)()


def program(draw: Callable[[], Any], layout: Any) -> Any:
    """The program, to be compiled, in which each device draws its part."""
    import jax  # noqa: PLC0415 - the backend in use

    return jax.jit(draw, out_shardings=layout)


def layout_of(variable: Any) -> Any:
    """The layout of a variable, or None; backends other than JAX ignore theirs."""
    return getattr(variable, "_layout", None) if keras.backend.backend() == "jax" else None


def side_by_side(blocks: list[Any]) -> Any:
    """Tensors joined along the last axis.

    Devices that compute parts of a joined tensor exchange parts of another axis, which is padded where their
    number divides none.
    """
    others = blocks[0].shape[:-1]
    if not others or not is_traced(blocks[0]) or any(size % _DEVICES == 0 for size in others):
        return ops.concatenate(blocks, axis=-1)
    edges = [[0, 0]] * (len(others) - 1) + [[0, -others[-1] % _DEVICES], [0, 0]]
    joined = ops.concatenate([ops.pad(block, edges) for block in blocks], axis=-1)
    return joined[..., : others[-1], :]
