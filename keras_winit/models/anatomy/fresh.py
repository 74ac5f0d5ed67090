"""The initial values that a layer gives its variables when it is made, asked of a twin of it.

The twin is made in a scope in which Keras notes what each variable is to be drawn from and draws nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_winit.models.tracing.interception import nothing_left
from keras_winit.models.tracing.opening import is_keras_call
from keras_winit.models.tracing.structure import owned

_Make = Callable[[Any], Any]


class FreshValues:
    """What each variable of a model is drawn from when its layer is made; a twin is made once a layer."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, bool], dict[int, Any]] = {}

    def initializer(self, variable: Any, layer: Any, parents: Sequence[Any]) -> Any:
        """The initializer of a variable, or None where it cannot be told.

        Args:
            variable: a variable of the layer's own.
            layer: the layer, of which a twin is made.
            parents: the layers around it, the innermost last: what cannot be made by itself may be
                made with them.
        """
        # What a layer's own configuration leaves out, its attributes still have.
        makes: tuple[_Make, ...] = (_from_config, _built_again)
        makes = makes if is_keras_call(layer) else makes[::-1]
        ways = [(layer, makes), *((each, (_from_config,)) for each in parents[::-1])]
        for each, makes in ways:
            key = id(each), each is not layer
            if key not in self._found:
                self._found[key] = _initializers(each, makes, whole=each is not layer)
            if id(variable) in self._found[key]:
                return self._found[key][id(variable)]
        return None


def _initializers(layer: Any, makes: Sequence[Callable[[Any], Any]], *, whole: bool) -> dict[int, Any]:
    """What the variables of a layer, its own or all inside, are drawn from in a twin of it."""

    def variables(of: Any) -> list[Any]:
        return [own for each in (of._flatten_layers() if whole else [of]) for own in owned(each)]

    own = variables(layer)
    for make in makes:
        with nothing_left(layer) as scope:
            try:
                pairs = _paired(own, variables(make(layer)))
            except Exception:
                continue
            if pairs:
                return {id(variable): _initializer(twin, scope) for variable, twin in pairs}
    return {}


def _from_config(layer: Any) -> Any:
    twin = type(layer).from_config(layer.get_config())
    if layer.built and not twin.built:
        twin.build_from_config(layer.get_build_config() or {})
    return twin


def _built_again(layer: Any) -> Any:
    """A copy of a layer without its variables, on which its `build` is called again."""
    twin = object.__new__(type(layer))
    attributes = {name: _without_layers(item) for name, item in vars(layer).items()}
    for name in ("build", "call", "quantize", "_tracker", "_torch_params"):
        attributes.pop(name, None)
    vars(twin).update(attributes, built=False)
    twin._initialize_tracker()
    shapes = layer.get_build_config() or {}
    named = shapes.get("shapes_dict")
    if named:
        type(layer).build(twin, **named)
    else:
        type(layer).build(twin, shapes["input_shape"])
    return twin


class _Inert:
    """A layer inside, of which a `build` of what is around it may ask all but to be built again."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def build(self, *_arguments: Any, **_options: Any) -> None:
        """Nothing."""


def _without_layers(item: Any) -> Any:
    if isinstance(item, keras.layers.Layer):
        return _Inert(item)
    if isinstance(item, list):
        return list(map(_without_layers, item))
    if isinstance(item, tuple) and not hasattr(item, "_make"):
        return tuple(map(_without_layers, item))
    if isinstance(item, dict):
        return {key: _without_layers(each) for key, each in item.items()}
    return item


def _paired(own: list[Any], twins: list[Any]) -> list[tuple[Any, Any]]:
    """Each variable with its twin: by order where all shapes agree, else by shapes that are there once."""
    shapes, others = ([tuple(v.shape) for v in each] for each in (own, twins))
    if shapes == others:
        return list(zip(own, twins, strict=True))
    return [
        (variable, twins[others.index(shape)])
        for variable, shape in zip(own, shapes, strict=True)
        if shapes.count(shape) == others.count(shape) == 1
    ]


def _initializer(twin: Any, scope: Any) -> Any:
    value = scope.get_current_value(twin)
    if value is None:
        return twin._initializer
    return _assigned(value)


def _assigned(value: Any) -> Callable[..., Any]:
    def value_at_build(_shape: Any, dtype: Any = None) -> Any:
        return keras.ops.cast(value, dtype or value.dtype)

    return value_at_build
