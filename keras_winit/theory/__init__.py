"""What a scheme is computed from: fans, matrices, activations and their moments."""
