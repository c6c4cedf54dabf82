"""``python -m olc``."""

from .cli import entry

entry()
