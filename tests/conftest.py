"""What holds for every test."""

from __future__ import annotations

import os

os.environ["OLC_CACHE"] = "off"  # no test answers, or is answered, from the cache of whoever runs it
