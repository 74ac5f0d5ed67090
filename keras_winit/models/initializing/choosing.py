"""Which scheme each variable of a model is to be drawn from, and why."""

import math
from functools import cached_property
from typing import Any

import keras

from keras_winit.choose import for_activation
from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.branches import shares
from keras_winit.models.anatomy.following import (
    DEEP,
    Depths,
    activation_after,
    activation_before,
    answers,
    averaged,
)
from keras_winit.models.anatomy.normalizing import normalizations_after
from keras_winit.models.anatomy.slots import ADAPTER, STATISTICS, Slot
from keras_winit.models.initializing.fitting import asked_for, fit, std_of
from keras_winit.models.initializing.mirroring import Mirroring
from keras_winit.models.initializing.plan import MIRRORED, NOTHING_KNOWN, Rule
from keras_winit.models.initializing.sizes import TableSizes, factors
from keras_winit.models.recipes import Choice, Recipe, recipe_class, recipes
from keras_winit.schemes import Scheme
from keras_winit.schemes.compose import Scaled
from keras_winit.schemes.orthogonal import Orthogonal
from keras_winit.schemes.registry import get
from keras_winit.schemes.variance import HeNormal, HeUniform
from keras_winit.theory.activations import Activation, resolve
from keras_winit.theory.gains import gain

# Shares of an orthogonal kernel's size between which a layer's own is kept. One of a seventh, as ConvNeXt's
# N(0, 0.02²), learns worse.
_SMALLER = 0.2, 0.8


