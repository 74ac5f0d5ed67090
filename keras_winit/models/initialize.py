"""Initialize, or reset, a whole built model: right scheme, right fans, independent seeds."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_winit.checks import as_bool, did_you_mean
from keras_winit.choose import for_activation
from keras_winit.models.fitting import fit, without_place
from keras_winit.models.following import Graph
from keras_winit.models.optimizer import reset_optimizer
from keras_winit.models.plan import Plan, Row
from keras_winit.models.slots import Slot, slots, unbuilt
from keras_winit.models.torch_defaults import torch_default
from keras_winit.models.undo import Undo, undo_on_failure
from keras_winit.progress import progress
from keras_winit.schemes import Scheme, names
from keras_winit.schemes.compose import Wrapper
from keras_winit.schemes.registry import get
from keras_winit.seeds import check_seed, fold, settle
from keras_winit.sharding import layout_of

# JAX goes ahead of Python. From this many elements it is waited for: one such tensor at a time.
_LARGE = 2**18

MODES = ("auto", "configured", "torch", "keep")


class _Rule(NamedTuple):
    pattern: re.Pattern[str] | None
    scheme: Any  # one of MODES, or an initializer

    def matches(self, slot: Slot) -> bool:
        return self.pattern is None or self.pattern.search(slot.path) is not None

    def names_the_variable(self, slot: Slot) -> bool:
        """Whether the rule is about this variable, and not about its layer as a whole."""
        layer = slot.path.removesuffix(slot.variable.name)
        return self.pattern is not None and self.pattern.search(layer) is None


class _Choice(NamedTuple):
    initializer: Any  # None: the variable is kept
    reason: str
    activation: str | None = None
    forget_bias: bool = True
    own: bool = False  # the layer's own initializer, to be drawn as the layer would


def initialize(
    model: keras.Model, scheme: Any = "auto", *, seed: int | None = None, dry_run: bool = False
) -> Plan:
    """Draw every weight of a built model anew, with the right scheme, fans and seed for each.

    Kernels and embeddings are drawn from the scheme with the exact fans of `layer_fans`. Recurrent
    kernels are drawn orthogonal, gate by gate; biases go to zero (an LSTM's forget gate to one, as
    the layer says); normalizations return to their initial values. Frozen, quantized and adapted
    weights are kept, and the plan says why. Each draw is recorded in the layer's own initializer,
    so that a saved model says how it was made (where an LSTM's forget gate is drawn too, as "torch"
    does, its `unit_forget_bias` becomes False). Where anything fails, the model is as it was.

    Args:
        model: a built model of any kind, or a built layer. If it is compiled, the optimizer's state
            is reset too.
        scheme: what to draw from:

            - "auto": by the activation that follows each layer, as `recommend` chooses;
            - the name of a scheme, or an initializer, for all kernels and embeddings;
            - "configured": each layer's own initializer, drawn afresh: a reset;
            - "torch": what PyTorch gives the counterpart of each layer, biases included;
            - "keep": nothing is drawn;
            - a mapping of regular expressions over variable paths to any of these: the first that
              is found in a path decides, and what none matches is kept. An expression that does
              not match without the variable's own name, such as "bias", is about that variable;
              any other is about the layer, whose biases go to zero as said above.
        seed: the root seed, an integer; None draws one, and the plan has it. The same seed gives
            the same weights in any process; layers with names of their own do not depend on others.
        dry_run: only say what would be done.

    Returns:
        A `Plan`; printing it shows a table.

    Raises:
        TypeError, ValueError: for an unbuilt model, an unknown scheme, a bad expression, or a
            weight that the scheme cannot draw.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)]
    ... )
    >>> plan = initialize(model, {"dense.*kernel": "orthogonal", ".*": "auto"}, seed=0)
    >>> [row.scheme for row in plan.rows]
    ['orthogonal', 'zeros', 'orthogonal', 'zeros']
    """
    as_bool("dry_run", dry_run)
    drawing = Drawing(model, scheme, seed)
    if not dry_run:
        with undo_on_failure() as undo:
            if drawing.carry_out(undo):
                drawing.reset_optimizer(undo)
    return drawing.plan(dry_run=dry_run)


class Drawing:
    """What is to be drawn in a model, every decision made and checked, nothing changed yet.

    Attributes:
        seed: the root seed.
        slots: the variables of the model.
    """

    def __init__(self, model: keras.Model, scheme: Any, seed: int | None) -> None:
        self.seed = _root_seed(seed)
        rules = _rules(scheme)
        self.slots = slots(model)
        self._model = model
        graph = Graph(model)
        drawn_seeds: set[int] = set()
        self._steps = []
        for slot in self.slots:
            place_seed = fold(self.seed, slot.place)
            while place_seed in drawn_seeds:  # one in two thousand million for each pair of weights
                place_seed = fold(place_seed, "again")
            drawn_seeds.add(place_seed)
            self._steps.append((slot, *_step(slot, rules, graph, place_seed)))
        optimizer = getattr(model, "optimizer", None)
        self.stateful = optimizer is not None and optimizer.built

    @property
    def _draws(self) -> bool:
        return any(choice.initializer is not None for _, choice, _ in self._steps)

    def carry_out(self, undo: Undo, *, show: bool = True) -> bool:
        """Draw; what is changed is noted in `undo`. Returns whether anything was to be drawn."""
        todo = [(slot, choice) for slot, choice, _ in self._steps if choice.initializer is not None]
        with progress("drawing", len(todo), show=show) as advance:
            for slot, choice in todo:
                _draw(slot, choice, undo)
                advance()
        return bool(todo)

    def reset_optimizer(self, undo: Undo) -> None:
        """Give the optimizer's state the values that it starts with, if it has one."""
        if self.stateful:
            reset_optimizer(self._model, undo)

    def plan(self, *, dry_run: bool) -> Plan:
        """What is done, or would be."""
        resets = self.stateful and self._draws
        note = "the optimizer's state is reset too" if resets else "there is no optimizer state to reset"
        return Plan(tuple(row for _, _, row in self._steps), self.seed, note, dry_run, unbuilt(self._model))


