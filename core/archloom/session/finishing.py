"""The end of a search: the found architecture, its family and weights, the verdict, the result, the report."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ..architecture import Architecture
from ..errors import RunError
from ..family import Member, family, write_family
from ..metrics import outputs_beyond_classes
from ..objective import best, front
from ..report import write_report
from ..resolve import Resolved
from ..run import write_json
from ..shared import proxy_of
from ..space import input_shape
from ..strategy import WeightSharing
from ..trial import Trial
from ..verdict import Failure, Group, sentences
from ..zoo import architecture_document, decisions_document
from .finals import Finals, write_weights
from .result import Result, write_result

logger = logging.getLogger("archloom")

Made = TypeVar("Made")


def finish(
    r: Resolved,
    folder: Path,
    method: WeightSharing | None,
    trials: Sequence[Trial],
    reason: str,
    finals: Finals,
) -> Result:
    """Pick from the trials, and write into `folder` all that a finished run has.

    What the search found is written first; what comes after it, inherited weights, family, verdict and report, is
    added, and where it fails it is named in the result, which stands. With `strict` the error is raised.
    """
    trials = _known(trials, r, folder)
    units = {name: metric.unit for name, metric in r.metrics.items()}
    result = Result(folder, None, tuple(trials), tuple(front(trials)), reason, units=units)
    found = best(trials, r.picking)
    if found is not None:
        result = replace(result, architecture=found.architecture)
        _write_architecture(result, r, found)
    write_result(result, found, r.objectives, r.config.reference, finished=False)
    after = _After(r.config.strict)
    if found is not None:
        result = _extended(result, r, found, method, finals, after)
    result = replace(result, problems=tuple(after.problems))
    write_result(result, found, r.objectives, r.config.reference)
    after.attempt("the report", lambda: write_report(folder), None, folder_too=True)
    if len(after.problems) > len(result.problems):
        result = replace(result, problems=tuple(after.problems))
        with suppress(RunError):  # a disk that has no room for the report has none for this either
            write_result(result, found, r.objectives, r.config.reference)
    return result


@dataclass
class _After:
    """Runs what comes after the search, and keeps the reasons of what failed."""

    strict: bool
    problems: list[str] = field(default_factory=list)

    def attempt(
        self, what: str, step: Callable[[], Made], otherwise: Made, *, folder_too: bool = False
    ) -> Made:
        """What `step` makes, or `otherwise` where it fails. A folder that cannot be written is an error of the run,
        which a resume mends, unless `folder_too`."""
        try:
            return step()
        except Exception as error:  # spaces, methods and recipes are strangers' and may raise anything
            if self.strict or (isinstance(error, RunError) and not folder_too):
                raise
            logger.warning("%s failed\n%s", what, traceback.format_exc())
            self.problems.append(f"{what} failed: {type(error).__name__}: {error}")
            return otherwise


def _document(r: Resolved, architecture: Architecture, **facts: Any) -> dict[str, Any]:
    if r.task is None:
        return decisions_document(r.config.space.model_dump(), architecture, **facts)
    return architecture_document(
        r.config.space.model_dump(),
        architecture,
        shape=input_shape(r.space, architecture, r.task),
        classes=tuple(r.task.classes),
        outputs=outputs_beyond_classes(r.task),
        model=r.config.model.model_dump(),
        **facts,
    )


def _known(trials: Sequence[Trial], r: Resolved, folder: Path) -> list[Trial]:
    """The trials, whose architectures know all that building them takes, and the folder of their plugin files."""
    if r.task is None:
        return list(trials)  # there is no network to build of them
    shared: dict[str, Any] = {}
    known = []
    for trial in trials:
        try:
            shape = list(input_shape(r.space, trial.architecture, r.task))
        except Exception:  # a stranger's, of a network that the space cannot have: it is none to build
            known.append(trial)
            continue
        shared = shared or _document(r, trial.architecture, folder=str(folder))
        document = {**shared, "architecture": trial.architecture.to_json(), "shape": shape}
        known.append(replace(trial, architecture=trial.architecture.known_by(document)))
    return known


def _write_architecture(result: Result, r: Resolved, found: Trial) -> None:
    """Write architecture.json; weights of another architecture that was found here before are removed."""
    folder = result.folder
    document = _document(r, found.architecture, metrics=dict(found.metrics))
    path = folder / "architecture.json"
    with suppress(OSError, ValueError, AttributeError):  # none, or a damaged one, which is written anew
        if json.loads(path.read_text(encoding="utf-8")).get("architecture") != document["architecture"]:
            for name in ("weights", "weights-last", "inherited"):
                (folder / f"{name}.safetensors").unlink(missing_ok=True)
    write_json(path, document)


def _extended(
    result: Result, r: Resolved, found: Trial, method: WeightSharing | None, finals: Finals, after: _After
) -> Result:
    """The result with what follows from the found architecture: inherited weights, family and verdict."""
    folder, model = result.folder, r.config.model
    if r.task is None:
        finals.none()
        return result
    task = r.task

    def inherited(method: WeightSharing) -> None:
        child = method.supernet.extract(found.architecture)
        write_weights(folder / "inherited.safetensors", child.state_dict())

    def followed() -> list[Member]:
        members = family(r.host, r.config.space, found.architecture, task, r.parts)
        write_family(folder, members, model.model_dump(), task)
        return members

    if method is not None and proxy_of(r.space) is r.space:  # a proxy's weights fit no network of the space
        after.attempt("copying the inherited weights", lambda: inherited(method), None)
    result = replace(result, family=tuple(after.attempt("the family", followed, [])))
    if not r.config.verdict.seeds:
        finals.none()
        return result
    nothing: tuple[list[Group], list[Failure], tuple[str, ...]] = ([], [], ())
    told, failures, apart = after.attempt("the verdict", lambda: finals.hold(found.architecture), nothing)
    said = (*sentences(told, failures, finals.judged), *apart)
    return replace(result, groups=tuple(told), failures=tuple(failures), verdict=said, judged=finals.judged)
