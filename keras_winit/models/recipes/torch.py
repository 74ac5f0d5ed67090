"""PyTorch's defaults."""

from keras_winit.models.anatomy.slots import Slot
from keras_winit.models.recipes.recipe import Draw, Recipe, recipe
from keras_winit.models.recipes.torch_defaults import torch_default


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
        initializer, reason = torch_default(slot)
        return None if initializer is None else Draw(initializer, reason)
