"""The folder that a run leaves, and the only module that writes there.

config.yaml          the configuration, every default filled in
environment.json     versions, plugins, device, seed, git commit
log.jsonl            one line per event, appended; what resume reads
log.txt              the same for people
checkpoint.pt        the weight-sharing method's state, and checkpoint.pt.previous
recorded/            values measured once in the run's life (a latency table)
tensorboard/         scalars
final/               networks trained at the end, each with its own checkpoint and epochs.csv
architecture.json    the found architecture
weights.safetensors  its weights, best by validation; weights-last.safetensors, the last epoch's
result.json          what came out
report.html          what a person looks at
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from .errors import PluginError, RunError

_MAGIC = b"archloom checkpoint 1\n"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a power cut, sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(
            f"cannot write {path}: {error.strerror or error}. What was written before is intact; "
            "make room or mend the permissions, then: archloom resume"
        ) from error
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` with a checksum, atomically; the checkpoint before is kept as `<name>.previous`."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    buffer.seek(0)
    if odd := get_unsafe_globals_in_checkpoint(buffer):  # said now, and not when the state is needed
        raise PluginError(
            f"the state for {path.name} holds {', '.join(odd)}, which cannot be read back as data; a state is made of "
            "tensors, numbers, strings, lists and dictionaries"
        )
    payload = buffer.getvalue()
    head = _MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n"
    fresh = path.with_name(f"{path.name}.new")
    write_atomically(fresh, head + payload)
    if path.exists():
        os.replace(path, previous(path))
    os.replace(fresh, path)
    _sync_folder(path.parent)


def previous(path: Path) -> Path:
    """Where the checkpoint before `path` is kept."""
    return path.with_name(f"{path.name}.previous")


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state in `path`, or in the one before where `path` is damaged (said as a warning), or None.

    None means that there is no checkpoint at all; two damaged ones are a RunError.
    """
    problems = []
    for candidate in (path, path.with_name(f"{path.name}.new"), previous(path)):
        if not candidate.exists():
            continue
        try:
            state = _read(candidate)
        except RunError as error:
            if not candidate.name.endswith(".new"):
                problems.append(str(error))
            continue
        if problems:
            warnings.warn(f"{problems[0]}; going on from the one before, {candidate.name}", stacklevel=2)
        return state
    if problems:
        raise RunError(
            "; ".join(problems) + ". No sound checkpoint is left; start the run again in a new folder"
        )
    return None


def _read(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    head, digest = data[: len(_MAGIC)], data[len(_MAGIC) : len(_MAGIC) + 64]
    payload = data[len(_MAGIC) + 65 :]
    if head != _MAGIC or hashlib.sha256(payload).hexdigest().encode() != digest:
        raise RunError(f"checkpoint {path} is damaged (its checksum does not fit)")
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RunError(f"checkpoint {path} holds more than data, and is not read") from error


class EventLog(Protocol):
    """Where events go: a run's `Log`, or a list for a search that nobody resumes."""

    events: list[dict[str, Any]]

    def append(self, event: Mapping[str, Any]) -> None: ...


@dataclass
class Memory:
    """An event log that is kept in memory alone."""

    events: list[dict[str, Any]] = field(default_factory=list)

    def append(self, event: Mapping[str, Any]) -> None:
        self.events.append(dict(event))


class Log:
    """An append-only file of JSON lines. A torn last line, left by a crash, is cut off on opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[dict[str, Any]] = []
        if path.exists():
            sound = 0
            for line in path.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                try:
                    self.events.append(json.loads(line))
                except ValueError as error:
                    if sound + len(line) < path.stat().st_size:
                        raise RunError(
                            f"{path}, line {len(self.events) + 1}, is not JSON; the log was changed by hand or the "
                            "disk is damaged. Restore the file, or start a new run"
                        ) from error
                    break
                sound += len(line)
            if sound < path.stat().st_size:
                os.truncate(path, sound)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)

    def append(self, event: Mapping[str, Any]) -> None:
        """One event, one write, flushed to the disk."""
        line = (json.dumps(event) + "\n").encode()
        position = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):  # a disk that fills up takes a part, without an error
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            os.truncate(self.path, position)  # no torn line stays behind
            raise RunError(
                f"cannot write {self.path}: {error.strerror or error}. What was written before is intact; "
                "make room, then: archloom resume"
            ) from error
        self.events.append(dict(event))

    def of(self, kind: str) -> Iterator[dict[str, Any]]:
        """The events of one kind, in order."""
        return (event for event in self.events if event["event"] == kind)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def recorded(folder: Path, name: str, measure: Callable[[], Any]) -> Any:
    """A JSON value measured once in a run's life, whichever of its processes asks first."""
    path = folder / "recorded" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / ".lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            write_json(path, measure())
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged; delete it to have it measured again") from error


class Run:
    """A run's folder. Opening an existing one reads its log."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.log = Log(self.folder / "log.jsonl")
        except OSError as error:
            raise RunError(f"cannot open the run folder {self.folder}: {error.strerror or error}") from error

    @property
    def checkpoint(self) -> Path:
        """Where the method's state is kept."""
        return self.folder / "checkpoint.pt"

    def recorded(self, name: str, measure: Callable[[], Any]) -> Any:
        """A JSON value measured once in the run's life: measured and written now, or read back."""
        return recorded(self.folder, name, measure)

    def read_json(self, name: str) -> Any:
        """The content of a JSON file of the folder; a RunError where it is not there."""
        path = self.folder / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(f"{self.folder} has no {name}; is it the folder of a finished run?") from error
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}") from error

    def close(self) -> None:
        """Close the log."""
        self.log.close()
