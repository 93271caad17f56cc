"""Observers: TensorBoard."""

from __future__ import annotations

import archloom

from .tensorboard import TensorBoard


@archloom.hookimpl
def register_observers(register):
    register("tensorboard", TensorBoard)
