"""Rotary position embedding from its parts, and on tensors whose heads are not split yet."""
