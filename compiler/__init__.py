"""olc: an operator-level compiler for ONNX."""
