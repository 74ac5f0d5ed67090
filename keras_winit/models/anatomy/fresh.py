"""The initial values that a layer gives its variables when it is made, asked of a twin of it.

The twin is made in a scope in which Keras notes what each variable is drawn from and draws nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from keras_winit.models.tracing.interception import nothing_left
from keras_winit.models.tracing.opening import is_keras_call
from keras_winit.models.tracing.structure import owned


class FreshValues:
    """What each variable is drawn from when its layer is made; a twin is made once a layer."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, bool], dict[int, Any]] = {}

    def initializer(self, variable: Any, layer: Any, parents: Sequence[Any]) -> Any:
        """The initializer of a layer's own variable, or None where it cannot be told.

        What cannot be made by itself may be made with one of its parents, the innermost last.
        """
        # What a layer's own configuration leaves out, its attributes still have.
        both = [_from_config, _built_again] if is_keras_call(layer) else [_built_again, _from_config]
        for each in (layer, *parents[::-1]):
            whole = each is not layer
            if (id(each), whole) not in self._found:
                makes = [_from_config] if whole else both
                self._found[id(each), whole] = _initializers(each, makes, whole=whole)
            found = self._found[id(each), whole]
            if id(variable) in found:
                return found[id(variable)]
        return None


def _initializers(layer: Any, makes: Iterable[Callable[[Any], Any]], *, whole: bool) -> dict[int, Any]:
    """What the variables of a layer, its own or all inside, are drawn from in a twin of it."""

    def variables(of: Any) -> list[Any]:
        return [own for each in (of._flatten_layers() if whole else [of]) for own in owned(each)]

    own = variables(layer)
    for make in makes:
        with nothing_left(layer) as scope:
            try:
                pairs = _paired(own, variables(make(layer)))
            except Exception:  # whatever a class does that cannot be made so: the next way
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
    """A layer inside, of which the `build` around it may ask all but to be built again."""

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
    once = [shape for shape in shapes if shapes.count(shape) == others.count(shape) == 1]
    return [(own[shapes.index(shape)], twins[others.index(shape)]) for shape in once]


def _initializer(twin: Any, scope: Any) -> Any:
    value = scope.get_current_value(twin)
    if value is None:
        return twin._initializer

    def value_at_build(_shape: Any, dtype: Any = None) -> Any:
        return keras.ops.cast(value, dtype or value.dtype)

    return value_at_build
