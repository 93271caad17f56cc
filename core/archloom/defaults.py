"""The parts that a configuration leaves out: plugins say which of a kind is the default, the core names none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from .config import DEFAULT, ModelConfig, Part
from .errors import ConfigError
from .factories import Entry, Kind
from .plugins import Host

Section = TypeVar("Section", bound=Any)

KINDS: Mapping[str, Kind] = {
    "task": "task",
    "strategy": "strategy",
    "recipe": "recipe",
    "estimators": "estimator",
    "observers": "observer",
    "executor": "executor",
    "neck": "component",
    "head": "component",
    "loss": "component",
}
"""The kind of what a key of a configuration names, for each that a plugin may be the default of."""


def named(config: Section, host: Host) -> Section:
    """A configuration of a search, of a ranking or of a model with the name of the default in the place of each part
    that it leaves out. A ConfigError where no plugin registers one."""
    update: dict[str, Any] = {}
    for key in type(config).model_fields:
        value = getattr(config, key)
        if isinstance(value, ModelConfig):
            update[key] = named(value, host)
        elif isinstance(value, Part) and value.type == DEFAULT:
            update[key] = value.model_copy(update={"type": default(host, key).name.removeprefix(f"{key}.")})
        elif isinstance(value, list) and any(
            isinstance(part, Part) and part.type == DEFAULT for part in value
        ):
            update[key] = _named(value, host, key)
    return config.model_copy(update=update) if update else config


def default(host: Host, key: str) -> Entry:
    """What stands in the place of the one part that the key `key` of a configuration names."""
    entries = host.defaults(KINDS[key], key)
    if not entries:
        raise ConfigError(_lacking(host, key, f"{key}: NAME"))
    return entries[0]


class Executing(Protocol):
    """What of a configuration says where it is measured."""

    @property
    def executor(self) -> Part | None: ...
    @property
    def workers(self) -> int | None: ...
    @property
    def at_once(self) -> int: ...
    @property
    def timed(self) -> bool: ...


def executor_of(config: Executing, host: Host) -> Part:
    """Who is asked to measure: the executor that is named, with its workers; else the first default that can make so
    many measurements at once and, where one may have to be ended, can do that."""
    workers = {"workers": config.at_once}
    if config.executor is not None:
        given = {} if config.workers is None else workers
        return config.executor.model_copy(update={"options": {**config.executor.options, **given}})
    for entry in host.defaults("executor"):
        several = any(option.name == "workers" for option in entry.options)
        if (several or config.at_once == 1) and ("timeout" in entry.offers or not config.timed):
            return Part(type=entry.name, options=workers if several else {})
    raise ConfigError(_lacking(host, "executor", "executor: NAME"))


def _named(parts: Sequence[Part], host: Host, key: str) -> list[Part]:
    """A list with all defaults in their place. Nobody needs observers; without estimators nothing is measured."""
    entries = host.defaults(KINDS[key], key)
    if not entries and key == "estimators":
        raise ConfigError(_lacking(host, key, f"{key}: [NAME]"))
    whole: list[Part] = []
    for part in parts:
        if part.type != DEFAULT:
            whole.append(part)
            continue
        if part.options:
            raise ConfigError(
                f"{key}: options go to one that is named, and '{DEFAULT}' means all that are default"
            )
        whole += [part.model_copy(update={"type": entry.name}) for entry in entries]
    return whole


def _lacking(host: Host, key: str, example: str) -> str:
    known = [entry.name.removeprefix(f"{key}.") for entry in host.entries(KINDS[key]) if entry.is_a(key)]
    failed = f" A plugin failed that may have one: {'; '.join(map(str, host.broken))}." if host.broken else ""
    return (
        f"the configuration leaves out '{key}', and no plugin here registers a default for it; name it: {example}. "
        f"Registered are: {', '.join(known) or 'none'}.{failed}"
    )
