"""Standard output and standard error as they are found: closed, on a full device, a pipe that nobody reads."""

from __future__ import annotations

import os
import sys
from typing import Any, Literal, TextIO


class Stream:
    """`sys.stdout` or `sys.stderr`, whichever object that is at the moment, for a console to write to.

    What cannot be written costs the text and nothing else: `lost` then holds the error, and all that follows is
    dropped. Characters that the stream's encoding lacks are written as escapes.
    """

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self.name = name
        self.lost: Exception | None = None

    def _target(self) -> TextIO | None:
        stream = getattr(sys, self.name)
        # while a live display runs, rich has put a stand-in there that writes to the console, and so to us
        return getattr(stream, "rich_proxied_file", stream)

    @property
    def encoding(self) -> str:
        """The stream's encoding."""
        return getattr(self._target(), "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write as far as it goes; the text's length, as files give it."""
        stream = self._target()
        if stream is None or self.lost is not None:
            return len(text)
        try:
            try:
                stream.write(text)
            except UnicodeEncodeError:
                stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
        except BlockingIOError:
            pass  # a reader that is behind: it misses this text
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self._lose(stream, error)
        return len(text)

    def flush(self) -> None:
        """Hand on what is buffered."""
        stream = self._target()
        if stream is None or self.lost is not None:
            return
        try:
            stream.flush()
        except BlockingIOError:
            pass
        except (OSError, ValueError) as error:
            self._lose(stream, error)

    def _lose(self, stream: TextIO, error: Exception) -> None:
        self.lost = error
        try:  # what is left in the buffer would fail again when the process ends
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        except (OSError, ValueError):
            pass

    def isatty(self) -> bool:
        """Whether a person sees it."""
        stream = self._target()
        try:
            return stream is not None and stream.isatty()
        except ValueError:
            return False

    def fileno(self) -> int:
        """The descriptor; an OSError where there is none."""
        stream: Any = self._target()
        if stream is None:
            raise OSError(f"{self.name} is closed")
        return int(stream.fileno())


def open_standard_streams() -> None:
    """Open to nowhere what a shell closed (`>&-`). Its descriptor would else go to the next file that is opened,
    into which everybody who prints would write."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
        if getattr(sys, name) is None:
            mode = "r" if descriptor == 0 else "w"
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))
