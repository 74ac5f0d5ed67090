"""Send data through a model, watch and change what layers do, and leave no trace."""
