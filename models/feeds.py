"""Real inputs as functions that yield feeds, for options such as `--data models.feeds:minilm_l6_dynamo_op18`.

There is one for each file of `python -m models list`: its name, with `_` for `-`. The feeds come from the source model,
which is built first if it has to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from models.recipe import Feed
from models.registry import all_recipes, locate


def names() -> dict[str, str]:
    """Function name -> file name."""
    files = [f for recipe in all_recipes().values() for variant in recipe.variants for f in variant.files.values()]
    return {file.stem.replace("-", "_"): file.stem for file in files}


def __getattr__(name: str) -> Callable[[], Iterator[Feed]]:
    stem = None if name.startswith("__") else names().get(name)
    if stem is None:
        raise AttributeError(f"models.feeds has no {name!r}; its names are: {', '.join(names())}")

    def feeds() -> Iterator[Feed]:
        recipe, variant, role = locate(stem)
        yield from recipe.feeds(recipe.build(variant.name))[role]

    feeds.__name__ = name
    return feeds
