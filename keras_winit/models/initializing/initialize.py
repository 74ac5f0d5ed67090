"""Initialize, or reset, a whole built model: right scheme, right fans, independent seeds."""

import contextlib
import math
from typing import Any

import keras
from keras import ops

from keras_winit.drawing.seeds import check_seed, fold, settle
from keras_winit.drawing.sharding import layout_of
from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.slots import ASKED, Slot
from keras_winit.models.initializing.choosing import Chooser
from keras_winit.models.initializing.fitting import fit, is_as_asked, remember, without_place
from keras_winit.models.initializing.plan import Plan, Row, rules_of, unmatched
from keras_winit.models.recipes import Choice
from keras_winit.models.running.undo import (
    Undo,
    rate_of,
    reset_optimizer,
    reset_states,
    states_of,
    undo_on_failure,
)
from keras_winit.models.tracing.structure import unbuilt
from keras_winit.schemes import Scheme
from keras_winit.schemes.compose import Wrapper
from keras_winit.schemes.structured import Identity
from keras_winit.support.checks import as_bool, shown
from keras_winit.support.host import building
from keras_winit.support.printing import progress

# JAX goes ahead of Python: it is waited for after so many elements.
_AHEAD = 2**22


def initialize(
    model: keras.Model,
    scheme: Any = "auto",
    *,
    seed: int | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
) -> Plan:
    """Draw every weight of a built model anew, with the right scheme, fans and seed for each.

    Kernels and embeddings are drawn from the scheme with the exact fans of `layer_fans`. Recurrent
    kernels are drawn orthogonal, gate by gate; biases go to zero (an LSTM's forget gate to one, as
    the layer says); normalizations return to their initial values. Frozen, quantized and adapted
    weights are kept, and the plan says why. Each draw is recorded in the layer's own initializer,
    so that a saved model says how it was made (where an LSTM's forget gate is drawn too, as "torch" does, its
    `unit_forget_bias` becomes False). Random generators, as those of dropout, and stateful recurrent layers
    start over where all of the model does. Where anything fails, the model is as it was.

    Args:
        model: a built model of any kind, or a built layer. If it is compiled, the optimizer's state
            is reset too.
        scheme: what to draw from:

            - "auto": by the activation that follows each layer, as `recommend` chooses; in chains of
              fewer than ten kernels, with nothing that normalizes or adds between, Glorot's in place of
              He's, which learn faster there; orthogonal where a normalization, with ReLU or the like
              between or not, divides by the size of a kernel: what is left of that is how fast it learns,
              and a kernel of He's size learns more slowly. Where the layer asks for a fifth to four fifths
              of that size, as depthwise ones do by default, it is as the layer asks. The last kernels of L
              residual branches, four or more, are 1/√L times as large, 1/L where the sum is normalized; with
              eight or more, the γ of a normalization that ends one is 0.3, if not asked for. Output layers,
              "answers" in the plan, start so small that the first loss is near that of guessing. Kernels of
              queries alone are 0.3 times as large in post-norm branches: attention starts nearly even.
              Embeddings are drawn as their layers ask; tables that are added to each other, as of tokens
              and positions, get one scale, the largest table's. Where they start a stream of 16 pre-norm
              branches or more, or tell places beside patches that nothing else tells, it is one;
            - the name of a scheme, or an initializer, for all kernels and embeddings;
            - "looks_linear": a network that starts as a linear one, or nearly, at any depth and with
              any activation. Each kernel is told what feeds it and what reads it; the pairing goes
              through dropout, pooling, padding and reshaping, and starts afresh after whatever
              normalizes, joins or mixes units. What has nothing to pair is drawn as by "auto". In long
              chains biases put units where twins are most nearly linear (ELU, SELU) or where activations are
              flat (GELU, SiLU, Mish, sigmoid); before tanh and softsign variances fall from layer to layer;
            - "configured": the initializer that each layer holds, drawn afresh: a reset. After another
              draw that is what was recorded then, and no longer what the layer was built with;
            - the name of a recipe, such as "gpt2" or "torch": a published initialization of a whole model,
              embeddings, biases and normalizations included as its source has it. `recipes` lists them;
            - "keep": nothing is drawn;
            - a mapping of regular expressions over variable paths to any of these: the first that
              is found in a path decides, and what none matches is kept. An expression that does
              not match without the variable's own name, such as "bias", is about that variable
              ("lora" draws the first factor of adapters anew and zeroes the second);
              any other is about the layer, whose biases go to zero as said above.
        seed: the root seed, an integer; None draws one, and the plan has it. The same seed gives
            the same weights in any process; layers with names of their own do not depend on others.
        dry_run: only say what would be done.
        overwrite: whether to draw anew also what a layer asks for on purpose: zeros, ones, constants, arrays
            and functions where these are not Keras' default, draws near zero, orthogonal with a gain, and
            schemes with a purpose, such as `Siren`, `Scaled`, `Identity` or `PriorBias`. Without it these are
            drawn as asked, with the right fans and a seed of their own, unless an expression that names the
            variable or its layer gives a scheme.

    Returns:
        A `Plan`; printing it shows a table.

    Raises:
        TypeError, ValueError: for an unbuilt model, an unknown scheme, a bad expression, a weight that the
            scheme cannot draw, or a model that the recipe is not for.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)]
    ... )
    >>> plan = initialize(model, {"dense.*kernel": "orthogonal", ".*": "auto"}, seed=0)
    >>> [row.scheme for row in plan.rows]
    ['orthogonal', 'zeros', 'orthogonal', 'zeros']
    """
    as_bool("dry_run", dry_run)
    as_bool("overwrite", overwrite)
    drawing = Drawing(model, scheme, seed, overwrite=overwrite)
    if dry_run:
        return drawing.plan(dry_run=True)
    with undo_on_failure() as undo:
        if drawing.carry_out(undo):
            drawing.reset_states(undo)
            drawing.reset_optimizer(undo)
        return drawing.plan(dry_run=False)


