"""What every scheme is: an initializer with a name, a formula, a source and a configuration.

A scheme declares data (its arguments, its formula, its source) and one method, `draw`. Checks
of shape and dtype, seeds, casting and configuration are written here, once.
"""

import inspect
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from keras_winit.drawing.seeds import check_seed, compute_dtype, settle
from keras_winit.drawing.sharding import laid_out
from keras_winit.support.checks import (
    Shape,
    as_axes,
    as_dtype,
    as_shape,
    check_nesting,
    check_size,
    revived,
    shown,
)
from keras_winit.support.host import is_traced
from keras_winit.theory.fans import Fans, MatrixView, compute_fans, resolve_axes

_PARAMETERS: dict[type, Mapping[str, inspect.Parameter]] = {}  # reading a signature is slow


class Scheme(keras.initializers.Initializer):
    """The base of every scheme.

    A subclass stores each argument of its constructor in an attribute of the same name, and
    draws in `draw`, in the dtype it is given: float32, or float64 where that was asked for. One
    that is not `random` also takes integer dtypes.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]]
    formula: ClassVar[str]
    source: ClassVar[str]
    ranks: ClassVar[tuple[int, int | None]] = (0, None)
    random: ClassVar[bool] = True
    # Whether an output's weights are drawn in view of another's, so that the gates of a recurrent
    # kernel and the groups of a convolution have to be drawn apart.
    blockwise: bool = False
    # Whether `draw` can be asked for bfloat16: it computes in float32, and rounds a large tensor by pieces.
    rounds: bool = False
    # Whether a part of a weight cannot be drawn without the rest of it, whatever its shape.
    whole: bool = False

    seed: Any

    def draw(self, shape: Shape, dtype: str) -> Any:
        """A tensor of this shape and compute dtype."""
        raise NotImplementedError(f"{type(self).__name__} must define `draw(shape, dtype)`.")

    def drawn_whole(self, shape: Shape) -> bool:
        """Whether a part of a weight of this shape cannot be drawn without the rest of it."""
        return self.whole

    def expected_std(self, shape: Sequence[int]) -> float | None:
        """The standard deviation that this scheme gives a weight of this shape, by its formula.

        Args:
            shape: positive integers.

        Returns:
            A float, or None where the scheme has no single deviation, as a constant array.
        """
        return None

    def __call__(self, shape: Any, dtype: Any = None, layout: Any = None) -> Any:
        """A tensor of the given shape, drawn from this scheme.

        Args:
            shape: positive integers.
            dtype: the name of a dtype; None means `keras.config.floatx()`. Whatever it is,
                numbers are drawn in float32 or wider and then rounded to the nearest. Small ones
                become subnormal in float16; a tensor that would round to zeros alone is refused.
            layout: on JAX, how to distribute the tensor over devices: a
                `keras.distribution.TensorLayout` or a `jax.sharding.Sharding`. Each device then
                draws its own part; a small orthogonal matrix, and one from a `SeedGenerator`, is
                drawn whole. The numbers are those of a tensor on one device, but for rounding.

        Returns:
            A tensor of the backend.

        Raises:
            TypeError, ValueError: where the shape or dtype is impossible for this scheme.
        """
        shape = self.check_shape(shape)
        dtype = as_dtype(dtype)
        if self.random and not keras.backend.is_float_dtype(dtype):
            raise ValueError(
                f"{type(self).__name__} draws real numbers and needs a floating-point `dtype`. "
                f"Received: dtype={dtype!r}."
            )
        if layout is not None:
            moving = isinstance(getattr(self, "seed", None), keras.random.SeedGenerator)
            whole = moving or self.drawn_whole(shape)
            return laid_out(lambda: self._drawn(shape, dtype), layout, whole=whole)
        return self._drawn(shape, dtype)

    def _drawn(self, shape: Shape, dtype: str) -> Any:
        if dtype == "bfloat16" and self.rounds:
            return self.draw(shape, dtype)
        wide = compute_dtype(dtype)
        tensor = self.draw(shape, wide)
        if wide == dtype:
            return tensor
        rounded = ops.cast(tensor, dtype)
        if dtype != "float16" or is_traced(rounded):
            return rounded
        if not ops.all(ops.isfinite(rounded)):
            raise ValueError(
                f"What {type(self).__name__} draws for the shape {shape!r} is beyond float16's largest "
                "number and rounds to infinity. Use dtype='bfloat16' or 'float32'."
            )
        if self.random and not ops.any(rounded) and ops.any(tensor):
            raise ValueError(
                f"All that {type(self).__name__} draws for the shape {shape!r} is below float16's least "
                "number and rounds to zero. Use dtype='bfloat16' or 'float32'."
            )
        return rounded

    def check_shape(self, shape: Any) -> Shape:
        """The shape as a tuple, if this scheme can draw it."""
        dims = as_shape(shape)
        check_size(dims)
        low, high = self.ranks
        if len(dims) < low or (high is not None and len(dims) > high):
            wanted = f"{low} or more" if high is None else f"{low} to {high}"
            wanted = str(low) if low == high else wanted
            raise ValueError(
                f"{type(self).__name__} needs a shape of {wanted} dimensions. "
                f"Received: shape={dims!r} of {len(dims)}."
            )
        return dims

    def set_seed(self, seed: Any) -> None:
        """Keep the seed as it was given, for the configuration, and settle the one to draw with."""
        self._given_seed = check_seed(seed)
        self.seed = settle(self._given_seed)

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments as they are, functions among them; the seed as it was given."""
        return {
            key: self._given_seed if key == "seed" else getattr(self, key) for key in parameters(type(self))
        }

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON."""
        return {
            key: value if type(value) in _AS_THEY_ARE else _serialized(value)
            for key, value in self.arguments().items()
        }

    def clone(self) -> Any:
        """Another scheme with the same arguments."""
        return remade(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """The scheme that `get_config` described.

        Raises:
            TypeError, ValueError: for keys that the scheme does not have, and bad values.
        """
        if not isinstance(config, Mapping):
            raise TypeError(f"A config of {cls.__name__} must be a dict. Received: {shown(config)}.")
        check_nesting(config)
        known = parameters(cls)
        unknown = [key for key in config if key not in known]
        if unknown:
            raise ValueError(
                f"{cls.__name__} has no argument {shown(unknown[0])}. It takes {list(known)}. "
                f"Received: config={shown(dict(config))}."
            )
        return cls(**{key: _revive(value) for key, value in config.items()})

    @reprlib.recursive_repr()
    def __repr__(self) -> str:
        shown = []
        for key, parameter in parameters(type(self)).items():
            value = self._given_seed if key == "seed" else getattr(self, key)
            if isinstance(value, keras.random.SeedGenerator):
                shown.append(f"{key}=SeedGenerator({value.get_config()['seed']})")
            elif not _equal(value, parameter.default):
                shown.append(f"{key}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class KernelScheme(Scheme, keras.initializers.VarianceScaling):
    """A scheme that tells a weight's inputs from its outputs.

    Keras hands the axes of an einsum only to subclasses of its `VarianceScaling`, which is why
    this is one. Keras' own constructor is not called: the modes here are more than Keras knows.
    """

    input_axes: list[int] | None
    output_axes: list[int] | None

    def __init__(self, seed: Any = None, *, input_axes: Any = None, output_axes: Any = None) -> None:
        self.input_axes = as_axes("input_axes", input_axes)
        self.output_axes = as_axes("output_axes", output_axes)
        if (self.input_axes is None) != (self.output_axes is None):
            raise ValueError(
                "`input_axes` and `output_axes` go together: give both or neither. "
                f"Received: input_axes={input_axes!r}, output_axes={output_axes!r}."
            )
        self.set_seed(seed)

    def view(self, shape: Shape) -> MatrixView:
        """The shape as matrices: by the axes given, else all but the last by the last."""
        rank = len(shape)
        given = resolve_axes(shape, self.input_axes, self.output_axes)
        return MatrixView(shape, *(given or (list(range(rank - 1)), [rank - 1])))

    def shape_fans(self, shape: Shape) -> Fans:
        """The fans of a shape by the axes given, else by Keras' convention."""
        return compute_fans(shape, self.input_axes, self.output_axes)