def _root_seed(seed: Any) -> int:
    checked = check_seed(seed)
    if isinstance(checked, keras.random.SeedGenerator):
        raise TypeError(
            f"`seed` of a whole model must be an integer or None. Received: seed={seed!r}. "
            "Each weight's own seed follows from it and the weight's place."
        )
    return int(settle(checked))


def _rules(scheme: Any) -> list[_Rule]:
    if not isinstance(scheme, Mapping) or "class_name" in scheme:
        return [_Rule(None, _scheme(scheme))]
    rules = []
    for pattern, item in scheme.items():
        try:
            rules.append(_Rule(re.compile(pattern), _scheme(item)))
        except (re.error, TypeError) as error:
            if isinstance(pattern, str) and not isinstance(error, re.error):
                raise
            raise ValueError(
                f"A key of `scheme` must be a regular expression over variable paths. "
                f"Received: {pattern!r}: {error}."
            ) from error
    return rules


def _scheme(item: Any) -> Any:
    """A mode, or an initializer."""
    if isinstance(item, str) and item in MODES:
        return item
    if isinstance(item, str) and item.removeprefix("winit>") not in names(aliases=True):
        hint = did_you_mean(item, (*MODES, *names(aliases=True)))
        raise ValueError(
            f"`scheme` must be one of {list(MODES)}, the name of a scheme, an initializer, or a mapping of "
            f"regular expressions to these. Received: {item!r}.{hint}"
        )
    if callable(item) and not isinstance(item, (type, keras.initializers.Initializer)):
        return item  # a function of shape and dtype, as Keras takes it
    return get(item)


