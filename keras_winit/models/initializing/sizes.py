"""Where kernels and embeddings are to be smaller or larger than their fans say."""

import math
from functools import cached_property

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.ancestry import Ancestry, LookUps, added_to, added_whole
from keras_winit.models.anatomy.attention import attentions, query_kernels
from keras_winit.models.anatomy.branch import Branch
from keras_winit.models.anatomy.branches import branches_of, last_kernels, shares
from keras_winit.models.anatomy.passing import moves
from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.initializing.fitting import std_of
from keras_winit.models.recipes import Choice
from keras_winit.models.tracing.kinds import ADDING
from keras_winit.models.tracing.trace import Value
from keras_winit.schemes.registry import get

# Of a query in a post-norm branch, against its fans. Measured on the models with attention of
# tests/benchmarks/published.py and residual.py: BERT ends 0.8 times as high so, other post-norm ones do not
# care, and pre-norm ones of images end up to 1.5 times as high.
QUERY = 0.3


def factors(anatomy: Anatomy, slot: Slot) -> list[tuple[float, str]]:
    """What a kernel is multiplied by, and why: where residual branches end, and attention in them begins."""
    found, share = [], anatomy.once(shares).get(slot)
    if share is not None:
        branch = anatomy.once(last_kernels)[slot]
        found.append((share, f"ends one of {branch.count} {branch.kind} branches, {share:.3g} times"))
    if slot in anatomy.once(_queries):
        found.append((QUERY, f"a query, {QUERY:.3g} times: attention starts nearly even"))
    return found


def _queries(anatomy: Anatomy) -> set[Slot]:
    """The queries of post-norm branches."""
    post_norm = [branch for branch in branches_of(anatomy) if branch.kind == "post-norm"]
    inside = {slot for branch in post_norm for slot in branch.kernels}
    return query_kernels(anatomy) & inside if inside else set()


# From so many pre-norm branches on a table that starts their stream is larger. Measured with 24 and 48 in
# residual.py; with two to six it does harm in published.py.
MANY = 16


class TableSizes:
    """Which tables get another deviation than their layers ask for."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy

    def of(self, slot: Slot) -> Choice | None:
        """What a table is drawn from, if not as its layer says."""
        largest = self._anatomy.once(added_to).get(slot)
        if largest is not None:
            # Added to a larger one, as positions are to tokens, it gets that one's scale.
            std, own = self._in_sum(largest), std_of(slot.asked, slot)
            if std is None or own is None or math.isclose(std, own * abs(slot.scale), rel_tol=0.01):
                return None
            reason = f"added to {largest.path}: of the same scale"
        elif slot in self._places:
            std = 1 / abs(slot.scale)
            reason = "places, which nothing else tells apart: as large as what is there"
        elif slot in self._starts:
            std = 1 / abs(slot.scale)
            reason = f"starts a stream of {self._starts[slot]} pre-norm branches, which are small beside 1"
        else:
            return None
        return Choice(get("random_normal", stddev=std), reason)

    def _in_sum(self, slot: Slot) -> float | None:
        """The deviation of a table's rows where they are added."""
        std = std_of(slot.asked, slot)
        return 1.0 if slot in self._starts else None if std is None else std * abs(slot.scale)

    @cached_property
    def _starts(self) -> dict[Slot, int]:
        """The tables whose rows start a stream of many pre-norm branches, and how many there are.

        At Keras' ±0.05 the first branches drown them, and tokens look alike at depth: twelve and 24 blocks
        end at 3.1, with a deviation of 1 at 2.6 and 2.7. What also puts out the answers keeps its size.
        """
        return {
            slot: branch.depth
            for branch in self._firsts
            if branch.depth >= MANY and _as_looked_up(branch.carried, self._look_ups)
            for slot in self._look_ups.tables(branch.carried)
            if self._starts_small(slot)
        }

    @cached_property
    def _places(self) -> set[Slot]:
        """Tables of places that alone tell places, beside what a kernel makes of patches or the like.

        Pre-norm attention's result is read by a mean of all places, or one: at Keras' ±0.05, a thirtieth of
        the patches, a ViT of six blocks ends at 1.7, with a deviation of 1 at 0.7. They are not needed where
        the next kernel has a row for each place, as behind `Flatten`.
        """
        found = set()
        for branch in self._firsts:
            step = branch.carried.step
            if step is None or step.kind not in ADDING or not self._is_read_alike(branch):
                continue
            signals = self._ancestry.signals(step)
            tables = added_whole(self._anatomy, step).union(*map(self._look_ups.tables, signals))
            if tables and any(map(self._comes_from_kernels, signals)):
                found |= {slot for slot in tables if self._starts_small(slot)}
        return found

    @cached_property
    def _firsts(self) -> list[Branch]:
        found = branches_of(self._anatomy)
        return [branch for branch in found if branch.kind == "pre-norm" and branch.place == 1]

    @property
    def _ancestry(self) -> Ancestry:
        return self._anatomy.once(Ancestry)

    @property
    def _look_ups(self) -> LookUps:
        return self._anatomy.once(LookUps)

    def _comes_from_kernels(self, value: Value) -> bool:
        """Whether kernels made a value, and none of it was looked up."""
        every = self._ancestry.between(value, 0)
        looked_up = any(map(self._look_ups.is_one, every))
        return not looked_up and any(step in self._ancestry.kernels for step in every)

    def _is_read_alike(self, first: Branch) -> bool:
        """Whether attention alone mixes a stream's places, and its readers treat all alike."""
        stream = [branch for branch in branches_of(self._anatomy) if branch.stream == first.stream]
        width = first.carried.shape[-1]
        kernels = [slot for branch in stream for slot in branch.kernels]
        if any(map(self._reads_neighbours, kernels)) or not attentions(self._anatomy):
            return False
        waiting, seen = list(stream[-1].add.outputs), set[int]()
        while waiting:
            value = waiting.pop()
            for step in value.readers:
                if step.index in seen:
                    continue
                seen.add(step.index)
                slots = self._ancestry.kernels.get(step)
                if slots is None:
                    waiting += step.outputs
                elif value.shape[-1] != width or any(map(self._reads_neighbours, slots)):
                    return False
        return True

    def _starts_small(self, slot: Slot) -> bool:
        """Whether a table is read once, and its rows are smaller than one."""
        std = std_of(slot.asked, slot)
        once = len(self._anatomy.steps(slot)) == 1 and len(self._anatomy.uses.of(slot.variable)) < 2
        return once and std is not None and 0 < std * abs(slot.scale) < 1

    def _reads_neighbours(self, slot: Slot) -> bool:
        """Whether a kernel reads several places at once, as a convolution does."""
        convolves = any("Conv" in step.kind for step in self._anatomy.steps(slot))
        return convolves and math.prod(slot.shape[:-2]) > 1


def _as_looked_up(value: Value, look_ups: LookUps) -> bool:
    """Whether a value is a sum of rows, multiplied by nothing since."""
    step = value.step
    if step is None or look_ups.is_one(step):
        return True
    return (moves(step) or step.kind in ADDING) and all(_as_looked_up(each, look_ups) for each in step.inputs)
