"""archloom: neural-architecture search in which every space, strategy and estimator is a plugin.

    archloom.search(config)               a whole search; a Result
    archloom.resume(folder)               go on with an interrupted one
    archloom.build("fbnet_a")             a network by name, from an architecture file or a run folder
    archloom.build_model(section, task)   a network of backbone, neck, head and loss
    archloom.retrain(source, folder)      train one of them from scratch
    archloom.count(model, resolution)     its params and MACs
    archloom.load_weights(model, path)    weights in our format or another implementation's
    archloom.hookimpl                     marks a plugin's hooks, see archloom.hookspecs

PyTorch is imported when one of these is first used, not before.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

import pluggy

hookimpl = pluggy.HookimplMarker("archloom")
"""Marks a plugin's implementation of one of `archloom.hookspecs`."""

_LAZY = {
    "Architecture": "architecture",
    "Choice": "architecture",
    "Host": "plugins",
    "Result": "session",
    "build": "zoo",
    "build_model": "assembly",
    "count": "cost",
    "load_weights": "weights",
    "resume": "session",
    "retrain": "retraining",
    "search": "session",
}

__all__ = ["hookimpl", "version", *_LAZY]


def version() -> str:
    """The installed version of archloom."""
    return importlib.metadata.version("archloom")


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'archloom' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"archloom.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