def _step(slot: Slot, rules: list[_Rule], graph: Graph, seed: int) -> tuple[_Choice, Row]:
    choice = _choose(slot, rules, graph)
    if choice.initializer is not None:
        fitted = fit(choice.initializer, slot, seed, own=choice.own)
        choice = choice._replace(initializer=fitted)
        if isinstance(fitted, Scheme):
            try:
                fitted.check_shape(slot.shape)
            except ValueError as error:
                raise ValueError(
                    f"{_describe(fitted)} cannot draw {slot.path!r} of shape {slot.shape}: {error} "
                    "Give a mapping that names another scheme for it."
                ) from error
    row = Row(
        slot.path,
        slot.shape,
        slot.role,
        slot.fans,
        choice.activation,
        None if choice.initializer is None else _describe(choice.initializer),
        getattr(choice.initializer, "seed", None),
        choice.reason,
    )
    return choice, row


def _choose(slot: Slot, rules: list[_Rule], graph: Graph) -> _Choice:
    if slot.kept:
        return _Choice(None, slot.kept)
    rule = next((rule for rule in rules if rule.matches(slot)), None)
    if rule is None:
        return _Choice(None, "no expression matches")
    if rule.scheme == "keep":
        return _Choice(None, "as the rule says")
    if rule.scheme == "torch":
        initializer, reason = torch_default(slot)
        if initializer is not None:
            return _Choice(initializer, reason, forget_bias=False)
        return _own(slot, "its initial value")
    if rule.scheme == "configured":
        return _own(slot, "the layer's own initializer, drawn afresh")
    if not isinstance(rule.scheme, str) and rule.names_the_variable(slot):
        return _Choice(rule.scheme, "the rule names this variable", forget_bias=False)
    if slot.role == "recurrent":
        return _Choice(get("orthogonal"), "recurrent: keeps the length of the state, gate by gate")
    if slot.role == "bias":
        return _Choice(get("zeros"), "a bias" + (", its forget gate one" if slot.forget_bias else ""))
    if slot.role not in ("kernel", "embedding"):
        return _own(slot, "its initial value")
    if rule.scheme == "auto":
        activation, how = graph.activation_after(slot)
        try:
            return _Choice(for_activation(activation), how, activation.name)
        except ValueError:  # one that joins features, or is not finite
            reason = f"{how}, and has no gain: as a linear layer"
            return _Choice(for_activation(None), reason, activation.name)
    return _Choice(rule.scheme, "as asked")


def _own(slot: Slot, reason: str) -> _Choice:
    configured = slot.configured
    if configured is None:
        return _Choice(None, "no initial value is known for it")
    return _Choice(configured, reason, own=True)


def _draw(slot: Slot, choice: _Choice, undo: Undo) -> None:
    variable, initializer = slot.variable, choice.initializer
    undo.keep(variable)  # before the new value is drawn: two copies at a time, never three
    layout = layout_of(variable)
    options = {} if layout is None or not isinstance(initializer, Scheme) else {"layout": layout}
    value = initializer(slot.shape, dtype=variable.dtype, **options)
    if tuple(value.shape) != slot.shape:
        raise ValueError(
            f"{_describe(initializer)} returned shape {tuple(value.shape)} for {slot.path!r}, whose shape is "
            f"{slot.shape}."
        )
    if slot.forget_bias and choice.forget_bias:
        units = slot.shape[-1] // 4
        ones = ops.ones((units,), dtype=value.dtype)
        value = ops.concatenate([value[:units], ones, value[2 * units :]])
    elif slot.forget_bias:
        undo.set_attribute(slot.layer, "unit_forget_bias", False)
    variable.assign(value)
    if math.prod(slot.shape) >= _LARGE:
        getattr(value, "block_until_ready", lambda: None)()
    for owner, attribute in slot.recorders():
        record = initializer if owner is slot.layer else without_place(initializer)
        undo.set_attribute(owner, attribute, record)


def _describe(initializer: Any) -> str:
    if isinstance(initializer, Wrapper):
        return f"{initializer.name}({_describe(initializer.initializer)})"
    if isinstance(initializer, Scheme):
        return initializer.name
    return getattr(initializer, "__name__", type(initializer).__name__)
