"""From a compiled model that is bad to the rewrite or pass that made it so. See docs/bisect.md.

``find`` halves over the compile's rewrites (``find.py``), each judged by what was asked (``judges.py``); ``cut`` takes the
part of the graph around the culprit out (``cut.py``). What builds the models is the caller's: they know no driver.
"""

from .cut import around
from .find import Culprit, Limits, Trials, find
from .judges import GOOD, Check, Judge, Outputs, Slower, Verdict

__all__ = ["GOOD", "Check", "Culprit", "Judge", "Limits", "Outputs", "Slower", "Trials", "Verdict", "around", "find"]
