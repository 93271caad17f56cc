"""An estimator over a file: architecture -> metrics, each perhaps measured under several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from archloom import STATIC, Architecture, Choice, ConfigError, Context, Metric, SpaceError, check
from archloom.space import from_text, option_of

from .reading import Record, read_records

Code = Literal["options", "indices"]


class Table:
    """Metrics of an architecture as a file has them: CSV, JSON, Parquet, or a pickle without code.

    path: .csv, .json, .parquet or .pickle. metrics: column -> direction and unit: "max %", "min ms".
    architecture: the column that says which one it is: the options separated by blanks in the order of the
    space's choices, or a dictionary choice -> option. code: "indices" where it has the options' positions
    instead, as digits ("0212") or separated by blanks. seed: the column that tells repetitions apart.

    A metric m is given as "m.table", the mean over the seeds, and where there are several, as "m.table.<seed>"
    too. A JSON file is a list of rows or a mapping architecture -> row; a list of numbers in a row's place stands
    for the seeds 1, 2, ...
    """

    expense, needs = STATIC, ()

    def __init__(
        self,
        *,
        path: str,
        metrics: dict[str, str],
        architecture: str = "architecture",
        code: Code = "options",
        seed: str | None = None,
    ) -> None:
        if not metrics:
            raise ConfigError("table: name at least one metric, such as metrics: {accuracy: max %}")
        self.path, self.code = path, code
        self.records = _expanded(read_records(path, architecture, list(metrics), seed), seed, path)
        self.seeds = _seeds(self.records, path)
        self.metrics = tuple(
            made for name, text in metrics.items() for made in _metrics(name, text, self.seeds)
        )
        self._columns = list(metrics)
        self._known: tuple[Sequence[Choice], dict[Architecture, dict[str, float]]] | None = None

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        rows = self.rows(context.space)
        try:
            return rows[architecture]
        except KeyError:
            raise SpaceError(f"{self.path} has no row for the architecture '{architecture}'") from None

    def known(self, space: Any) -> list[Architecture]:
        """The architectures of the file, in its order."""
        return list(self.rows(space))

    def rows(self, space: Any) -> Mapping[Architecture, Mapping[str, float]]:
        """Every architecture of the file with its metrics, checked against the space.

        A ConfigError with the line where an architecture is not the space's, or comes twice.
        """
        choices = list(space.choices)
        if self._known is None or self._known[0] != choices:
            self._known = choices, self._read(space)
        return self._known[1]

    def _read(self, space: Any) -> dict[Architecture, dict[str, float]]:
        found: dict[Architecture, dict[str, dict[str, float]]] = {}
        lines: dict[tuple[Architecture, str], str] = {}
        for record in self.records:
            try:
                architecture = _architecture(record.architecture, space, self.code)
            except SpaceError as error:
                raise ConfigError(f"{self.path}, {record.line}: {error}") from error
            earlier = lines.setdefault((architecture, record.seed), record.line)
            if earlier != record.line:
                raise ConfigError(
                    f"{self.path}, {record.line}: the architecture '{architecture}' stands in {earlier} already. "
                    "Remove one of them; if they are repetitions, name the column that tells them apart: seed"
                )
            found.setdefault(architecture, {})[record.seed] = dict(record.values)
        return {architecture: self._row(architecture, by_seed) for architecture, by_seed in found.items()}

    def _row(
        self, architecture: Architecture, by_seed: Mapping[str, Mapping[str, float]]
    ) -> dict[str, float]:
        lacking = [seed for seed in self.seeds if seed not in by_seed]
        if lacking:
            raise ConfigError(
                f"{self.path}: the architecture '{architecture}' has no row for seed {lacking[0]}"
            )
        row = {}
        for column in self._columns:
            values = [by_seed[seed][column] for seed in self.seeds]
            row[f"{column}.table"] = sum(values) / len(values)
            if len(values) > 1:
                row |= {f"{column}.table.{s}": v for s, v in zip(self.seeds, values, strict=True)}
        return row


def _metrics(name: str, text: str, seeds: Sequence[str]) -> list[Metric]:
    direction, _, unit = text.partition(" ")
    if direction not in ("max", "min") or not unit.strip():
        raise ConfigError(f"table: metric '{name}' is 'max' or 'min' and a unit, as in 'max %', not '{text}'")
    several = [f".{seed}" for seed in seeds] if len(seeds) > 1 else []
    better: Literal["max", "min"] = "max" if direction == "max" else "min"
    return [Metric(f"{name}.table{end}", unit.strip(), better) for end in ("", *several)]


def _seeds(records: Sequence[Record], path: str) -> list[str]:
    return list(dict.fromkeys(record.seed for record in records))


def _expanded(records: Sequence[Record], seed: str | None, path: str) -> list[Record]:
    """One record for each seed, where a row has lists."""
    lengths = {len(v) for record in records for v in record.values.values() if isinstance(v, list)}
    if not lengths:
        return list(records)
    if seed is not None:
        raise ConfigError(
            f"{path} has lists of values and a column '{seed}' of seeds; it can have one of them"
        )
    if len(lengths) > 1:
        longest = max(lengths)
        odd = next(r for r in records for v in r.values.values() if isinstance(v, list) and len(v) != longest)
        raise ConfigError(f"{path}, {odd.line}: a list does not have {longest} values, as others have")
    count = lengths.pop()
    return [
        Record(r.line, r.architecture, str(n + 1), {k: _nth(v, n) for k, v in r.values.items()})
        for r in records
        for n in range(count)
    ]


def _nth(value: Any, n: int) -> float:
    return float(value[n] if isinstance(value, list) else value)


def _architecture(written: Any, space: Any, code: Code) -> Architecture:
    """The architecture that a cell means; a SpaceError where it is another space's."""
    if not isinstance(written, Mapping):
        return from_text(space, str(written), code)
    choices = {choice.name: choice for choice in space.choices}
    given = {name: option_of(choices[name], word, code) for name, word in written.items() if name in choices}
    return check(space, Architecture({**written, **given}))
