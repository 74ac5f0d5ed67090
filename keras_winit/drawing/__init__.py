"""Random tensors: seeds, generators, distributions, orthogonal matrices."""
