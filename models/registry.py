"""Finds recipes by walking `models/recipes/`: a new file there is a new model, with no list to edit."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from models.errors import ModelsError
from models.recipe import Recipe, Variant


@cache
def all_recipes() -> dict[str, Recipe]:
    """Every recipe by name, in alphabetical order."""
    import models.recipes as folder

    found = [importlib.import_module(f"models.recipes.{info.name}") for info in pkgutil.iter_modules(folder.__path__)]
    return {module.RECIPE.name: module.RECIPE for module in sorted(found, key=lambda module: module.RECIPE.name)}


def find(name: str) -> Recipe:
    """The recipe of that name; an unambiguous beginning of the name will do (`minilm` for `minilm-l6`)."""
    known = all_recipes()
    if name in known:
        return known[name]
    begins = [full for full in known if full.startswith(name)]
    if len(begins) != 1:
        raise ModelsError(
            f"it begins the names of {', '.join(begins)}" if begins else "no such model",
            name,
            f"choose one of: {', '.join(known)}",
        )
    return known[begins[0]]


def locate(stem: str) -> tuple[Recipe, Variant, str]:
    """The recipe, variant and role of a built file, by its name without `.onnx`."""
    for known in all_recipes().values():
        for variant in known.variants:
            for role, file in variant.files.items():
                if file.stem == stem:
                    return known, variant, role
    raise ModelsError("no model has a file of that name", stem, "see `python -m models list`")
