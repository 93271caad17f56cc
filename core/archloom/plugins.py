"""The plugin host: who registered what, under which name."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pluggy

from . import hookspecs
from .errors import ArchloomError, ConfigError, PluginError, UnknownName, nearest, shown
from .factories import Entry, Kind, entry_of
from .plugin_files import function_of, load, of_package, parts_of, read_plugin
from .trust import remember

GROUP = "archloom"


HOOKS: Mapping[Kind, str] = {
    "space": "register_search_spaces",
    "strategy": "register_strategies",
    "estimator": "register_estimators",
    "executor": "register_executors",
    "task": "register_tasks",
    "component": "register_components",
    "recipe": "register_recipes",
    "observer": "register_observers",
}


SEVERAL = ("estimator", "executor", "observer")
"""The kinds that may have more than one default."""


@dataclass(frozen=True)
class Broken:
    """A plugin that could not be loaded, and why."""

    plugin: str
    distribution: str
    cause: str

    def __str__(self) -> str:
        return f"plugin '{self.plugin}' of {self.distribution} could not be loaded: {self.cause}"


class _Clash(PluginError):
    """Two plugins that register one name."""


def _check_clashes(entry: Entry, known: Mapping[tuple[Kind, str], Entry]) -> None:
    """A _Clash where the name is taken, or where there is a default already and can be one only."""
    if same := known.get((entry.kind, entry.name)):
        raise _Clash(
            f"{entry.kind} '{entry.name}' is registered twice: by {same.distribution} and by {entry.distribution}. "
            "Uninstall one of them, or rename the one that is yours"
        )
    if not entry.default or entry.kind in SEVERAL:
        return
    for other in known.values():
        if other.default and other.sort == entry.sort:
            raise _Clash(
                f"two {entry.kind}s are the default {entry.sort}: '{other.name}' of {other.distribution} and "
                f"'{entry.name}' of {entry.distribution}. Uninstall one of them, or register the one that is yours "
                "without default=True"
            )


class Host:
    """All that is registered: by entry points of the group `archloom`, and by the given files."""

    def __init__(self, files: Iterable[str | Path] = (), *, entry_points: bool = True) -> None:
        self._manager = pluggy.PluginManager("archloom")
        self._manager.add_hookspecs(hookspecs)
        self._entries: dict[tuple[Kind, str], Entry] = {}
        self.broken: list[Broken] = []
        read = [read_plugin(file) for file in files]
        once = {(plugin.digest, plugin.function): plugin for plugin in reversed(read)}
        self.plugin_files = tuple(once.values())[::-1]
        self.files = tuple(plugin.entry for plugin in self.plugin_files)
        self._functions: dict[str, Callable[..., Any]] = {}
        if entry_points:
            self._load_entry_points()
        names = [plugin.path.name for plugin in self.plugin_files if not plugin.function]
        for plugin in self.plugin_files:
            if plugin.function:
                self._functions[Path(plugin.entry).name] = function_of(plugin)
                remember(plugin)
                continue
            name = plugin.path.name if names.count(plugin.path.name) == 1 else str(plugin.path)
            self.add(load(plugin), name, f"file {name}", "-")
            remember(plugin)

    def _load_entry_points(self) -> None:
        strict = os.environ.get("ARCHLOOM_STRICT_PLUGINS") == "1"
        for point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda p: p.name):
            name = point.dist.name if point.dist else "an unknown distribution"
            version = point.dist.version if point.dist else "-"
            try:
                module = point.load()
                self._add(module, point.name, name, version)
            except _Clash:  # which of the two is meant? Never passed over
                raise
            except (
                Exception,
                SystemExit,
            ) as error:  # a stranger's import can raise anything, and must not stop us
                cause = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
                broken = Broken(point.name, f"{name} {version}", shown(cause, 600))
                if strict:
                    raise PluginError(f"{broken}. Mend it, or: pip uninstall {name}") from error
                self.broken.append(broken)

    def add(self, plugin: object, name: str, distribution: str, version: str) -> None:
        """Register a plugin object (a module, usually); all of it or, where something is wrong, nothing."""
        try:
            self._add(plugin, name, distribution, version)
        except ArchloomError:
            raise
        except Exception as error:
            told = f"plugin '{name}' of {distribution} failed while it registered"
            raise PluginError(f"{told}: {type(error).__name__}: {error}") from error

    def _add(self, plugin: object, name: str, distribution: str, version: str) -> None:
        plugin_name = f"{distribution}:{name}"
        if self._manager.has_plugin(plugin_name):
            raise PluginError(f"plugin '{name}' of {distribution} is loaded twice")
        self._manager.register(plugin, name=plugin_name)
        fresh: dict[tuple[Kind, str], Entry] = {}
        try:
            self._check_hooks(plugin_name, name, distribution)
            for kind, hook in HOOKS.items():
                others = [p for p in self._manager.get_plugins() if p is not plugin]
                caller = self._manager.subset_hook_caller(hook, others)

                def register(
                    key: str, factory: Callable[..., Any], *, default: bool = False, kind: Kind = kind
                ) -> None:
                    entry = entry_of(kind, key, factory, distribution, version, default=default)
                    _check_clashes(entry, {**self._entries, **fresh})
                    fresh[kind, key] = entry

                caller(register=register)
            if not fresh:
                raise PluginError(
                    f"plugin '{name}' of {distribution} registers nothing: it has no function marked with "
                    f"@archloom.hookimpl and named {', '.join(HOOKS.values())}"
                )
        except BaseException:
            self._manager.unregister(name=plugin_name)
            raise
        self._entries |= fresh

    def _check_hooks(self, plugin_name: str, name: str, distribution: str) -> None:
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            plugin = self._manager.get_plugin(plugin_name)
            known = list(HOOKS.values())
            for attribute in dir(plugin):
                marked = getattr(getattr(plugin, attribute, None), "archloom_impl", None)
                if marked and attribute not in known:
                    near = nearest(attribute, known)
                    raise PluginError(
                        f"plugin '{name}' of {distribution} implements an unknown hook '{attribute}'; "
                        + (f"did you mean '{near}'? " if near else "")
                        + f"The hooks are: {', '.join(known)}"
                    ) from error
            raise PluginError(f"plugin '{name}' of {distribution}: {error}") from error

    def function(self, path: str) -> Callable[..., Any]:
        """The function that an option of a configuration names: "train.py:evaluate", whose file is one of the plugin
        files, or "package.module:evaluate", which is named among them. A ConfigError where it is not there."""
        name = Path(path).name
        if name in self._functions:
            return self._functions[name]
        if of_package(path)[0]:
            raise ConfigError(
                f"'{path}' is a function of an installed package, which may be any; name it among the plugins too: "
                f"plugins: ['{path}']"
            )
        if parts_of(path)[1]:
            raise ConfigError(
                f"'{path}' is not among this host's plugin files; make it with them: Host(config.plugins)"
            )
        raise ConfigError(
            f"'{shown(path)}' names no function; write file.py:function or package.module:function"
        )

    def entries(self, kind: Kind | None = None) -> Iterator[Entry]:
        """Everything registered, or all of one kind, by kind and name."""
        return (entry for key, entry in sorted(self._entries.items()) if kind in (None, key[0]))

    def names(self, kind: Kind) -> list[str]:
        """The registered names of one kind."""
        return [entry.name for entry in self.entries(kind)]

    def defaults(self, kind: Kind, sort: str | None = None) -> list[Entry]:
        """What stands where a configuration names none of a kind (of components, of a sort), in the order of
        registration: several estimators and observers, one of everything else, or none."""
        entries = (entry for (of, _), entry in self._entries.items() if of == kind and entry.default)
        return [entry for entry in entries if sort is None or entry.is_a(sort)]

    def get(self, kind: Kind, name: str) -> Entry:
        """What is registered under a name; an `UnknownName` that lists the known ones."""
        found = self._entries.get((kind, name))
        if found is None:
            hint = (
                "It may belong to a plugin that failed: " + "; ".join(map(str, self.broken))
                if self.broken
                else ""
            )
            raise UnknownName(kind, name, self.names(kind), hint)
        return found
