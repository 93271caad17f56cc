"""The contract of observers."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from .checks import Contract, global_generators_untouched, require, same

_TRIAL = {
    "number": 0,
    "architecture": {"layer0": "k3"},
    "status": "ok",
    "metrics": {"macs": 1000.0},
    "scores": [-1000.0],
    "cost": {"seconds": 0.1, "epochs": 0.0},
    "seed": 7,
    "source": None,
    "error": None,
    "fidelity": 1.0,
}
_FAILED = _TRIAL | {
    "number": 1,
    "status": "failed",
    "metrics": {},
    "scores": None,
    "error": "it was too large",
}

EVENTS: tuple[Mapping[str, Any], ...] = (
    {
        "event": "start",
        "identity": {"seed": 0, "space": {"type": "tiny"}},
        "versions": {"archloom": "0"},
        "device": "cpu",
        "folder": ".",
        "threads": 1,
        "objectives": [{"name": "macs", "unit": "MACs"}],
        "budget": {"trials": 2, "epochs": None, "seconds": None},
        "trainings": 1,
        "so_far": {
            "measured": 0,
            "epochs": 0.0,
            "active": 0.0,
            "trainings": 0,
            "fidelity": 0.0,
            "best": [],
        },
    },
    {"event": "fit", "unit": 1, "of": 1, "epochs": 1.0, "metrics": {"loss": 2.3}, "active": 0.5},
    {"event": "propose", "number": 0, "architecture": {"layer0": "k3"}, "fidelity": 1.0},
    {"event": "result", "active": 0.6, **_TRIAL},
    {"event": "observe", "number": 0},
    {"event": "propose", "number": 1, "architecture": {"layer0": "k5"}, "fidelity": 1.0},
    {"event": "result", "active": 0.7, **_FAILED},
    {"event": "observe", "number": 1},
    {"event": "end", "reason": "the budget of 2 trials is spent", "active": 0.8},
    {
        "event": "epoch",
        "name": "found-0",
        "number": 1,
        "of": 1,
        "metrics": {"lr": 0.1, "validation.loss": 2.3},
    },
    {
        "event": "final",
        "name": "found-0",
        "role": "found",
        "index": 0,
        "seed": 0,
        "architecture": {"layer0": "k3"},
        "metrics": {"test.loss": 2.3, "macs": 1000},
    },
    {"event": "finished", "folder": "."},
)
"""What an observer of a small run is called with, in order."""


class ObserverContract(Contract):
    """Checks an observer, which is called with each event of a run, here of a small one (`EVENTS`)."""

    kind = "observer"
    own: ClassVar[tuple[str, ...]] = ("config.yaml", "log.jsonl", "environment.json", "result.json")
    """The run's own files, which an observer leaves alone."""

    def _observer(self, folder: Path) -> Any:
        try:
            observer = self._make(folder=folder)
        except Exception as error:
            raise AssertionError(
                f"it cannot be made for the run's folder: {type(error).__name__}: {error}; the folder is there, and "
                "where a run goes on so is what was written before"
            ) from error
        require(
            callable(observer),
            f"the factory gave {type(observer).__name__}, which cannot be called with an event",
        )
        return observer

    def test_it_takes_every_event_of_a_run(self) -> None:
        with _run_folder() as folder:
            observer = self._observer(folder)
            for event in EVENTS:
                _tell(observer, event)

    def test_it_takes_a_run_that_goes_on(self) -> None:
        with _run_folder() as folder:
            for end in (4, len(EVENTS)):  # killed after the first result, and resumed by another process
                observer = self._observer(folder)
                for event in (EVENTS[0], *EVENTS[1 if end == 4 else 4 : end]):
                    _tell(observer, event)

    def test_it_passes_over_events_that_it_does_not_know(self) -> None:
        with _run_folder() as folder:
            observer = self._observer(folder)
            _tell(observer, {"event": "something of a later version", "value": 1})

    def test_it_leaves_the_events_as_they_are(self) -> None:
        with _run_folder() as folder:
            observer = self._observer(folder)
            for event in EVENTS:
                told = copy.deepcopy(dict(event))
                observer(told)
                require(
                    same(told, dict(event)),
                    f"it changed the event '{event['event']}', which other observers are told too; copy it first",
                )

    def test_it_writes_into_the_folder_of_the_run_and_to_no_file_of_it(self) -> None:
        with _run_folder() as folder, _elsewhere() as elsewhere:
            for name in self.own:
                (folder / name).write_text(f"the run's own {name}", encoding="utf-8")
            observer = self._observer(folder)
            for event in EVENTS:
                _tell(observer, event)
            changed = [name for name in self.own if _read(folder / name) != f"the run's own {name}"]
            require(
                not changed,
                f"it changed {', '.join(changed)}, by which the run goes on; write files of its own",
            )
            stray = [path.name for path in elsewhere.iterdir()]
            require(
                not stray,
                f"it wrote {', '.join(stray)} where the process stands; take `folder`, which is handed in, and write "
                "there",
            )

    def test_it_leaves_the_global_generators_alone(self) -> None:
        with _run_folder() as folder, global_generators_untouched("the observer"):
            observer = self._observer(folder)
            for event in EVENTS:
                _tell(observer, event)


def _tell(observer: Any, event: Mapping[str, Any]) -> None:
    try:
        observer(copy.deepcopy(dict(event)))
    except Exception as error:
        raise AssertionError(
            f"it raised {type(error).__name__} at the event '{event['event']}' ({error}), and would be switched off "
            "for the rest of the run; pass over what it does not need"
        ) from error


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


@contextmanager
def _run_folder() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder)


@contextmanager
def _elsewhere() -> Iterator[Path]:
    """An empty folder in which the process stands inside the block."""
    before = Path.cwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)
