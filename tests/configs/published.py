"""Hyper-parameters of the published recipes, from the reference data."""

import json
from pathlib import Path

REFERENCE = Path(__file__).parents[1] / "reference"
RECIPES = json.loads((REFERENCE / "recipes.json").read_text())
NAMES = sorted(RECIPES)
