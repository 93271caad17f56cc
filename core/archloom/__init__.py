"""archloom: neural-architecture search in which every space, strategy and estimator is a plugin.

    archloom.search(config)               a whole search; a Result
    archloom.resume(folder)               go on with an interrupted one
    archloom.build("fbnet_a")             a network by name, from an architecture file or a run folder
    archloom.supernet("fbnet")            the shared network of a search space by name
    archloom.build_model(section, task)   a network of backbone, neck, head and loss
    archloom.retrain(source, folder)      train one of them from scratch
    archloom.count(model, resolution)     its params and MACs
    archloom.load_weights(model, path)    weights in our format or another implementation's
    archloom.make(host, "task", "digits") what a plugin registered, by name
    archloom.hookimpl                     marks a plugin's hooks, see archloom.hookspecs

These, and all others of `__all__`, are what plugins are made with: docs/plugins.md lists them by purpose, with the few
modules beside this one that are public too. They are provisional until version 1.0. PyTorch is imported when one of
them first needs it, not before.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from .architecture import Architecture, Choice, Option
    from .assembly import build_model
    from .augmentation import Policy
    from .backbone import known_parts
    from .context import RunContext
    from .cost import count
    from .drawing import own_rng
    from .errors import (
        ArchloomError,
        CheckpointError,
        ConfigError,
        PluginError,
        SearchError,
        SpaceError,
        TaskError,
        UnknownName,
        WeightsError,
        nearest,
    )
    from .estimator import FULL, INHERITED, STATIC, TRAINING, Context, Estimator, Fidelity
    from .hookspecs import Register
    from .job import Job
    from .measuring import Executor, Here, Measurer, Outcome
    from .metrics import Metric, Scoring
    from .model import (
        Features,
        GlobalAverage,
        LinearHead,
        Model,
        ModelParts,
        SeriesAverage,
        assemble_shared,
        deepest,
        topk_accuracy,
    )
    from .objective import Constraint, Objective
    from .plugins import Host
    from .randomness import derive_seed, forked_rng, python_rng, torch_rng
    from .ranks import Ranks
    from .resolve import make
    from .retraining import retrain
    from .session import Result, resume, search
    from .shared import SharedChoice, SharedNetwork, Supernet
    from .space import (
        Around,
        Chain,
        NamedArchitecture,
        SearchSpace,
        WeightFormat,
        build_chain,
        check,
        decide,
        input_shape,
        mutate,
        sample,
        size,
        violations,
    )
    from .splitting import stratified_split
    from .strategy import Progress, Proposal, Recorded, Strategy, WeightSharing
    from .task import ImageTask, Split, Task, batches, layout_of
    from .training import Recipe
    from .trial import Trial
    from .weights import load_weights
    from .wiring import build_wired
    from .zoo import build, find, supernet

hookimpl = pluggy.HookimplMarker("archloom")
"""Marks a plugin's implementation of one of `archloom.hookspecs`."""

_NAMES = {
    "architecture": "Architecture Choice Option",
    "assembly": "build_model",
    "augmentation": "Policy",
    "backbone": "known_parts",
    "context": "RunContext",
    "cost": "count",
    "drawing": "own_rng",
    "errors": "ArchloomError CheckpointError ConfigError PluginError SearchError SpaceError TaskError "
    "UnknownName WeightsError nearest",
    "estimator": "Context Estimator FULL Fidelity INHERITED STATIC TRAINING",
    "hookspecs": "Register",
    "job": "Job",
    "measuring": "Executor Here Measurer Outcome",
    "metrics": "Metric Scoring",
    "model": "Features GlobalAverage LinearHead Model ModelParts SeriesAverage assemble_shared deepest "
    "topk_accuracy",
    "objective": "Constraint Objective",
    "plugins": "Host",
    "randomness": "derive_seed forked_rng python_rng torch_rng",
    "ranks": "Ranks",
    "resolve": "make",
    "retraining": "retrain",
    "session": "Result resume search",
    "shared": "SharedChoice SharedNetwork Supernet",
    "space": "Around Chain NamedArchitecture SearchSpace WeightFormat build_chain check decide "
    "input_shape mutate sample size violations",
    "splitting": "stratified_split",
    "strategy": "Progress Proposal Recorded Strategy WeightSharing",
    "task": "ImageTask Split Task batches layout_of",
    "training": "Recipe",
    "trial": "Trial",
    "weights": "load_weights",
    "wiring": "build_wired",
    "zoo": "build find supernet",
}
_LAZY = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "FULL",
    "INHERITED",
    "STATIC",
    "TRAINING",
    "Architecture",
    "ArchloomError",
    "Around",
    "Chain",
    "CheckpointError",
    "Choice",
    "ConfigError",
    "Constraint",
    "Context",
    "Estimator",
    "Executor",
    "Features",
    "Fidelity",
    "GlobalAverage",
    "Here",
    "Host",
    "ImageTask",
    "Job",
    "LinearHead",
    "Measurer",
    "Metric",
    "Model",
    "ModelParts",
    "NamedArchitecture",
    "Objective",
    "Option",
    "Outcome",
    "PluginError",
    "Policy",
    "Progress",
    "Proposal",
    "Ranks",
    "Recipe",
    "Recorded",
    "Register",
    "Result",
    "RunContext",
    "Scoring",
    "SearchError",
    "SearchSpace",
    "SeriesAverage",
    "SharedChoice",
    "SharedNetwork",
    "SpaceError",
    "Split",
    "Strategy",
    "Supernet",
    "Task",
    "TaskError",
    "Trial",
    "UnknownName",
    "WeightFormat",
    "WeightSharing",
    "WeightsError",
    "assemble_shared",
    "batches",
    "build",
    "build_chain",
    "build_model",
    "build_wired",
    "check",
    "count",
    "decide",
    "deepest",
    "derive_seed",
    "find",
    "forked_rng",
    "hookimpl",
    "input_shape",
    "known_parts",
    "layout_of",
    "load_weights",
    "make",
    "mutate",
    "nearest",
    "own_rng",
    "python_rng",
    "resume",
    "retrain",
    "sample",
    "search",
    "size",
    "stratified_split",
    "supernet",
    "topk_accuracy",
    "torch_rng",
    "version",
    "violations",
]


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
