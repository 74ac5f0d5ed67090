"""How much smaller than their fans say kernels in residual branches are to start."""

from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.attention import query_kernels
from keras_winit.models.anatomy.branches import branches_of, last_kernels, shares
from keras_winit.models.anatomy.slots import Slot

# Of a query in a post-norm branch, against what its fans say: attention then starts nearly even. Measured on
# the models with attention of tests/benchmarks/published.py and residual.py: BERT ends 0.8 times as high so,
# other post-norm ones do not care, and pre-norm ones of images end up to 1.5 times as high.
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
