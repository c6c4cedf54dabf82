"""Quantization: smaller weights and integer arithmetic, within an accuracy budget."""
