"""The gate that ``olc check`` is: compile the models that ``olc.toml`` names and judge each against its budgets."""