def arguments_of(initializer: Any) -> dict[str, Any]:
    """What an initializer was made with: of a scheme its arguments, of any other its configuration."""
    return initializer.arguments() if _tells_all(initializer) else dict(initializer.get_config())


def remade(initializer: Any, /, **changed: Any) -> Any:
    """A copy of an initializer that shares nothing that moves with it, with some arguments changed."""
    arguments = {**arguments_of(initializer), **changed}
    if not _tells_all(initializer):
        return type(initializer).from_config(arguments)
    for key in arguments.keys() - changed.keys():
        value = arguments[key]
        if isinstance(value, keras.random.SeedGenerator):
            arguments[key] = type(value).from_config(value.get_config())
        elif isinstance(value, keras.initializers.Initializer):
            arguments[key] = remade(value)
    return type(initializer)(**arguments)


def _tells_all(initializer: Any) -> bool:
    """Whether an initializer's arguments are its attributes; a user's own may keep them otherwise."""
    kind = type(initializer)
    plain = getattr(kind, "from_config", None)
    return (
        isinstance(initializer, Scheme)
        and kind.get_config is Scheme.get_config
        and getattr(plain, "__func__", None) is Scheme.from_config.__func__  # type: ignore[attr-defined]
    )


def parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    """The arguments of a class' constructor by name."""
    if cls not in _PARAMETERS:
        _PARAMETERS[cls] = inspect.signature(cls).parameters
    return _PARAMETERS[cls]


# What JSON holds as it is.
_AS_THEY_ARE = {type(None), bool, int, float, str}


def _serialized(value: Any) -> Any:
    """A value of a constructor, ready for JSON."""
    return list(value) if isinstance(value, tuple) else keras.saving.serialize_keras_object(value)


def _revive(value: Any) -> Any:
    """A value of a config, with serialized objects made again; anything else as it is."""
    if isinstance(value, Mapping) and "class_name" in value:
        return revived(value)
    return value


def _equal(value: Any, default: Any) -> bool:
    try:
        return bool(value == default)
    except ValueError:  # an array
        return False
