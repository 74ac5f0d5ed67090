"""Published initializations of whole models, each under one name: `initialize(model, "gpt2")`.

Importing this registers them all.
"""

from keras_winit.models.recipes import (  # noqa: F401 - which registers them
    bert,
    deepnorm,
    depth_scaled,
    fixup,
    gpt2,
    mimetic,
    small_wang,
    t5,
    torch,
    vit,
    zero_gamma,
)
from keras_winit.models.recipes.recipe import Recipe, recipe_class, recipes

__all__ = ["Recipe", "recipe_class", "recipes"]
