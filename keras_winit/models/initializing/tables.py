"""The deviations of embeddings where their layers' own do not suit what is made of their rows."""

import math
from functools import cached_property
from typing import NamedTuple

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.ancestry import Ancestry
from keras_winit.models.anatomy.branches import MANY, branches_of
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.anatomy.tables import LookUps, added_to
from keras_winit.models.initializing.fitting import std_of
from keras_winit.models.tracing.kinds import ADDING, PROPORTIONAL, PROPORTIONAL_OPERATIONS
from keras_winit.models.tracing.trace import Value


class Size(NamedTuple):
    """The deviation that a table is to have, and why."""

    std: float
    reason: str


class TableSizes:
    """Which tables are to have another deviation than their layers ask for.

    Args:
        anatomy: the model taken apart.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy

    def of(self, slot: Slot) -> Size | None:
        """A table's deviation, if it is not for its layer to say."""
        largest = self._fellows.get(slot)
        if largest is not None:
            # Added to a larger one, as positions are to tokens, it gets that one's scale.
            std, own = self._in_sum(largest), std_of(slot.asked, slot)
            if std is None or own is None or math.isclose(std, own * abs(slot.scale), rel_tol=0.01):
                return None
            return Size(std, f"added to {largest.path}: of the same scale")
        if slot not in self._starts:
            return None
        reason = f"starts a stream of {self._starts[slot]} pre-norm branches, which are small beside 1"
        return Size(1 / abs(slot.scale), reason)

    def _in_sum(self, slot: Slot) -> float | None:
        """The deviation that a table's rows have where they are added."""
        std = std_of(slot.asked, slot)
        return 1.0 if slot in self._starts else None if std is None else std * abs(slot.scale)

    @cached_property
    def _fellows(self) -> dict[Slot, Slot]:
        return added_to(self._anatomy)

    @cached_property
    def _starts(self) -> dict[Slot, int]:
        """The tables whose rows start a stream of many pre-norm branches, and how many there are.

        At Keras' ±0.05 the first branches drown them, so that all tokens look alike at depth: twelve and 24
        blocks end at 3.1 where ones of deviation 1 end at 2.6 and 2.7. What also puts out the answers keeps
        its size.
        """
        if not any(slot.role == "embedding" for slot in self._anatomy.slots):
            return {}
        firsts = [
            branch
            for branch in branches_of(self._anatomy)
            if branch.kind == "pre-norm" and branch.place == 1 and branch.depth >= MANY
        ]
        if not firsts:
            return {}
        look_ups = LookUps(self._anatomy, Ancestry(self._anatomy))
        found = {
            slot: branch.depth
            for branch in firsts
            if _as_looked_up(branch.carried, look_ups)
            for slot in look_ups.tables(branch.carried)
        }
        return {slot: depth for slot, depth in found.items() if self._starts_small(slot)}

    def _starts_small(self, slot: Slot) -> bool:
        """Whether a table is read once, and its rows are smaller than one."""
        std = std_of(slot.asked, slot)
        once = len(self._anatomy.steps(slot)) == 1 and len(self._anatomy.uses.of(slot.variable)) < 2
        return once and std is not None and 0 < std * abs(slot.scale) < 1


def _as_looked_up(value: Value, look_ups: LookUps) -> bool:
    """Whether a value is a sum of rows, none of them multiplied after it was looked up."""
    step = value.step
    if step is None or look_ups.is_one(step):
        return True
    moves = isinstance(step.operation, PROPORTIONAL) or step.kind in {
        *PROPORTIONAL_OPERATIONS,
        *ADDING,
        "Cast",
    }
    return moves and all(_as_looked_up(each, look_ups) for each in step.inputs)
