"""Estimators: what a network costs, how long it takes, how accurate it is, and proxies of that."""

from __future__ import annotations

import archloom
from archloom.hookspecs import Register

from .accuracy import InheritedAccuracy, TrainedAccuracy
from .cost import Macs, Params
from .function import Function
from .latency import MeasuredLatency, TableLatency
from .proxies import PROXIES


@archloom.hookimpl
def register_estimators(register: Register) -> None:
    register("params", Params, default=True)
    register("macs", Macs, default=True)
    register("latency", MeasuredLatency)
    register("latency_table", TableLatency)
    register("accuracy", TrainedAccuracy)
    register("inherited_accuracy", InheritedAccuracy)
    register("function", Function)
    for name, proxy in PROXIES.items():
        register(name, proxy)
