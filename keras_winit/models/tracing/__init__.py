"""The operations that a call of a model consists of."""
