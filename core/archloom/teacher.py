"""The network that a recipe learns from."""

from __future__ import annotations

from torch import nn

from .errors import ConfigError
from .metrics import refuse_other
from .plugins import Host
from .source import open_source, plugins_beside
from .task import Task
from .training import Recipe
from .weights import load_weights


def load_teacher(recipe: Recipe, task: Task, host: Host) -> nn.Module | None:
    """The recipe's teacher with its weights, to be handed to `train`; None where it names none.

    A folder has its own weights, all others need `teacher_weights`. Plugin files that stand beside the teacher
    are loaded besides those of `host`. Raises ConfigError where there are no weights, WeightsError where they
    do not fit.
    """
    if recipe.teacher is None:
        return None
    refuse_other(task, "recipe: teacher")
    files = plugins_beside(recipe.teacher, host.files)
    if not set(files) <= set(host.files):
        host = Host(files)
    source = open_source(recipe.teacher, host)
    weights = recipe.teacher_weights or source.weights
    if weights is None:
        raise ConfigError(
            f"the recipe's teacher '{recipe.teacher}' has no weights beside it; name them with teacher_weights"
        )
    network = source.build(None if source.classes else len(task.classes))
    load_weights(network, weights)
    return network.eval().requires_grad_(False)
