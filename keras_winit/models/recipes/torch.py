"""PyTorch's defaults: what torch.nn's `reset_parameters` gives the counterpart of each Keras layer."""

import math
from typing import Any

from keras import layers

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Choice, Recipe, recipe
from keras_winit.models.tracing.kinds import NORMALIZATIONS, TRANSPOSED
from keras_winit.schemes.basic import Constant, Ones, RandomNormal, RandomUniform, Zeros
from keras_winit.schemes.compose import Summed
from keras_winit.schemes.variance import FanInUniform, GlorotUniform

_CELLS = (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell)


@recipe(
    "torch",
    claim="what PyTorch gives the counterpart of each layer, biases included",
    source="torch.nn, reset_parameters",
)
class Torch(Recipe):
    """PyTorch's defaults; what has no counterpart there is drawn from its initial value.

    Source: the behaviour of torch.nn's modules.
    """

    otherwise = "own"
    forget_bias = False

    def choice(self, slot: Slot) -> Choice | None:
        layer = slot.layer
        if isinstance(layer, layers.PReLU):
            return Choice(Constant(0.25), "torch.nn.PReLU")
        if isinstance(layer, NORMALIZATIONS) and slot.role == "norm":
            initializer = Zeros() if slot.variable.name == "beta" else Ones()
            return Choice(initializer, "torch's normalization layers")
        if slot.role == "embedding":
            return Choice(RandomNormal(stddev=1.0), "torch.nn.Embedding: N(0, 1)")
        if isinstance(layer, _CELLS):
            return _recurrent(slot)
        if slot.attention is not None:
            return _attention(slot)
        if slot.role not in ("kernel", "bias", "recurrent") or slot.fans is None:
            return None
        if isinstance(layer, TRANSPOSED):
            # torch takes the second dimension of the weight, (in, out, …), for its inputs.
            fans = math.prod(layer.kernel_size) * layer.filters, slot.fans.fan_out
            return Choice(FanInUniform(fans=fans), "torch's transposed convolutions: fans swapped, as there")
        reason = f"the default of torch's counterpart of {type(layer).__name__}: ±1/√fan_in"
        return Choice(FanInUniform(fans=slot.fans), reason)


def _recurrent(slot: Slot) -> Choice:
    bound = 1 / math.sqrt(slot.layer.units)
    each = RandomUniform(-bound, bound)
    if slot.role == "bias" and len(slot.shape) == 1:
        return Choice(Summed(each, 2), "torch has two biases, each ±1/√hidden; this is their sum")
    return Choice(each, "torch's recurrent layers: ±1/√hidden")


def _attention(slot: Slot) -> Choice | None:
    if slot.role == "bias":
        return Choice(Zeros(), "torch.nn.MultiheadAttention")
    if slot.fans is None or slot.role != "kernel":
        return None
    if slot.layer.name == "gate":
        return Choice(FanInUniform(fans=slot.fans), "torch has no gate here; as torch.nn.Linear")
    if slot.layer.name == "attention_output":
        return Choice(FanInUniform(fans=slot.fans), "the output projection of torch.nn.MultiheadAttention")
    if _packed(slot.attention):
        reason = "torch.nn.MultiheadAttention packs query, key and value: Xavier with three times the outputs"
        return Choice(GlorotUniform(fans=(slot.fans.fan_in, 3 * slot.fans.fan_out)), reason)
    return Choice(GlorotUniform(fans=slot.fans), "as torch.nn.MultiheadAttention with separate projections")


def _packed(attention: Any) -> bool:
    """Whether torch would keep query, key and value in one weight: all read and write as many."""
    if not isinstance(attention, layers.MultiHeadAttention):
        return False  # torch has no grouped queries
    dense = (attention.query_dense, attention.key_dense, attention.value_dense)
    return len({tuple(each.kernel.shape) for each in dense}) == 1
