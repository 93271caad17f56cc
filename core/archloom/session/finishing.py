"""The end of a search: the found architecture, its family and weights, the verdict, the result, the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..family import family, write_family
from ..objective import best, front
from ..report import write_report
from ..resolve import Resolved
from ..run import write_json
from ..space import input_shape
from ..strategy import WeightSharing
from ..trial import Trial
from ..verdict import judge
from ..zoo import architecture_document
from .finals import Finals, write_weights
from .result import Result, write_result


def finish(
    r: Resolved,
    folder: Path,
    method: WeightSharing | None,
    trials: Sequence[Trial],
    reason: str,
    finals: Finals,
) -> Result:
    """Pick from the trials, hold the verdict, and write into `folder` all that a finished run has."""
    result = Result(folder, None, tuple(trials), tuple(front(trials)), reason)
    found = best(trials, r.picking)
    if found is not None:
        result = _with_architecture(result, r, found, method)
        if r.config.verdict.seeds:
            told = finals.hold(found.architecture)
            sentences = tuple(judge(told[0], other) for other in told[1:])
            result = replace(result, groups=tuple(told), verdict=sentences)
    write_result(result, found, r.objectives, r.config.reference)
    write_report(folder)
    return result


def _with_architecture(result: Result, r: Resolved, found: Trial, method: WeightSharing | None) -> Result:
    """The result with the found architecture, whose files, and those of its family, are written."""
    folder, config, classes = result.folder, r.config, tuple(r.task.classes)
    document = architecture_document(
        config.space.model_dump(),
        found.architecture,
        shape=input_shape(r.space, found.architecture, r.task),
        classes=classes,
        model=config.model.model_dump(),
        metrics=dict(found.metrics),
    )
    write_json(folder / "architecture.json", document)
    members = family(r.host, config.space, found.architecture, r.task, r.parts)
    write_family(folder, members, config.model.model_dump(), classes)
    if method is not None:
        child = method.supernet.extract(found.architecture)
        write_weights(folder / "inherited.safetensors", child.state_dict())
    return replace(result, architecture=found.architecture, family=tuple(members))
