"""Files of measured networks: an architecture in each row, a device in each column, milliseconds."""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..architecture import Architecture
from ..documents import parse_json, read_text
from ..errors import ConfigError, SpaceError
from ..space import from_text
from .agreement import Floats

COLUMN = "architecture"


@dataclass(frozen=True)
class Measured:
    """Networks and their milliseconds, device -> (networks,)."""

    architectures: Sequence[Architecture]
    milliseconds: Mapping[str, Floats]

    def of(self, device: str) -> Floats:
        """One device's column; a ConfigError that lists the devices where it is not there."""
        if device not in self.milliseconds:
            raise ConfigError(f"the file has no device '{device}'; it has {', '.join(self.milliseconds)}")
        return self.milliseconds[device]


def read_measured(path: str | Path, space: Any) -> Measured:
    """Networks of `space` from a file.

    .csv or .csv.gz: a column "architecture" and one for each device. .json: {"arch": [...], "latency_ms": {device:
    [...]}}. An architecture is written as the positions of its options, in digits ("0212") or separated by blanks, or
    as the options themselves separated by blanks. Raises ConfigError with file and line for all that is wrong.
    """
    file, name = Path(path), str(path)
    try:
        if file.name.endswith((".csv", ".csv.gz")):
            raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            rows = _csv(raw.decode("utf-8-sig"), name)
        elif file.suffix == ".json":
            rows = _json(read_text(file, "the measured networks"), name)
        else:
            raise ConfigError(f"{path}: measured networks are read from .csv, .csv.gz and .json; convert it")
        return _checked(rows, name, space)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def _csv(text: str, name: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    header = next(reader, [])
    if COLUMN not in header or len(header) < 2:
        raise ConfigError(
            f"{name}, line 1: the header is {header}; it needs '{COLUMN}' and a column for each device"
        )
    twice = [one for one in header if header.count(one) > 1]
    if twice:
        raise ConfigError(f"{name}, line 1: two columns are called '{twice[0]}'")
    for cells in reader:
        where = f"line {reader.line_num}"
        if not cells:
            continue
        if len(cells) != len(header):
            raise ConfigError(f"{name}, {where}: {len(cells)} cells, but {len(header)} columns")
        row = dict(zip(header, cells, strict=True))
        yield where, row.pop(COLUMN), row


def _json(text: str, name: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    data = parse_json(text, name)
    codes = data.get("arch") if isinstance(data, dict) else None
    columns = data.get("latency_ms") if isinstance(data, dict) else None
    if not isinstance(codes, list) or not isinstance(columns, dict) or not columns:
        raise ConfigError(
            f"{name} holds no measured networks: it needs 'arch', a list, and 'latency_ms', device -> list"
        )
    for device, values in columns.items():
        if not isinstance(values, list) or len(values) != len(codes):
            count = len(values) if isinstance(values, list) else "no list of"
            raise ConfigError(
                f"{name}: device '{device}' has {count} latencies for {len(codes)} architectures"
            )
    for number, code in enumerate(codes):
        yield (
            f"entry {number + 1}",
            code,
            {device: values[number] for device, values in columns.items()},
        )


def _checked(rows: Iterator[tuple[str, str, Mapping[str, Any]]], name: str, space: Any) -> Measured:
    found: dict[Architecture, str] = {}
    columns: dict[str, list[float]] = {}
    for where, code, cells in rows:
        architecture = _architecture(code, space, f"{name}, {where}")
        if architecture in found:
            raise ConfigError(
                f"{name}, {where}: the architecture '{code}' stands in {found[architecture]} already; which one "
                "counts? Remove the other"
            )
        found[architecture] = where
        for device, cell in cells.items():
            columns.setdefault(device, []).append(_milliseconds(cell, device, f"{name}, {where}"))
    if not found:
        raise ConfigError(f"{name} has no networks")
    return Measured(list(found), {device: np.array(values) for device, values in columns.items()})


def _milliseconds(cell: Any, device: str, where: str) -> float:
    try:
        value = math.nan if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{where}: '{device}' has {cell!r}, which is no time in milliseconds")
    return value


def _architecture(code: Any, space: Any, where: str) -> Architecture:
    if not isinstance(code, str):
        raise ConfigError(f"{where}: the architecture is {code!r}, not text")
    try:
        return from_text(space, code, "either")
    except SpaceError as error:
        raise ConfigError(f"{where}: {error}") from error
