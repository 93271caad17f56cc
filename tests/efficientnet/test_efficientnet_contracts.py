"""EfficientNet's recipes keep the contract of recipes."""

from __future__ import annotations

from typing import Any

from archloom import testing
from archloom_efficientnet import EfficientNetPaper, EfficientNetPlain
from archloom_vision.digits import digits


class TestPaper(testing.RecipeContract):
    factory = EfficientNetPaper

    def task(self) -> Any:
        return digits(train_size=60)


class TestPlain(testing.RecipeContract):
    factory = EfficientNetPlain