class Chooser:
    """Decides for each variable, by the first rule that matches and by what lies around it.

    With `overwrite`, what is asked for on purpose is drawn anew too; where `measured`, the size of kernels is
    measured later, and that of embeddings is not.
    """

    def __init__(
        self, anatomy: Anatomy, rules: list[Rule], *, overwrite: bool = False, measured: bool = False
    ) -> None:
        self._rules = rules
        self._overwrite, self._measured = overwrite, measured
        self._anatomy = anatomy
        self._table_sizes = TableSizes(anatomy)
        self._depths = anatomy.once(Depths)
        self._recipes: dict[str, Recipe] = {}
        mirrored = [slot for slot in anatomy.slots if getattr(self._rule(slot), "scheme", None) == MIRRORED]
        free = [slot for slot in mirrored if overwrite or not self.purpose(slot)]
        self._mirroring = Mirroring(anatomy, mirrored, free) if mirrored else None

    def choice(self, slot: Slot) -> Choice:
        """What a variable is to be drawn from, and why."""
        rule = self._rule(slot)
        if (
            slot.kept == ADAPTER
            and rule is not None
            and rule.names_the_variable(slot)
            and rule.scheme != "keep"
        ):
            return _adapter(slot, rule)
        if slot.kept:
            return Choice(None, slot.kept)
        if rule is None:
            return Choice(None, "no expression matches", named=False)
        if rule.scheme == "keep":
            return Choice(None, "as the rule says", named=rule.pattern is None)
        return self._asked(slot, rule) or self._by_rule(slot, rule)

    def _by_rule(self, slot: Slot, rule: Rule) -> Choice:
        """What a rule that draws says of a variable."""
        if isinstance(rule.scheme, str) and rule.scheme in recipes():
            return self._by_recipe(slot, rule)
        if rule.scheme == "configured":
            return _own(slot, "the layer's own initializer, drawn afresh", slot.configured)
        if not isinstance(rule.scheme, str) and rule.names_the_variable(slot):
            return Choice(rule.scheme, "the rule names this variable", forget_bias=False)
        if slot.use is not None and slot.use.bent:
            return _own(slot, "the model computes a function of it: its initial value", slot.asked)
        if slot.role == "recurrent" and len(slot.shape) > 1:
            return Choice(get("orthogonal"), "recurrent: keeps the length of the state, gate by gate")
        if slot.role == "bias":
            moved = self._mirroring.bias(slot) if self._mirroring and rule.scheme == MIRRORED else None
            if moved is not None:
                name = resolve(moved.activation).name
                return Choice(moved, f"where twins of {name} are most nearly linear")
            return Choice(get("zeros"), "a bias" + (", its forget gate one" if slot.forget_bias else ""))
        if slot.role == "statistic" and slot.variable.name not in STATISTICS:
            return Choice(None, "not trained: a state of its layer, which only a reset draws")
        if slot.role not in ("kernel", "embedding", "recurrent"):
            found = self._table(slot, rule) or self._ending_gain(slot, rule)
            return found or _own(slot, "its initial value", slot.asked)
        return self._for_kernel(slot, rule)

    def _by_recipe(self, slot: Slot, rule: Rule) -> Choice:
        """What a recipe says, or else "auto" or its initial value."""
        if rule.scheme not in self._recipes:
            self._recipes[rule.scheme] = recipe_class(rule.scheme)(self._anatomy)
        recipe = self._recipes[rule.scheme]
        drawn = recipe.choice(slot)
        if drawn is not None:
            return drawn._replace(forget_bias=recipe.forget_bias)
        if recipe.otherwise == "own" or slot.role in ("norm", "gain"):
            return _own(slot, "its initial value", slot.asked)
        choice = self._by_rule(slot, rule._replace(scheme="auto"))
        if slot.role not in ("kernel", "embedding"):
            return choice
        return choice._replace(reason=f"{recipe.name} leaves it as auto: {choice.reason}")

    def _asked(self, slot: Slot, rule: Rule) -> Choice | None:
        """What the layer asks for on purpose, unless a rule names it."""
        kept = rule.scheme != "configured" if isinstance(rule.scheme, str) else rule.is_about_all
        reason = self.purpose(slot) if kept and not self._overwrite else None
        # A bias has no fans but those that its layer goes by.
        return None if reason is None else Choice(slot.asked, reason, own=slot.role == "bias", asked=True)

    def purpose(self, slot: Slot) -> str | None:
        """What the layer asks for on purpose, with the activation that follows a kernel in view."""
        return asked_for(slot, activation_after(self._anatomy, slot)[0] if slot.role == "kernel" else None)

    def _for_kernel(self, slot: Slot, rule: Rule) -> Choice:
        if len(slot.shape) < 2 and rule.is_about_all and isinstance(rule.scheme, Orthogonal):
            return Choice(get("lecun_normal"), "a vector, which no scheme makes orthogonal")
        # Of twelve models in tests/benchmarks/published.py that read embeddings, ones three times as large as
        # Keras' ±0.05 train four better and five worse, ten times two and eight.
        if slot.role == "embedding" and slot.asked is not None and self._sizes_tables(rule):
            own = Choice(slot.asked, "an embedding: as the layer asks", own=True)
            return self._table(slot, rule) or own
        if not isinstance(rule.scheme, str):
            return Choice(rule.scheme, "as asked")
        choice = self._answer(slot) or self._in_branch(slot, self._by_activation(slot))
        if self._mirroring is None or rule.scheme != MIRRORED:
            return choice
        scheme, reason = self._mirroring.scheme(slot)
        if scheme is None:
            return choice._replace(reason=f"{reason}; as auto: {choice.reason}")
        return choice._replace(initializer=scheme, reason=reason)

    def _sizes_tables(self, rule: Rule) -> bool:
        """Whether the size of embeddings is for us to choose."""
        return rule.scheme == "auto" or (self._measured and rule.is_about_all)

    def _table(self, slot: Slot, rule: Rule) -> Choice | None:
        """A table whose size is not for its layer to say."""
        return self._table_sizes.of(slot) if self._sizes_tables(rule) else None

    def _rule(self, slot: Slot) -> Rule | None:
        return next((rule for rule in self._rules if rule.matches(slot)), None)

    @cached_property
    def _answers(self) -> dict[Slot, float]:
        return {answer.slot: answer.std for answer in answers(self._anatomy)}

    def _answer(self, slot: Slot) -> Choice | None:
        """What puts out a model's answers starts small: the first loss is then that of guessing."""
        if slot not in self._answers:
            return None
        activation = activation_after(self._anatomy, slot)[0]
        std, depth = self._answers[slot], self._depths.of(slot)
        if slot.fans is not None:
            # No larger than Glorot's; but an activation before it takes from the signal, as ReLU 1/√2, and so
            # does each of Glorot's layers in a short chain.
            glorot = math.sqrt(2 * slot.fans.fan_in / (slot.fans.fan_in + slot.fans.fan_out))
            lost = 2 ** ((depth - 1) / 4) if self._depths.is_short(slot) else 1.0
            # A mean of many numbers is smaller than they are.
            lost *= math.sqrt(max(averaged(self._anatomy, step) for step in self._anatomy.steps(slot)))
            std = min(glorot, std * _room(activation_before(self._anatomy, slot)) * lost)
        reason = f"an answer: starts at a deviation of {std:.2g}, for a small first loss"
        return Choice(get("variance_scaling", scale=std**2), reason, activation and activation.name)

    def _ending_gain(self, slot: Slot, rule: Rule) -> Choice | None:
        """The γ of a normalization that ends a branch, where its layer asks for ones."""
        chosen = isinstance(rule.scheme, str) or (self._measured and rule.is_about_all)
        ones = isinstance(slot.asked, keras.initializers.Ones)
        share = self._anatomy.once(shares).get(slot) if chosen and ones else None
        if share is None:
            return None
        return Choice(get("constant", value=share), "γ of what ends a branch, which starts small")

    def _in_branch(self, slot: Slot, choice: Choice) -> Choice:
        """What ends a residual branch starts small, as do queries in some."""
        if choice.own or not isinstance(choice.initializer, Scheme):
            return choice
        for factor, reason in factors(self._anatomy, slot):
            scaled = Scaled(choice.initializer, factor=factor)
            choice = choice._replace(initializer=scaled, reason=f"{choice.reason}; {reason}")
        return choice

    def _by_activation(self, slot: Slot) -> Choice:
        activation, how = activation_after(self._anatomy, slot)
        if activation is None:  # what is not seen says nothing: the layer knows better
            if slot.asked is not None:
                return Choice(slot.asked, f"{how}: as the layer asks")
            return Choice(for_activation(None), f"{how}: as a linear layer")
        normalizations = normalizations_after(self._anatomy, slot)
        size = _orthogonal_size(slot) if normalizations and slot.fans else 0.0
        power = size**2 * slot.fans.fan_in if slot.fans else 0.0
        epsilons = [getattr(each, "epsilon", None) or 0.0 for each in normalizations]
        if normalizations and power > 100 * max(epsilons):  # more than drowns in any of them
            # The size only says how fast it learns: orthogonal ones do well where He's learn half as fast,
            # and Keras' own depthwise one, four times as small, better yet (tests/benchmarks/published.py).
            reason = f"{normalizations[0].name} divides by its size"
            asked = std_of(slot.asked, slot)
            if asked is not None and _SMALLER[0] < asked / size < _SMALLER[1]:
                return Choice(slot.asked, f"{reason}: as small as its layer asks", activation.name, own=True)
            return Choice(get("orthogonal"), reason, activation.name)
        try:
            scheme = for_activation(activation)
            if isinstance(scheme, (HeNormal, HeUniform)) and self._depths.is_short(slot):
                scheme, how = get("glorot_uniform"), f"{how}, in a chain of fewer than {DEEP} kernels"
            return Choice(scheme, how, activation.name)
        except ValueError:  # one that joins features, or is not finite
            reason = f"{how}, and has no gain: as a linear layer"
            return Choice(for_activation(None), reason, activation.name)


def _room(activation: Activation | None) -> float:
    """How much larger a kernel may be behind an activation."""
    try:
        return 1.0 if activation is None else max(1.0, gain(activation))
    except (TypeError, ValueError):  # it has none
        return 1.0


def _adapter(slot: Slot, rule: Rule) -> Choice:
    """A factor of a low-rank adapter that a rule names."""
    if slot.variable.name.endswith("_b"):
        return Choice(get("zeros"), "the second factor of an adapter: it starts as no change")
    scheme = get("he_uniform") if isinstance(rule.scheme, str) else rule.scheme
    return Choice(scheme, "the first factor of an adapter")


def _orthogonal_size(slot: Slot) -> float:
    """The deviation of an orthogonal kernel; 0 for a shape that is no matrix."""
    try:
        return float(fit(get("orthogonal", seed=0), slot, 0).expected_std(slot.shape))
    except ValueError:
        return 0.0


def _own(slot: Slot, reason: str, configured: Any) -> Choice:
    if configured is None:
        return Choice(None, NOTHING_KNOWN)
    if slot.unseen:
        reason = f"what its layer computes is not seen: {reason}"
    return Choice(configured, reason, own=True)
