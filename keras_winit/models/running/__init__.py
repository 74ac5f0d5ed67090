"""Send data through a model, and leave no trace."""
