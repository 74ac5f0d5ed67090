"""The trace of a model: the operations that a call of it consists of, without computing them."""
