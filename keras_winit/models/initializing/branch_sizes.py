"""How much smaller than their fans say kernels in residual branches are to start, and the γ that end them."""

from functools import cached_property

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.attention import query_kernels
from keras_winit.models.anatomy.branch import Branch, Branches
from keras_winit.models.anatomy.branches import branches_of, shares
from keras_winit.models.anatomy.slots import Slot

# Of a query in a post-norm branch, against what its fans say: attention then starts nearly even. Measured on
# the models with attention of tests/benchmarks/published.py and residual.py: BERT ends 0.8 times as high so,
# other post-norm ones do not care, and pre-norm ones of images end up to 1.5 times as high.
QUERY = 0.3


class BranchSizes:
    """What is multiplied where residual branches end, and where attention in them begins.

    Args:
        anatomy: the model taken apart.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy

    @cached_property
    def branches(self) -> Branches:
        """The residual branches of the model."""
        return branches_of(self._anatomy)

    def share(self, slot: Slot) -> float | None:
        """What a variable is multiplied by for a residual branch to start small beside its stream."""
        return self._shares.get(slot)

    def factors(self, slot: Slot) -> list[tuple[float, str]]:
        """What a kernel is multiplied by, and why."""
        found = []
        share = self.share(slot)
        if share is not None:
            branch = self._ends[slot]
            found.append((share, f"ends one of {branch.count} {branch.kind} branches, {share:.3g} times"))
        if slot in self._queries:
            found.append((QUERY, f"a query, {QUERY:.3g} times: attention starts nearly even"))
        return found

    @cached_property
    def _shares(self) -> dict[Slot, float]:
        return shares(self._anatomy, self.branches)

    @cached_property
    def _ends(self) -> dict[Slot, Branch]:
        return {slot: branch for branch in reversed(self.branches.branches) for slot in branch.last}

    @cached_property
    def _queries(self) -> set[Slot]:
        inside = {slot for branch in self.branches if branch.kind == "post-norm" for slot in branch.kernels}
        return query_kernels(self._anatomy) & inside if inside else set()
