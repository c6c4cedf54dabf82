"""Boolean algebra: And, Or, Not and Where with known or repeated operands."""
