"""Spaces and estimators that are backed by published tables, and tables of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import archloom

from .digits import DigitsTable
from .fbnet_device import FBNetDevice
from .macro import MacroTable
from .space import MacroSpace
from .table import Table

__all__ = ["DigitsTable", "FBNetDevice", "MacroSpace", "MacroTable", "Table"]


@archloom.hookimpl
def register_search_spaces(register: Callable[[str, Any], None]) -> None:
    register("nasbench_macro", MacroSpace)


@archloom.hookimpl
def register_estimators(register: Callable[[str, Any], None]) -> None:
    register("macro_table", MacroTable)
    register("digits_table", DigitsTable)
    register("table", Table)
    register("fbnet_device", FBNetDevice)
