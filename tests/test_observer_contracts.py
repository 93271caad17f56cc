"""The observers that ship keep the contract of observers."""

from __future__ import annotations

from archloom import testing
from archloom_observers import TensorBoard


class TestTensorBoard(testing.ObserverContract):
    factory = TensorBoard
