"""Cream's neck, head and recipe keep the contracts of their kinds."""

from __future__ import annotations

from typing import Any

from archloom import testing
from archloom_cream.network import CreamHead, CreamPool
from archloom_cream.recipe import CreamRecipe
from archloom_vision.digits import digits


class TestCreamPool(testing.NeckContract):
    factory, options = CreamPool, {"pool": "catavgmax"}


class TestCreamHead(testing.HeadContract):
    factory, options = CreamHead, {"features": 8}


class TestCreamRecipe(testing.RecipeContract):
    factory = CreamRecipe

    def task(self) -> Any:
        return digits(train_size=60)
