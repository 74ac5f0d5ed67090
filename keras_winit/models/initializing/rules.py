"""The rules that the argument `scheme` of `initialize` stands for."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes import recipes
from keras_winit.schemes import names, scheme_class
from keras_winit.schemes.looks_linear import LooksLinear
from keras_winit.schemes.registry import get
from keras_winit.support.checks import did_you_mean, shown

MODES = ("auto", "configured", "keep")
# A scheme whose arguments follow from a kernel's place in the model.
MIRRORED = LooksLinear.name


class Rule(NamedTuple):
    """A scheme for the variables that an expression is found in, or for all."""

    pattern: re.Pattern[str] | None
    scheme: Any  # one of MODES, MIRRORED, the name of a recipe, or an initializer

    def matches(self, slot: Slot) -> bool:
        """Whether the rule is about this variable or its layer."""
        return self.pattern is None or self.pattern.search(slot.path) is not None

    @property
    def is_about_all(self) -> bool:
        """Whether the rule is about all variables, and names none."""
        return self.pattern is None or self.pattern.search("") is not None

    def names_the_variable(self, slot: Slot) -> bool:
        """Whether the rule is about this variable, and not about its layer as a whole."""
        layer = slot.path.removesuffix(slot.variable.name)
        return self.pattern is not None and self.pattern.search(layer) is None


def rules_of(scheme: Any) -> list[Rule]:
    """The rules that the argument `scheme` of `initialize` stands for."""
    if not isinstance(scheme, Mapping) or "class_name" in scheme:
        return [Rule(None, _scheme(scheme))]
    rules = []
    for pattern, item in scheme.items():
        try:
            expression = re.compile(pattern)
            expression.search("")  # one of bytes cannot
            rules.append(Rule(expression, _scheme(item)))
        except (re.error, TypeError, OverflowError, RecursionError) as error:
            if isinstance(pattern, str) and isinstance(error, TypeError):
                raise
            raise ValueError(
                f"A key of `scheme` must be a regular expression over variable paths. "
                f"Received: {shown(pattern)}: {error}."
            ) from error
    return rules


def unmatched(rules: list[Rule], slots: Sequence[Slot]) -> tuple[str, ...]:
    """The expressions that are found in no variable of a model, as where a name is mistyped."""
    unused = [rule.pattern for rule in rules if not any(map(rule.matches, slots))]
    return tuple(pattern.pattern for pattern in unused if pattern is not None)


def _scheme(item: Any) -> Any:
    """A mode, or an initializer."""
    if isinstance(item, str) and item in (*MODES, *recipes()):
        return item
    if isinstance(item, str) and item.removeprefix("winit>") not in names(aliases=True):
        hint = did_you_mean(item, (*MODES, *recipes(), *names(aliases=True)))
        hint = " `calibrate` is a function, and a command, of its own." if item == "calibrate" else hint
        raise ValueError(
            f"`scheme` must be one of {list(MODES)}, a recipe of {list(recipes())}, the name of a scheme, an "
            f"initializer, or a mapping of regular expressions to these. Received: {shown(item)}.{hint}"
        )
    if callable(item) and not isinstance(item, (type, keras.initializers.Initializer)):
        return item  # a function of shape and dtype, as Keras takes it
    if isinstance(item, str) and scheme_class(item) is LooksLinear:
        return MIRRORED
    return get(item)
