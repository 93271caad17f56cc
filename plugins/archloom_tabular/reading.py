"""Files of measured architectures as records: one reader for each format, one check for all."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archloom import ConfigError, nearest

from .unpickling import read_pickle

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """One row: where it stands ("line 7"), which architecture, which seed, and column -> number or numbers."""

    line: str
    architecture: Any
    seed: str
    values: Mapping[str, Any]


def read_records(
    path: str | Path, architecture: str, metrics: Sequence[str], seed: str | None
) -> list[Record]:
    """The rows of a file, each checked to have an architecture and finite numbers.

    Raises ConfigError with file, line and column for what is missing or no number.
    """
    readers: Mapping[str, Callable[[Path, str], Iterator[tuple[str, Row]]]] = {
        ".csv": _csv,
        ".json": _json,
        ".parquet": _parquet,
        ".pickle": _pickle,
        ".pkl": _pickle,
    }
    file = Path(path)
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise ConfigError(f"{path}: a table ends in {', '.join(readers)}; convert it to one of these")
    needed = [architecture, *metrics, *([seed] if seed else [])]
    try:
        records = [
            _record(path, line, row, needed, metrics, seed) for line, row in reader(file, architecture)
        ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read the table {path}: {error}") from error
    if not records:
        raise ConfigError(f"{path} has no rows")
    return records


def _record(
    path: str | Path, line: str, row: Row, needed: Sequence[str], metrics: Sequence[str], seed: str | None
) -> Record:
    for column in needed:
        if row.get(column) in (None, ""):
            known = [name for name in row if isinstance(name, str)]
            near = nearest(column, known) if column not in row else None
            hint = f"; did you mean '{near}'?" if near else ""
            raise ConfigError(f"{path}, {line}: column '{column}' is missing or empty{hint} It has: {known}")
    values = {column: _numbers(path, line, column, row[column]) for column in metrics}
    return Record(line, row[needed[0]], str(row[seed]) if seed else "", values)


def _numbers(path: str | Path, line: str, column: str, cell: Any) -> float | list[float]:
    if hasattr(cell, "tolist"):  # numpy's
        cell = cell.tolist()
    if isinstance(cell, list | tuple) and cell:
        return [_number(path, line, column, one) for one in cell]
    return _number(path, line, column, cell)


def _number(path: str | Path, line: str, column: str, cell: Any) -> float:
    try:
        number = float("nan") if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError):
        number = float("nan")
    if not math.isfinite(number):
        raise ConfigError(f"{path}, {line}: column '{column}' has {cell!r}, which is no finite number")
    return number


def _csv(path: Path, architecture: str) -> Iterator[tuple[str, Row]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        header = list(reader.fieldnames or [])
        twice = [name for name in header if header.count(name) > 1]
        if twice:
            raise ConfigError(f"{path}, line 1: two columns are called '{twice[0]}'")
        for row in reader:
            if None in row:
                raise ConfigError(
                    f"{path}, line {reader.line_num}: more cells than the {len(header)} columns"
                )
            yield f"line {reader.line_num}", row


def _json(path: Path, architecture: str) -> Iterator[tuple[str, Row]]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for entry, (key, value) in enumerate(pairs, 1):
            if key in table:
                raise ConfigError(f"{path}, entry {entry}: '{key}' is there twice. Remove one of them")
            table[key] = value
        return table

    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error
    yield from _entries(path, data, architecture)


def _pickle(path: Path, architecture: str) -> Iterator[tuple[str, Row]]:
    yield from _entries(path, read_pickle(path), architecture)


def _entries(path: Path, data: Any, architecture: str) -> Iterator[tuple[str, Row]]:
    """Rows of a list of rows, or of a mapping architecture -> row."""
    if isinstance(data, Mapping):
        data = [{architecture: key, **_as_row(path, n, row)} for n, (key, row) in enumerate(data.items(), 1)]
    if not isinstance(data, list):
        raise ConfigError(f"{path} holds a {type(data).__name__}, not a list of rows or architecture -> row")
    for number, row in enumerate(data, 1):
        yield f"entry {number}", _as_row(path, number, row)


def _as_row(path: Path, number: int, row: Any) -> Row:
    if not isinstance(row, Mapping):
        raise ConfigError(f"{path}, entry {number}: {str(row)[:40]!r} is not a row, column -> value")
    return row


def _parquet(path: Path, architecture: str) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            f"{path}: Parquet needs pyarrow (pip install pyarrow); or save it as CSV"
        ) from error
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"cannot read the table {path}: {error}") from error
    for number, row in enumerate(rows, 1):
        yield f"row {number}", row
