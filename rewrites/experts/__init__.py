"""Mixtures of experts become one operator, where the target has it."""
