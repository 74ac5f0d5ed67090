"""Published initializations of whole models, each under one name: `initialize(model, "gpt2")`.

Importing this registers them all.
"""

from keras_winit.models.recipes import mimetic, residual, torch, transformers  # noqa: F401
from keras_winit.models.recipes.recipe import Recipe, recipe_class, recipes

__all__ = ["Recipe", "recipe_class", "recipes"]
