"""Batch normalisations, biases, scales and padding around a convolution move into its weights and attributes."""
