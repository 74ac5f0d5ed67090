"""Scale the weights of a model by what one pass measures: `calibrate`."""