class Drawing:
    """What is to be drawn in a model: decided and checked, nothing changed yet."""

    def __init__(
        self,
        model: keras.Model,
        scheme: Any,
        seed: int | None,
        data: Any = None,
        *,
        overwrite: bool = False,
        measured: bool = False,
    ) -> None:
        self.seed = root_seed(seed)
        self.anatomy = Anatomy(model, data)
        self.slots = self.anatomy.slots
        rules = rules_of(scheme)
        self._chooser = Chooser(self.anatomy, rules, overwrite=overwrite, measured=measured)
        self._choices: dict[Slot, Choice] = {}
        drawn_seeds: set[int] = set()
        for slot in self.slots:
            place_seed = fold(self.seed, slot.place)
            while place_seed in drawn_seeds:  # one in two thousand million for each pair of weights
                place_seed = fold(place_seed, "again")
            drawn_seeds.add(place_seed)
            choice = self._chooser.choice(slot)
            seed = place_seed if choice.pair is None else fold(self.seed, choice.pair.place, "pair")
            self._choices[slot] = _fitted(slot, choice, seed)
        self._rows = [_row(slot, choice) for slot, choice in self._choices.items()]
        self._states = states_of(model) if self.drawn and all(rule.is_about_all for rule in rules) else []
        self.unmatched = unmatched(rules, self.slots)
        optimizer = getattr(model, "optimizer", None)
        self._optimizer = optimizer if optimizer is not None and optimizer.built else None

    @property
    def drawn(self) -> dict[Slot, Any]:
        """The variables that are drawn anew, and what from."""
        found = {slot: choice.initializer for slot, choice in self._choices.items()}
        return {slot: initializer for slot, initializer in found.items() if initializer is not None}

    @property
    def asked(self) -> dict[Slot, str]:
        """What layers ask for on purpose, and still have, and why."""
        found = {}
        for slot, choice in self._choices.items():
            kept = choice.initializer is None and choice.named and not slot.kept
            reason = self._chooser.purpose(slot) if choice.asked or choice.own or kept else None
            if reason and (not kept or is_as_asked(slot)):
                found[slot] = reason
        return found

    @property
    def untouched(self) -> set[Slot]:
        """The variables that a mapping keeps, or does not name."""
        return {slot for slot, choice in self._choices.items() if not choice.named}

    def carry_out(self, undo: Undo, *, show: bool = True) -> bool:
        """Draw, and say whether anything was to be drawn."""
        todo, ahead = self.drawn, 0
        with progress("drawing", len(todo), show=show) as advance:
            for slot in todo:
                value = _draw(slot, self._choices[slot], undo)
                ahead += math.prod(slot.shape)
                if ahead >= _AHEAD:
                    getattr(value, "block_until_ready", lambda: None)()
                    ahead = 0
                del value  # else it would be there while the next is drawn
                advance()
        return bool(todo)

    def reset_states(self, undo: Undo) -> None:
        """Let random generators and recurrent states start over."""
        reset_states(self._states, undo)

    def reset_optimizer(self, undo: Undo) -> None:
        """Let the optimizer start over."""
        if self._optimizer is not None:
            reset_optimizer(self._optimizer, undo)

    def plan(self, *, dry_run: bool) -> Plan:
        """What is done, or would be."""
        rows = [*self._rows]
        for state in self._states:
            shape = tuple(int(size) for size in state.variable.shape)
            rows.append(Row(state.variable.path, shape, "state", None, None, "start", None, state.reason))
        note, never = self.note(resets=bool(self.drawn)), unbuilt(self.anatomy.model)
        return Plan(tuple(rows), self.seed, note, dry_run, never, self.unmatched)

    def note(self, *, resets: bool) -> str:
        """What becomes of the optimizer."""
        if self._optimizer is None or not resets:
            return "there is no optimizer state to reset"
        return f"the optimizer's state is reset too; {rate_of(self._optimizer)}"


