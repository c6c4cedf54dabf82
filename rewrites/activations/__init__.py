"""Activations written out in elementary operators become one operator."""
