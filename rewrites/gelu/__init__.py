"""Gelu in its erf, tanh and sigmoid forms becomes one operator."""
