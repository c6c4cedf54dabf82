"""Products of a value with its sigmoid or hard sigmoid: SiLU and HardSwish become one operator."""
