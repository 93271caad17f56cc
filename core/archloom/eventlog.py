"""The events of a piece of work, a JSON line each: appended, flushed to the disk, and checked when they are read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .errors import RunError


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


_SUM = 16  # hexadecimal digits of a line's checksum; a newline follows each


class Log:
    """An append-only file of JSON lines. A torn last line, left by a crash, is cut off on opening.

    Beside it lies a file of checksums, one for each line (`log.sums` beside `log.jsonl`), so that a line that was
    changed, doubled, removed or put in is named when the log is opened. Lines beyond the last checksum are taken as
    they are, since a power cut may lose checksums; so is a log without any, which an older version wrote.

    guard: is called before each line is written; what it raises keeps the line from being written.
    """

    def __init__(self, path: Path, guard: Callable[[], None] = lambda: None) -> None:
        self.path, self.sums, self._guard = path, path.with_suffix(".sums"), guard
        self.events: list[dict[str, Any]] = []
        lines = self._read() if path.exists() else []
        self._check(lines)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._sums = self.sums.open("ab", buffering=0)
        for line in lines[os.fstat(self._sums.fileno()).st_size // (_SUM + 1) :]:
            self._sums.write(_sum(line))

    def _read(self) -> list[bytes]:
        """The sound lines; what a crash left behind them is cut off."""
        lines: list[bytes] = []
        sound = 0
        for line in self.path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                event = json.loads(line)
            except (ValueError, RecursionError) as error:
                if sound + len(line) < self.path.stat().st_size:
                    raise self.damage(
                        len(lines), "is not JSON; the log was changed by hand or the disk is damaged"
                    ) from error
                break
            if not isinstance(event, dict):
                raise self.damage(len(lines), "is no event: a JSON object belongs there")
            self.events.append(event)
            lines.append(line)
            sound += len(line)
        if sound < self.path.stat().st_size:
            os.truncate(self.path, sound)
        return lines

    def _check(self, lines: list[bytes]) -> None:
        """Compare each line with its checksum; checksums without a line, of an append that was cut short, go."""
        if not self.sums.exists():
            return
        known = [entry + b"\n" for entry in self.sums.read_bytes().split(b"\n")[:-1]]
        found = [_sum(line) for line in lines]
        for index, (one, other) in enumerate(zip(found, known, strict=False)):
            if one != other:
                raise self.damage(index, _difference(index, found, known))
        keep = min(len(found), len(known)) * (_SUM + 1)
        if keep != self.sums.stat().st_size:
            os.truncate(self.sums, keep)

    def damage(self, index: int, what: str) -> RunError:
        """The error for the line of `events[index]`, with the way out."""
        return RunError(f"{self.path}, line {index + 1}, {what}. {way_out(index, self.path)}")

    def append(self, event: Mapping[str, Any]) -> None:
        """One event, one write, flushed to the disk."""
        self._guard()
        line = (json.dumps(event) + "\n").encode()
        position, sums = os.fstat(self._file.fileno()).st_size, os.fstat(self._sums.fileno()).st_size
        try:
            # the checksum first: one without a line is known as that of a line that was not written
            _write(self._sums, _sum(line))
            _write(self._file, line)
            os.fsync(self._file.fileno())
        except OSError as error:
            os.truncate(self.path, position)  # no torn line stays behind
            os.truncate(self.sums, sums)
            raise RunError(
                f"cannot write {self.path}: {error.strerror or error}. What was written before is intact; "
                "make room, then: archloom resume"
            ) from error
        self.events.append(dict(event))

    def of(self, kind: str) -> Iterator[dict[str, Any]]:
        """The events of one kind, in order."""
        return (event for event in self.events if event.get("event") == kind)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._sums.close()


def way_out(index: int, path: Path) -> str:
    """What to do about a log that is sound only before `index`."""
    kept = (
        f"keep its sound beginning alone (head -n {index} {path.name} > sound && mv sound {path.name}), from which the "
        "work goes on"
        if index
        else "start anew in another folder"
    )
    return f"Restore the file, or {kept}"


def _write(file: Any, data: bytes) -> None:
    if file.write(data) != len(data):  # a disk that fills up takes a part, without an error
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _sum(line: bytes) -> bytes:
    """A line's checksum. Where work was started says nothing about its results: a run may be moved and updated."""
    if b'"event": "start"' in line:
        event = json.loads(line)
        for name in ("versions", "device", "folder"):
            event.pop(name, None)
        line = json.dumps(event, sort_keys=True).encode()
    return hashlib.sha256(line).hexdigest()[:_SUM].encode() + b"\n"


def _difference(index: int, found: list[bytes], known: list[bytes]) -> str:
    """How the lines from `index` on differ from what was written."""
    if found[index] in known[:index] and found[index] not in known[index:]:
        return f"repeats line {known.index(found[index]) + 1}: it was doubled, or two processes wrote at once"
    if found[index] in known[index:]:
        missing = known.index(found[index], index) - index
        return f"does not follow the line before it: {missing} {'lines are' if missing > 1 else 'line is'} missing"
    if known[index] in found[index:]:
        return "was not written by this log's owner: it was put in by hand, or by a second process"
    return "is not what was written: it was changed by hand, or the disk is damaged"