def root_seed(seed: Any) -> int:
    """The root seed of a whole model."""
    checked = check_seed(seed)
    if isinstance(checked, keras.random.SeedGenerator):
        raise TypeError(
            f"`seed` of a whole model must be an integer or None. Received: seed={shown(seed)}. "
            "Each weight's own seed follows from it and the weight's place."
        )
    return int(settle(checked))


def _fitted(slot: Slot, choice: Choice, seed: int) -> Choice:
    if choice.initializer is None:
        return choice
    fitted = fit(choice.initializer, slot, seed, own=choice.own, asked=choice.asked)
    if isinstance(fitted, Scheme):
        try:
            with _building(fitted, slot):
                fitted.check_shape(slot.shape)
        except ValueError as error:
            raise ValueError(
                f"{_describe(fitted)} cannot draw {slot.path!r} of shape {slot.shape}: {error} "
                "Give a mapping that names another scheme for it."
            ) from error
    return choice._replace(initializer=fitted)


def _row(slot: Slot, choice: Choice) -> Row:
    scheme = None if choice.initializer is None else _describe(choice.initializer)
    seed = getattr(choice.initializer, "seed", None)
    return Row(slot.path, slot.shape, slot.role, slot.fans, choice.activation, scheme, seed, choice.reason)


def _building(initializer: Any, slot: Slot) -> contextlib.AbstractContextManager[Any]:
    """Tells a scheme which layer it is for, if it asks."""
    asks = isinstance(initializer, (Wrapper, Identity))
    return building(slot.layer) if asks else contextlib.nullcontext()


def _draw(slot: Slot, choice: Choice, undo: Undo) -> Any:
    """Draw and assign a variable's new value, and record how."""
    variable, initializer = slot.variable, choice.initializer
    undo.keep(variable)  # before the new value is drawn: two copies at a time, never three
    layout = layout_of(variable)
    options = {"layout": layout} if layout is not None and isinstance(initializer, Scheme) else {}
    with _building(initializer, slot):
        value = initializer(slot.shape, dtype=variable.dtype, **options)
    if tuple(value.shape) != slot.shape:
        raise ValueError(
            f"{_describe(initializer)} returned shape {tuple(value.shape)} for {slot.path!r}, whose shape is "
            f"{slot.shape}."
        )
    if slot.forget_bias and choice.forget_bias:
        units = slot.shape[-1] // 4
        value = ops.concatenate([value[:units], ops.ones((units,), value.dtype), value[2 * units :]])
    elif slot.forget_bias:
        undo.set_attribute(slot.layer, "unit_forget_bias", False)
    variable.assign(value)
    # A record that is drawn again is no more asked for than it was.
    if not (choice.asked or choice.own) or hasattr(slot.configured, ASKED):
        remember(initializer, slot.asked)
    for owner, attribute in slot.recorders():
        record = initializer if owner is slot.layer else without_place(initializer)
        undo.set_attribute(owner, attribute, record)
    return value


def _describe(initializer: Any) -> str:
    if isinstance(initializer, Wrapper):
        return f"{initializer.name}({_describe(initializer.initializer)})"
    if isinstance(initializer, Scheme):
        return initializer.name
    return getattr(initializer, "__name__", type(initializer).__name__)
