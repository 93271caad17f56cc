"""Observers: TensorBoard."""

from __future__ import annotations

import archloom
from archloom import Register

from .tensorboard import TensorBoard


@archloom.hookimpl
def register_observers(register: Register) -> None:
    register("tensorboard", TensorBoard, default=True)
