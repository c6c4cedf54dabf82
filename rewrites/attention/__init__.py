"""Scores, softmax and weighted sum become one Attention: mask, grouped heads and cache included. See docs/attention.md."""
