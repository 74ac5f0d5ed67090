"""Which start a model learns from best: found by trying a few steps from each."""
