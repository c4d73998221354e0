"""The exported graph: layers, readout, weights and the model file."""
