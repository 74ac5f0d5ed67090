"""PyTorch's defaults: what it gives the counterpart of each Keras layer when it is made.

Taken from the behaviour of torch.nn's `reset_parameters`: Linear and convolutions U(±1/√fan_in)
for weight and bias; LSTM, GRU and RNN U(±1/√hidden) for all; Embedding N(0, 1);
MultiheadAttention Xavier uniform for its packed input projection.
"""

import math
from typing import Any

from keras import layers

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Draw, Recipe, recipe
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
    """What PyTorch gives the counterpart of each layer when it is made, biases included.

    What has no counterpart there is drawn from its initial value.

    Source: the behaviour of torch.nn's modules.
    """

    otherwise = "own"
    forget_bias = False

    def choice(self, slot: Slot) -> Draw | None:
        initializer, reason = _default(slot)
        return None if initializer is None else Draw(initializer, reason)


def _default(slot: Slot) -> tuple[Any, str]:
    """The initializer, or None where PyTorch has no counterpart, and the reason."""
    layer, name = slot.layer, slot.variable.name
    if isinstance(layer, layers.PReLU):
        return Constant(0.25), "torch.nn.PReLU"
    if isinstance(layer, NORMALIZATIONS) and slot.role == "norm":
        return (Zeros() if name == "beta" else Ones()), "torch's normalization layers"
    if slot.role == "embedding":
        return RandomNormal(stddev=1.0), "torch.nn.Embedding: N(0, 1)"
    if isinstance(layer, _CELLS):
        return _recurrent(slot)
    if slot.attention is not None:
        return _attention(slot)
    if slot.role not in ("kernel", "bias", "recurrent") or slot.fans is None:
        return None, ""
    fan_in, fan_out = slot.fans
    if isinstance(layer, TRANSPOSED):
        # torch takes the second dimension of the weight, (in, out, …), for its inputs.
        fan_in = math.prod(layer.kernel_size) * layer.filters
        return FanInUniform(fans=(fan_in, fan_out)), "torch's transposed convolutions: fans swapped, as there"
    counterpart = f"the default of torch's counterpart of {type(layer).__name__}: ±1/√fan_in"
    return FanInUniform(fans=(fan_in, fan_out)), counterpart


def _recurrent(slot: Slot) -> tuple[Any, str]:
    bound = 1 / math.sqrt(slot.layer.units)
    each = RandomUniform(-bound, bound)
    if slot.role == "bias" and len(slot.shape) == 1:
        return Summed(each, 2), "torch has two biases, each ±1/√hidden; this is their sum"
    return each, "torch's recurrent layers: ±1/√hidden"


def _attention(slot: Slot) -> tuple[Any, str]:
    if slot.role == "bias":
        return Zeros(), "torch.nn.MultiheadAttention"
    if slot.fans is None or slot.role != "kernel":
        return None, ""
    fan_in, fan_out = slot.fans
    if slot.layer.name == "gate":
        return FanInUniform(fans=(fan_in, fan_out)), "torch has no gate here; as torch.nn.Linear"
    if slot.layer.name == "attention_output":
        return FanInUniform(fans=(fan_in, fan_out)), "the output projection of torch.nn.MultiheadAttention"
    if _packed(slot.attention):
        packed = "torch.nn.MultiheadAttention packs query, key and value: Xavier with three times the outputs"
        return GlorotUniform(fans=(fan_in, 3 * fan_out)), packed
    return GlorotUniform(fans=(fan_in, fan_out)), "as torch.nn.MultiheadAttention with separate projections"


def _packed(attention: Any) -> bool:
    """Whether torch would keep query, key and value in one weight: all read and write as many."""
    if not isinstance(attention, layers.MultiHeadAttention):
        return False  # torch has no grouped queries
    projections = (attention.query_dense, attention.key_dense, attention.value_dense)
    return len({tuple(projection.kernel.shape) for projection in projections}) == 1
