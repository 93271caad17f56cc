"""Training recipes by name."""

from __future__ import annotations

import archloom
from archloom.training import Recipe


@archloom.hookimpl
def register_recipes(register):
    register("default", Recipe)
