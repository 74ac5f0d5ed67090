"""Residual networks, and a plain one, small enough to train by the hundred."""
