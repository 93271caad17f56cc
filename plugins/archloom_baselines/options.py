"""Checks that the strategies here share."""

from __future__ import annotations

from archloom import ConfigError


def at_least(strategy: str, least: int, **options: int) -> None:
    """A ConfigError that names the first of the options that is below `least`."""
    for name, value in options.items():
        if value < least:
            raise ConfigError(f"{strategy}: {name} must be at least {least}, not {value}")
