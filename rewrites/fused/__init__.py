"""Fused operators of a runtime's own domain, as other tools write them, taken apart or named as the standard names them."""
