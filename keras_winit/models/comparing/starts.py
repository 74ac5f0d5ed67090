"""Starts: what a model can be drawn with before it is trained, under the name that a table shows."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import keras

from keras_winit.models.calibrating.calibrate import calibrate_within
from keras_winit.models.comparing.batches import Batches
from keras_winit.models.comparing.randomness import randomness_kept
from keras_winit.models.initializing.initialize import Drawing
from keras_winit.models.initializing.rules import rules_of
from keras_winit.models.running.batch import MOST_SAMPLES
from keras_winit.models.running.undo import Undo
from keras_winit.support.checks import did_you_mean, shown

CALIBRATE = "calibrate"
_LONGEST = 40  # of a name in the table


class Start(NamedTuple):
    """A scheme that `initialize` takes, or "calibrate", and its name."""

    name: str
    scheme: Any

    def draw(self, model: keras.Model, batches: Batches, undo: Undo) -> None:
        """Draw the model, its optimizer apart; what is changed is noted in `undo`.

        Raises:
            TypeError, ValueError: where this model cannot be drawn so.
        """
        if self.scheme != CALIBRATE:
            drawing = Drawing(model, self.scheme, batches.seed)
            if drawing.carry_out(undo, show=False):
                drawing.reset_states(undo)
            return
        inputs, labels, samples = batches.sample(MOST_SAMPLES)
        known = labels if model.loss else None  # a model may have its loss in a `train_step` of its own
        calibrate_within(
            undo, model, inputs, known, samples=samples, seed=batches.seed, show=False, resets=False
        )


def starts_of(schemes: Any) -> list[Start]:
    """The starts that the argument `schemes` of `compare` names.

    Raises:
        TypeError, ValueError: for none, for one that is given twice, and for what is no scheme.
    """
    if isinstance(schemes, str) or not isinstance(schemes, Iterable):
        raise TypeError(
            "`schemes` must be a tuple of what `initialize` takes as `scheme`, or a mapping of names to it. "
            f"Received: schemes={shown(schemes)}."
        )
    if isinstance(schemes, Mapping):
        found = [Start(str(name), scheme) for name, scheme in schemes.items()]
    else:
        found = [Start(_name(scheme), scheme) for scheme in schemes]
    if not found:
        raise ValueError("`schemes` must name at least one start. Received none.")
    for index, start in enumerate(found):
        if start.name in [other.name for other in found[:index]]:
            raise ValueError(
                f"`schemes` names {start.name!r} twice. Pass a mapping of names to schemes that differ."
            )
        _check(start.scheme)
    return found


def _check(scheme: Any) -> None:
    if isinstance(scheme, str) and scheme == CALIBRATE:
        return
    try:
        with randomness_kept():  # an initializer without a seed draws one as it is made
            rules_of(scheme)
    except ValueError as error:
        near = did_you_mean(scheme, [CALIBRATE]) if isinstance(scheme, str) else ""
        raise ValueError(f"{error}{near}") from error


def _name(scheme: Any) -> str:
    text = scheme if isinstance(scheme, str) else shown(scheme)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
