"""Benchmarks: ratios and growth, never absolutes. Each prints the command that reproduces it."""
