"""Recipes that come with xplm, by name: the files of `xplm/train/recipes`, with the small texts that they train on."""

import os
from pathlib import Path

from xplm.errors import RequestError, did_you_mean

RECIPES = {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.toml"))}


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe.

    Args:
        name: one of RECIPES, or a path.

    Raises:
        RequestError: it is neither.
    """
    if str(name) in RECIPES:
        return RECIPES[str(name)]
    path = Path(name)
    if os.path.exists(path):  # False, too, for a name that cannot be a path
        return path
    hint = did_you_mean(path.stem, RECIPES) or "; check the spelling"
    raise RequestError(
        f'a recipe is one of {", ".join(RECIPES)}, or a TOML file that exists; got "{name}"{hint}'
    )
