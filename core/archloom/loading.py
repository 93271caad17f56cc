"""What goes wrong between a data set and its loading processes, in words that help."""

from __future__ import annotations

import errno
import re
import shutil

from .errors import TaskError

_NO_ROOM = re.compile(
    r"shared memory|\bshm\b|torch_shm|Bus error|unable to (write to|resize|mmap) file|Shared memory"
)
_NO_FILES = re.compile(r"Too many open files|ancdata")
_DIED = re.compile(
    r"DataLoader worker \(pid\(?s?\)? [^)]*\) (is killed by signal: ([^.]+)|exited unexpectedly)"
)


def loading_error(error: Exception, workers: int) -> TaskError | None:
    """A TaskError in place of what PyTorch raises where `workers` loading processes lack room or died; None where the
    error is another."""
    if isinstance(error, TaskError):
        # a loading process hands over its traceback as text; the message stands at its end
        text = str(error).rsplit(f"{TaskError.__module__}.TaskError: ", 1)[-1]
        return TaskError(text.strip())
    if not workers:
        return None
    text = f"{error.__cause__ or ''} {error}"  # the cause knows the signal
    number = error.errno if isinstance(error, OSError) else None
    way_out = "load in this process (workers=0 of the task)"
    if number == errno.EMFILE or _NO_FILES.search(text):
        return TaskError(
            f"{workers} loading processes need more open files than a process may have; {way_out}, or allow more "
            "(ulimit -n 4096)"
        )
    if number in (errno.ENOSPC, errno.ENOSYS, errno.EACCES) or _NO_ROOM.search(text):
        return TaskError(
            f"{workers} loading processes hand their images over in /dev/shm, and {_shm()}; {way_out}, or make "
            "it larger (docker run --shm-size=1g)"
        )
    if died := _DIED.search(text):
        how = f"was killed by {died[2]}" if died[2] else "ended by itself"
        return TaskError(
            f"one of {workers} loading processes {how}, perhaps for want of memory; {way_out}, or make the "
            "batches smaller"
        )
    return None


def _shm() -> str:
    try:
        room = shutil.disk_usage("/dev/shm").total
    except OSError:
        return "there is none that can be used"
    return f"that has room for {room / 2**20:.3g} MiB"
