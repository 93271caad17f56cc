"""Every error that archloom raises on purpose.

    ArchloomError            something the user can mend; the command line prints it and exits with 2
    ├── ConfigError          a configuration, an option or an argument that cannot be meant
    │   └── UnknownName      a name that nobody registered; carries the nearest known ones
    ├── PluginError          a plugin that failed to load, or that breaks the contract
    ├── SpaceError           an architecture that does not belong to its space
    ├── TaskError            a data set that is missing, empty or corrupt
    ├── WeightsError         weights that do not fit the model; nothing was changed
    ├── ExportError          a network that a format cannot hold, or a file that is not the network; it is not kept
    ├── RunError             a run folder that cannot be opened, resumed or trusted
    │   └── CheckpointError  a checkpoint that is there and cannot be used: damaged, or another's
    └── SearchError          a search that cannot go on: nothing feasible, nothing proposed, NaN

Messages say what was wrong, where, and the way out.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

LONGEST = 4000
"""No message has more characters: what it quotes may come from outside, and be of any length."""


class ArchloomError(Exception):
    """Base of all errors that a user can mend."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(shown(a, LONGEST) if isinstance(a, str) else a for a in arguments))


class ConfigError(ArchloomError):
    """A configuration, an option or an argument that cannot be meant."""


class UnknownName(ConfigError):
    """A name that nobody registered."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        self.kind, self.name, self.known, self.hint = kind, name, sorted(known), hint
        near = nearest(name, self.known)
        message = f"unknown {kind} '{shown(name)}'" + (f"; did you mean '{near}'?" if near else ".")
        if len(self.known) <= MANY:
            message += f" Known: {', '.join(self.known) or 'none'}."
        elif close := difflib.get_close_matches(name[:LONG], self.known, n=5, cutoff=0.3):
            message += f" The nearest of {len(self.known):,} known: {', '.join(close)}."
        else:
            message += f" {len(self.known):,} are known, among them {', '.join(self.known[:5])}."
        super().__init__(f"{message} {hint}".rstrip())

    def __reduce__(self) -> tuple[Any, ...]:
        return UnknownName, (self.kind, self.name, self.known, self.hint)


class PluginError(ArchloomError):
    """A plugin that failed to load, or that breaks the contract."""


class SpaceError(ArchloomError):
    """An architecture that does not belong to its space."""


class TaskError(ArchloomError):
    """A data set that is missing, empty or corrupt."""


class WeightsError(ArchloomError):
    """Weights that do not fit the model; nothing was changed."""


class ExportError(ArchloomError):
    """A network that a format cannot hold, or a written file that is not the network; it is not kept."""


class RunError(ArchloomError):
    """A run folder that cannot be opened, resumed or trusted."""


class CheckpointError(RunError):
    """A checkpoint that is there and cannot be used. `foreign`: it is sound, and belongs to other work."""

    def __init__(self, message: str, *, foreign: bool = False) -> None:
        super().__init__(message)
        self.foreign = foreign


class SearchError(ArchloomError):
    """A search that cannot go on."""


MANY, LONG = 60, 200
"""More known names than this are not all listed, and longer ones not compared: both take long."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None when none is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5) if len(name) <= LONG else []
    return found[0] if found else None


def shown(text: str, limit: int = 200) -> str:
    """`text` for a message: what is longer than `limit` is cut in the middle, and says by how much.

    What no console should get from outside, control characters and halves of surrogate pairs, is written as an escape.
    """
    if len(text) > limit:
        note = f" ... ({len(text) - limit:,} more characters) ... "
        left = max(limit - len(note), 2)
        text = text[: left * 2 // 3] + note + text[len(text) - left // 3 :]
    return _UNSHOWN.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def called(thing: Any) -> str:
    """What a user calls an object of a plugin: the name that it is registered under, else its class."""
    return str(getattr(thing, "registered_as", None) or f"class {type(thing).__name__}")
