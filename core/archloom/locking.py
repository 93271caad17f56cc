"""One owner of a folder at a time.

A process that works in a folder holds a `Lock` on it, a file `.lock` that says who: host, process id, since when. A
second one is refused with these. The lock of a process that died is taken over.

What is assumed: on one machine the operating system frees a POSIX record lock when its process dies, however it dies.
Other machines that share the folder may see such locks (NFSv4, Lustre with `flock`, GPFS) or not (`nolock`,
`localflock`). So an owner also touches its file every `BEAT` seconds, and whoever finds the record of another machine
watches the file for `PATIENCE` seconds, by its own clock: it is refused where the file is touched meanwhile, and takes
over where it is not. An owner that was stopped for longer than that may lose its folder; it asks `check` before each
line that it writes, and stops there. Two machines that take over in the same instant on a file system that has no
locks are told apart in the same way: the record that was written last counts.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import RunError

NAME = ".lock"
BEAT = 5.0
"""Seconds between two signs of life of an owner."""
PATIENCE = 30.0
"""Seconds without a sign of life after which an owner on another machine counts as dead."""

GRACE = 1.0
"""Seconds that are waited for a lock on this machine: the processes of an owner that was killed end a little later."""

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
_held: dict[tuple[int, int], Lock] = {}  # by the folder's device and inode: threads share a process's locks
_guard = threading.Lock()


class Lock:
    """Ownership of an existing folder, from the constructor to `release`.

    A RunError where another process, or another thread of this one, owns it: with its host, its process id and since
    when it has. An OSError where the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME
        self._pid, self._ended = os.getpid(), threading.Event()
        self._record = _own_record()
        status = folder.stat()
        self._key = (status.st_dev, status.st_ino)
        with _guard:
            if (other := _held.get(self._key)) is not None and other._pid == self._pid:
                raise _refusal(folder, other._record)
            self._file = self._take()
            _held[self._key] = self
        threading.Thread(target=self._beat, name="archloom lock", daemon=True).start()

    def check(self) -> None:
        """A RunError where another process has taken the folder over; then nothing more may be written."""
        if not _is(self._file, self.path) or _record_in(self._file).get("token") != self._record["token"]:
            raise RunError(
                f"{self.folder} was taken over by another process while this one stood still, or its {NAME} was "
                "removed. This process stops; what it wrote before is intact. Go on with: archloom resume "
                f"{self.folder}"
            )

    def release(self) -> None:
        """Give the folder back; a second call does nothing, nor does one in a fork of the owner."""
        with _guard:
            if _held.get(self._key) is not self or os.getpid() != self._pid:
                return
            del _held[self._key]
            self._ended.set()
            with suppress(OSError, RunError):
                self.check()
                self.path.unlink()
            os.close(self._file)

    def _take(self) -> int:
        # nothing below may close a second handle of the file while it is locked: that would free the lock
        until = time.monotonic() + GRACE
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                locked = _try_lock(file)
                if locked is False and time.monotonic() < until:
                    os.close(file)
                    time.sleep(0.05)
                    continue
                if locked is False:
                    raise _refusal(self.folder, _patiently(file))
                if not _is(file, self.path):  # its owner gave it back between our opening it and our lock
                    os.close(file)
                    continue
                if owner := _record_in(file):
                    self._outlive(owner, file, locked)
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps(self._record).encode(), 0)
                if locked is None:
                    time.sleep(0.2)  # of two that write at once the last one counts
                    if _record_in(file).get("token") != self._record["token"]:
                        raise _refusal(self.folder, _record_in(file))
                return file
            except BaseException:
                with suppress(OSError):
                    os.close(file)
                raise

    def _outlive(self, owner: dict[str, Any], file: int, locked: bool | None) -> None:
        """Return where the recorded owner is dead; a RunError where it lives."""
        same_machine = owner.get("machine") == self._record["machine"]
        if same_machine and owner.get("processes") == self._record["processes"]:
            # asked although the lock is ours: a process loses its lock by closing another handle of the file
            if owner.get("pid") != os.getpid() and _born(owner.get("pid")) == owner.get("born"):
                raise _refusal(self.folder, owner)
            return
        if same_machine and locked:
            return  # another container of the same kernel, which has freed the lock
        before, until = self._touched(), time.monotonic() + PATIENCE
        while time.monotonic() < until:
            time.sleep(PATIENCE / 30)
            if self._touched() != before:
                raise _refusal(self.folder, _record_in(file) or owner)
        # watching has freed the lock; who took it meanwhile owns the folder
        if _try_lock(file) is False or _record_in(file).get("token") != owner.get("token"):
            raise _refusal(self.folder, _patiently(file))

    def _touched(self) -> int:
        """When the file was touched. It is opened, since network file systems then ask their server."""
        with self.path.open("rb") as opened:
            return os.fstat(opened.fileno()).st_mtime_ns

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with suppress(OSError):
                os.utime(self._file)


def _try_lock(file: int) -> bool | None:
    """Whether the file could be locked; None where the file system has no locks."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def _is(file: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(file)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def _record_in(file: int) -> dict[str, Any]:
    """The record in an open lock file; empty where there is none."""
    try:
        record = json.loads(os.pread(file, 4096, 0))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _patiently(file: int) -> dict[str, Any]:
    """The record of an owner that may be about to write it."""
    for _ in range(20):
        if record := _record_in(file):
            return record
        time.sleep(0.05)
    return {}


def _own_record() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "born": _born(pid),
        "machine": _machine(),
        "processes": _process_names(),
        "token": secrets.token_hex(8),
    }


def _machine() -> str:
    """This boot of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def _process_names() -> str:
    """Which numbering of processes holds here: containers of one machine have each their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _born(pid: Any) -> str | None:
    """When a process was started, as the kernel counts, since ids are used again; None where it is not alive."""
    try:
        status = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8", errors="replace")
    except (TypeError, ValueError):
        return None
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:  # no /proc: alive or not is all that can be known
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return None
        except OSError:
            return "alive"
        return "alive"
    state, *fields = status.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def _refusal(folder: Path, owner: dict[str, Any]) -> RunError:
    who = (
        f"process {owner.get('pid')} on host '{owner.get('host')}' has worked in it since {owner.get('since')}"
        if owner
        else "another process works in it"
    )
    return RunError(
        f"{folder} is in use: {who}. Wait until that process ends, or stop it; the lock of a process that died is "
        "taken over"
    )
