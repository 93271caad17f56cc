"""archloom: neural-architecture search in which every space, strategy and estimator is a plugin."""

__all__ = ["hookimpl"]

import pluggy

hookimpl = pluggy.HookimplMarker("archloom")
"""Marks a plugin's implementation of one of `archloom.hookspecs`."""
