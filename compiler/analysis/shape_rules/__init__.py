"""Shape rules, one file per family of operators; importing the package registers them all."""

from . import (  # noqa: F401
    contrib,
    control,
    elementwise,
    indexing,
    layout,
    linear,
    making,
    networks,
    windows,
)
