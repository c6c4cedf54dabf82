"""Biases and constant scales around matrix products move into the product."""
