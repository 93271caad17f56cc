"""The tasks as the plugin registers them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tiny_data import registered

import archloom_vision


@pytest.fixture(scope="session")
def tasks() -> dict[str, Callable]:
    return registered(archloom_vision)
