"""Tiny models that scripts/make_tiny_models.py makes, one for each family and flag that xplm has."""

from tiny_recipes.by_type import BY_TYPE
from tiny_recipes.dense import DENSE
from tiny_recipes.recipe import Recipe
from tiny_recipes.routed import ROUTED

__all__ = ["RECIPES", "Recipe"]

RECIPES: dict[str, Recipe] = DENSE | BY_TYPE | ROUTED
