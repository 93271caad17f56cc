"""Estimators: what a network costs, how long it takes, how accurate it is, and proxies of that. Executors: where they
measure."""

from __future__ import annotations

import archloom
from archloom import Here, Register

from .accuracy import InheritedAccuracy, TrainedAccuracy
from .cost import Macs, Params
from .executors import Workers
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


@archloom.hookimpl
def register_executors(register: Register) -> None:
    register("here", Here, default=True)
    register("processes", Workers, default=True)
