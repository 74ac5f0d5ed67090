"""Published initializations of whole models, all registered here: `initialize(model, "gpt2")`."""

from keras_winit.models.recipes import mimetic, residual, torch, transformers  # noqa: F401
from keras_winit.models.recipes.recipe import Choice, Recipe, recipe_class, recipes

__all__ = ["Choice", "Recipe", "recipe_class", "recipes"]
