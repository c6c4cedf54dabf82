"""The parts of ``benchmarks.quantized``: environments and processes of the peers, how they make and run their files, the rows."""
