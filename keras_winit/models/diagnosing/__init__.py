"""Say what keeps a model from learning: `diagnose`."""
