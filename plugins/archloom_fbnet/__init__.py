"""FBNet (Wu et al., CVPR 2019): its search space, its method and its published networks, as a plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import archloom

from .method import FBNet
from .space import FBNetSpace

__all__ = ["FBNet", "FBNetSpace"]


@archloom.hookimpl
def register_search_spaces(register: Callable[[str, Any], None]) -> None:
    register("fbnet", FBNetSpace)


@archloom.hookimpl
def register_strategies(register: Callable[[str, Any], None]) -> None:
    register("fbnet", FBNet)
