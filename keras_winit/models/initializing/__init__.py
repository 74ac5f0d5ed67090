"""Draw the weights of a model: `initialize`, and `for_layer` for one."""
