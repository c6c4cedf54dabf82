"""Nodes that return their input unchanged."""
