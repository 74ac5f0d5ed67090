"""Tables that are looked up, and which of them are added to each other."""

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.ancestry import Ancestry
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.tracing.kinds import ADDING
from keras_winit.models.tracing.trace import Step, Value


class LookUps:
    """What is looked up in tables, of all values of a model.

    Args:
        anatomy: the model taken apart.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._ancestry = anatomy.once(Ancestry)
        slots = [slot for slot in anatomy.slots if slot.role == "embedding"]
        self._tables = {id(step): slot for slot in slots for step in anatomy.steps(slot)}

    def is_one(self, step: Step) -> bool:
        """Whether a step looks rows up."""
        return id(step) in self._tables

    def tables(self, value: Value) -> set[Slot]:
        """The embeddings whose rows a value is, or is a sum of; none where anything else is in it."""
        found, waiting, seen = set[Slot](), [value], set[int]()
        while waiting:
            step = waiting.pop().step
            if step is None or id(step) in self._ancestry.kernels:
                return set()
            if id(step) in self._tables:
                found.add(self._tables[id(step)])
            elif step.index not in seen:
                seen.add(step.index)
                signals = self._ancestry.signals(step)
                if not signals:
                    return set()
                waiting += signals
        return found


def added_to(anatomy: Anatomy) -> dict[Slot, Slot]:
    """For each table that is added to a larger one, as positions are to tokens, the one of most rows."""
    if not any(slot.role == "embedding" for slot in anatomy.slots):
        return {}
    ancestry, look_ups = anatomy.once(Ancestry), anatomy.once(LookUps)
    sums: list[set[Slot]] = []
    for step in anatomy.trace.steps:
        if step.kind not in ADDING:
            continue
        tables = added_whole(anatomy, step).union(*map(look_ups.tables, ancestry.signals(step)))
        if not tables:  # signals that kernels have made, as behind a branch
            continue
        sums = [each for each in sums if not each & tables] + [
            tables.union(*(each for each in sums if each & tables))
        ]
    found: dict[Slot, Slot] = {}
    for tables in sums:
        largest = max(tables, key=_rows)
        found |= {slot: largest for slot in tables if slot is not largest}
    return found


def added_whole(anatomy: Anatomy, step: Step) -> set[Slot]:
    """The tables that an addition adds as they are, a row for each place."""
    slots = [slot for slot in anatomy.slots if slot.role == "other" and len(slot.shape) > 1]
    return {slot for slot in slots if slot.use is not None and slot.use.step is step}


def _rows(slot: Slot) -> tuple[bool, int]:
    return slot.role == "embedding", slot.shape[0]
