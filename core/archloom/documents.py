"""Documents from outside: YAML and JSON as plain data, their size and nesting bounded before anything looks closer.

    read_yaml(path, "the configuration")    a file; parse_yaml for text that is there already
    read_json(path, "the latency table")    likewise; parse_json
    plain(value, "the configuration")       data that was made in Python, by the same rules

Plain data is mappings, lists, texts, numbers, true, false and nothing: what both formats can hold. Whatever is not
that, too large, too deep or written twice is refused in one sentence that says where. Nothing here runs code.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import re
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from .errors import ArchloomError, ConfigError, shown

DEPTH = 40
"""How deep mappings and lists may lie in one another."""

NODES = 1_000_000
"""How many values a document may hold, those counted again that a YAML alias repeats."""

BYTES = 64 * 2**20
"""The largest JSON document, in bytes."""

YAML_BYTES, YAML_NODES = 4 * 2**20, 200_000
"""YAML is written by hand, and slow to read."""

TEXT, BITS = 1_000_000, 128
"""The longest text, in characters, and the largest whole number, in bits."""

Failure = type[ArchloomError]


def read_text(path: str | Path, what: str, *, limit: int = BYTES, error: Failure = ConfigError) -> str:
    """A file's text, UTF-8; an error that calls it `what` where it cannot be read or has more than `limit` bytes."""
    named = f"{what} {shown(str(path), 300)}".strip()
    try:
        with Path(path).open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as cause:  # ValueError: a path with a null character
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"cannot read {named}: {reason}") from cause
    if len(data) > limit:
        raise error(
            f"cannot read {named}: it has more than {limit / 2**20:g} MiB, which is too large for one"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        line = data.count(b"\n", 0, cause.start) + 1
        raise error(
            f"cannot read {named}: line {line} is no UTF-8 text (byte {data[cause.start]:#04x}); save it as UTF-8"
        ) from cause


@contextmanager
def reachable(path: str | Path, what: str, *, error: Failure = ConfigError) -> Iterator[None]:
    """Inside the block what the file system refuses of `path` is an error that calls it `what`."""
    try:
        yield
    except OSError as cause:
        where = shown(str(cause.filename or path), 300)
        way_out = " Ask its owner, or work on a copy" if isinstance(cause, PermissionError) else ""
        raise error(f"cannot read {what} {where}: {cause.strerror or cause}.{way_out}") from cause


def read_yaml(path: str | Path, what: str, *, error: Failure = ConfigError) -> Any:
    """The plain data in a YAML file."""
    return parse_yaml(read_text(path, what, limit=YAML_BYTES, error=error), str(path), error=error)


def read_json(path: str | Path, what: str, *, limit: int = BYTES, error: Failure = ConfigError) -> Any:
    """The plain data in a JSON file."""
    return parse_json(read_text(path, what, limit=limit, error=error), f"{what} {path}", error=error)


def read_mapping(path: str | Path, what: str, *, error: Failure = ConfigError) -> dict[str, Any]:
    """The mapping in a YAML file."""
    data = read_yaml(path, what, error=error)
    if not isinstance(data, dict):
        raise error(f"{path} must be a mapping of keys to values, not {_kind(data)}")
    return data


# -- YAML ---------------------------------------------------------------------------------------------


class _Refused(yaml.YAMLError):
    """What this module refuses in text that is YAML: its words are whole sentences."""


def parse_yaml(text: str, where: str, *, error: Failure = ConfigError) -> Any:
    """The plain data in YAML text, which `where` names; a key that is written twice is refused with its line.

    Anchors, aliases and merge keys work. An error says what is wrong and in which line.
    """
    try:
        if len(text) > YAML_BYTES:
            raise _Refused(
                f"it has more than {YAML_BYTES / 2**20:g} million characters, which is too large for one"
            )
        _survey(text)
        data = yaml.load(text, _Loader)
    except _Refused as cause:
        raise error(f"{where} is not YAML that can be used: {cause}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as cause:  # 2001-99-99, a number of 5,000 digits
        told = " ".join(str(cause).replace('in "<unicode string>",', "in").split())
        raise error(f"{where} is not YAML: {shown(told, 300)}") from cause
    return plain(data, where, error=error, nodes=YAML_NODES)


_FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_FAST):  # type: ignore[misc]
    """PyYAML's safe loader, that takes a key only once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):
            self._each_key_once(node)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return mapping

    def _each_key_once(self, node: yaml.MappingNode) -> None:
        seen: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge" or not isinstance(key_node, yaml.ScalarNode):
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if key in seen:
                raise _Refused(
                    f"line {line}: the key {shown(key_node.value)!r} is there twice, in line {seen[key]} already; "
                    "which one counts? Remove the other"
                )
            seen[key] = line


def _survey(text: str) -> None:
    """Count before anything is built: nesting, and the values that aliases would multiply."""
    inside: list[
        tuple[str | None, int]
    ] = []  # of each open mapping or list: its anchor, the values before it
    sizes: dict[str, int | None] = {}  # anchor -> its values; None while it is open
    count = 0
    for event in yaml.parse(text, Loader=_FAST):
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(str(event.anchor), 0)  # an unknown one is refused by the loader
            if size is None:
                raise _Refused(f"line {_line(event)}: *{event.anchor} stands inside of what it repeats")
            count += size
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            inside.append((event.anchor, count))
            count += 1
            if event.anchor:
                sizes[event.anchor] = None
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = inside.pop()
            if anchor:
                sizes[anchor] = count - before
        if len(inside) > DEPTH:
            raise _Refused(f"line {_line(event)}: {_DEEP}")
        if count > YAML_NODES:
            raise _Refused(f"line {_line(event)}: it has more than {YAML_NODES:,} values{_COUNTED}")


_DEEP = f"lists and mappings lie in one another more than {DEPTH} deep"
_COUNTED = ", where each alias (*name) counts as what it repeats; that is too many for one document"


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


# -- JSON ---------------------------------------------------------------------------------------------


def parse_json(text: str | bytes, where: str, *, error: Failure = ConfigError) -> Any:
    """The plain data in JSON text, which `where` names; a key that is written twice is refused."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise error(f"{where} has the key {shown(twice)!r} twice; which one counts? Remove the other")
        return table

    try:
        data = json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise error(f"{where}: {_DEEP}") from None
    except ValueError as cause:
        raise error(f"cannot read {where}: it is no JSON: {shown(str(cause), 300)}") from cause
    return plain(data, where, error=error, nan=True)  # whoever measures may have met one


# -- what is plain ------------------------------------------------------------------------------------


def plain(
    value: Any, where: str, *, error: Failure = ConfigError, nodes: int = NODES, nan: bool = False
) -> Any:
    """`value` as plain data: tuples as lists, paths as texts, numpy's numbers as Python's.

    An error that names the place where it is none, too deep or too large: a set, a date, a text that cannot be written
    down, a number of more than 128 bits; NaN, unless `nan`.
    """
    return _Plain(where, error, nodes, nan).of(value, ())


_Path = tuple[str | int, ...]


class _Plain:
    def __init__(self, where: str, error: Failure, left: int, nan: bool) -> None:
        self.where, self.error, self.left, self.nan = where, error, left, nan

    def of(self, value: Any, path: _Path) -> Any:
        self.left -= 1
        if self.left < 0:
            raise self.error(f"{self.where} has more values than one document can hold")
        if hasattr(value, "model_dump") and not isinstance(value, type):
            value = value.model_dump()  # a part of a configuration, made in Python
        if isinstance(value, Mapping | list | tuple) and len(path) > DEPTH:
            raise self.error(f"{self.where}: {_DEEP}")
        if isinstance(value, Mapping):
            return {self._key(key, path): self.of(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.of(inner, (*path, number)) for number, inner in enumerate(value)]
        found = scalar(value)
        if (problem := trouble(found)) and not (self.nan and found != found):
            raise self.error(f"{self._place(path)} {problem}")
        return found

    def _key(self, key: Any, path: _Path) -> Any:
        found = scalar(key)
        if problem := trouble(found):
            raise self.error(f"{self._place(path)}: the key {problem}")
        return found

    def _place(self, path: _Path) -> str:
        name = shown(".".join(map(str, path)))
        return f"{self.where}: '{name}'" if path else self.where


def scalar(value: Any) -> Any:
    """Numpy's and other libraries' single numbers and texts as Python's own, and a path as its text."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value).__module__.partition(".")[0] == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    return value


def trouble(value: Any) -> str:
    """Why `value` is no single plain value, as the rest of a sentence; empty where it is one."""
    match value:
        case None | bool():
            return ""
        case str() if type(value) is str:
            return _trouble_of_text(value)
        case int() if type(value) is int:
            return f"is a number of {value.bit_length()} bits" if value.bit_length() > BITS else ""
        case float() if type(value) is float:
            return "is NaN, not a number" if math.isnan(value) else ""
        case datetime.date():
            return f"is read as a date, {value}; put it in quotes"
        case bytes():
            return "is binary data, and not text"
    kind = type(value)
    return f"is {shown(repr(value), 60)}, of type {kind.__module__}.{kind.__qualname__}, which cannot be written down"


_UNWRITABLE = re.compile("[\ud800-\udfff\x00]")


def _trouble_of_text(value: str) -> str:
    if len(value) > TEXT:
        return f"is a text of {len(value):,} characters, which is too long"
    if odd := _UNWRITABLE.search(value):
        return f"holds the character U+{ord(odd[0]):04X}, which no file can hold as text"
    return ""


def _kind(value: Any) -> str:
    return "empty" if value is None else type(value).__name__


WIDTH = 110
"""A mapping is written on one line where it fits in so many characters."""


def json_text(value: Any) -> str:
    """JSON to be read, compared and kept under version control: one line for a short mapping, for each element of a
    list, and for a list of numbers or texts."""
    return _lines(json.loads(json.dumps(value)), 0) + "\n"


def _lines(value: Any, indent: int) -> str:
    flat = json.dumps(value)
    if isinstance(value, dict):
        if len(flat) + indent <= WIDTH:
            return flat
        inner = [f"{json.dumps(key)}: {_lines(one, indent + 1)}" for key, one in value.items()]
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        inner = [json.dumps(one) for one in value]
    else:
        return flat
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    between = ",\n" + " " * (indent + 1)
    return f"{opening}\n{' ' * (indent + 1)}{between.join(inner)}\n{' ' * indent}{closing}"
