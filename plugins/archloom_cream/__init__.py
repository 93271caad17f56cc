"""Cream of the Crop (Peng et al., NeurIPS 2020): its search space and its published networks, as a plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import archloom

from .method import Cream
from .network import CreamHead, CreamNetwork, CreamPool
from .recipe import CreamRecipe
from .space import CreamSpace
from .textual import from_block_strings

__all__ = [
    "Cream",
    "CreamHead",
    "CreamNetwork",
    "CreamPool",
    "CreamSpace",
    "from_block_strings",
    "published_space",
]


def published_space(*, in_channels: int = 3, resolution: int | None = None) -> CreamSpace:
    """The space of which all six published networks are architectures: up to 5 and 6 blocks a stage."""
    return CreamSpace(in_channels=in_channels, depths=[5, 5, 5, 6, 6], skip=True, resolution=resolution)


@archloom.hookimpl
def register_search_spaces(register: Callable[[str, Any], None]) -> None:
    register("cream", CreamSpace)
    register("cream_published", published_space)


@archloom.hookimpl
def register_strategies(register: Callable[[str, Any], None]) -> None:
    register("cream", Cream)


@archloom.hookimpl
def register_components(register: Callable[[str, Any], None]) -> None:
    register("neck.CreamPool", CreamPool)
    register("head.CreamHead", CreamHead)


@archloom.hookimpl
def register_recipes(register: Callable[[str, Any], None]) -> None:
    register("cream", CreamRecipe)
