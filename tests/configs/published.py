"""The published recipes, as the reference data states them."""

import json
from pathlib import Path

REFERENCE = Path(__file__).parents[1] / "reference"
RECIPES = json.loads((REFERENCE / "recipes.json").read_text())
NAMES = sorted(RECIPES)
