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
    └── SearchError          a search that cannot go on: nothing feasible, nothing proposed, NaN

Messages say what was wrong, where, and the way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ArchloomError(Exception):
    """Base of all errors that a user can mend."""


class ConfigError(ArchloomError):
    """A configuration, an option or an argument that cannot be meant."""


class UnknownName(ConfigError):
    """A name that nobody registered."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        message = f"unknown {kind} '{name}'"
        near = nearest(name, self.known)
        if near:
            message += f"; did you mean '{near}'?"
        message += f" Known: {', '.join(self.known) or 'none'}."
        super().__init__(f"{message} {hint}".rstrip())


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


class SearchError(ArchloomError):
    """A search that cannot go on."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None when none is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return found[0] if found else None
