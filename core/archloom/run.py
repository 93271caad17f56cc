"""The folder that a run leaves, and the only module that writes there.

config.yaml          the configuration, every default filled in
environment.json     versions, plugins, device, seed, git commit
identity.json        what the run is, by which a resume knows it; see `archloom.folder`
log.jsonl            one line per event, appended; what resume reads. log.sums: a checksum for each line
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
import hashlib
import io
import json
import os
import pickle
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from .documents import json_text
from .errors import CheckpointError, PluginError, RunError
from .eventlog import EventLog, Log, Memory
from .locking import Lock

__all__ = [
    "EventLog",
    "Log",
    "Memory",
    "Run",
    "load_checkpoint",
    "previous",
    "read_checkpoint",
    "recorded",
    "save_checkpoint",
    "write_atomically",
    "write_json",
]

_MAGIC_1, _MAGIC = b"archloom checkpoint 1\n", b"archloom checkpoint 2\n"


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
        with suppress(OSError):  # where nothing can be written, nothing can be removed either
            temporary.unlink(missing_ok=True)
        raise RunError(
            f"cannot write {path}: {error.strerror or error}. What was written before is intact; {_remedy(error)}"
        ) from error
    _sync_folder(path.parent)


def _remedy(error: OSError) -> str:
    if error.errno == errno.EROFS:
        return "nothing can be written there: copy the folder to where it can, and work on the copy"
    return "make room or mend the permissions, then: archloom resume"


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_atomically(path, json_text(value).encode())


def save_checkpoint(path: Path, state: Mapping[str, Any], owner: str = "") -> None:
    """Write `state` with a checksum, atomically; the checkpoint before is kept as `<name>.previous`.

    owner: whose state it is, a line of text: `load_checkpoint` refuses one of another owner's.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    buffer.seek(0)
    if odd := get_unsafe_globals_in_checkpoint(buffer):  # said now, and not when the state is needed
        raise PluginError(
            f"the state for {path.name} holds {', '.join(odd)}, which cannot be read back as data; a state is made of "
            "tensors, numbers, strings, lists and dictionaries"
        )
    payload = buffer.getvalue()
    mine = owner.encode()
    head = _MAGIC + hashlib.sha256(mine + payload).hexdigest().encode() + b" " + mine + b"\n"
    fresh = path.with_name(f"{path.name}.new")
    write_atomically(fresh, head + payload)
    try:
        if path.exists():
            os.replace(path, previous(path))
        os.replace(fresh, path)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}. Its content is in {fresh.name}; move away what is in "
            "the way, then: archloom resume"
        ) from error
    _sync_folder(path.parent)


def previous(path: Path) -> Path:
    """Where the checkpoint before `path` is kept."""
    return path.with_name(f"{path.name}.previous")


def load_checkpoint(path: Path, owner: str = "") -> dict[str, Any] | None:
    """The state in `path`, or in the one before where `path` is damaged or another's (said as a warning), or None.

    None means that there is no checkpoint at all; a CheckpointError, that none of those that are there can be used.
    owner: whose it must be; a checkpoint that does not say is taken.
    """
    problems: list[CheckpointError] = []
    for candidate in (path, path.with_name(f"{path.name}.new"), previous(path)):
        if not candidate.exists():
            continue
        if candidate.is_dir():
            raise CheckpointError(
                f"{candidate} is a folder where a checkpoint belongs; move it away, then: archloom resume",
                foreign=True,
            )
        try:
            state = read_checkpoint(candidate, owner)
        except CheckpointError as error:
            if not candidate.name.endswith(".new"):
                problems.append(error)
            continue
        if problems:
            warnings.warn(f"{problems[0]}; going on from the one before, {candidate.name}", stacklevel=2)
        return state
    if problems:
        raise CheckpointError(
            "; ".join(map(str, problems))
            + ". No sound checkpoint is left; start the run again in a new folder",
            foreign=any(problem.foreign for problem in problems),
        )
    return None


def read_checkpoint(path: Path, owner: str = "") -> dict[str, Any]:
    """The state in this one file; a CheckpointError where it cannot be read, is damaged, or is another's."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({error.strerror or error})") from error
    magic, _, rest = data.partition(b"\n")
    line, _, payload = rest.partition(b"\n")
    digest, _, mine = line.partition(b" ")  # the first version knew of no owners, and had no space
    sound = hashlib.sha256(mine + payload).hexdigest().encode() == digest
    if magic + b"\n" not in (_MAGIC, _MAGIC_1) or not sound:
        raise CheckpointError(f"checkpoint {path} is damaged (its checksum does not fit)")
    if owner and mine and mine != owner.encode():
        raise CheckpointError(f"checkpoint {path} belongs to other work than this", foreign=True)
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"checkpoint {path} holds more than data, and is not read") from error


_MEASURING: dict[Path, threading.Lock] = {}
"""One for each value: threads of this process that need the same one wait for whoever measures it."""


def recorded(folder: Path, name: str, measure: Callable[[], Any]) -> Any:
    """A JSON value measured once in a run's life, by whichever thread asks first of the process that owns the `folder`.
    Other processes ask that one: see `archloom.recording`."""
    path = folder / "recorded" / f"{name}.json"
    with _MEASURING.setdefault(path, threading.Lock()):
        if not path.exists():
            write_json(path, measure())
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged; delete it to have it measured again") from error


class Run:
    """A run's folder, owned until `close`. Opening an existing one reads its log.

    lock: of whoever owns the folder already; without one it is locked here, or refused where another works in it.
    """

    def __init__(self, folder: str | Path, lock: Lock | None = None) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = lock or Lock(self.folder)
            try:
                self.log = Log(self.folder / "log.jsonl", self.lock.check)
            except BaseException:
                self.lock.release()
                raise
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
        """Close the log, and give the folder back."""
        self.log.close()
        self.lock.release()
