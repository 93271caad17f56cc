"""What is ranked against what: one YAML file, validated before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..config import DEFAULT, Int, ModelConfig, Part, PartLike, _Strict, at_once, check_workers, parse
from ..config_files import located, override, read_yaml
from ..processes import MOST


class RankConfig(_Strict):
    """A comparison of predictors with a ground truth.

    truth: an estimator that knows the networks' figures, a table; metric: which of them is the truth. predictors:
    estimators; one that needs a supernet is applied to each of `supernets`, methods that are trained first. networks:
    how many are drawn, by the seed, of those that the truth knows, or all. top: the k of precision at top k.
    resamples: of the bootstrap. The seed also draws all weights. executor, workers: where predictors estimate that
    need no supernet.
    """

    space: PartLike
    task: PartLike = Part(type=DEFAULT)
    truth: PartLike
    metric: str
    predictors: list[PartLike] = Field(default_factory=list)
    supernets: list[PartLike] = Field(default_factory=list)
    networks: Annotated[Int, Field(ge=2)] | Literal["all"] = 300
    top: Int = Field(30, ge=1)
    resamples: Int = Field(1000, ge=100)
    model: ModelConfig = ModelConfig()
    seed: Int = Field(0, ge=0)
    device: str = "cpu"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    executor: PartLike | None = None
    workers: Int | None = Field(None, ge=1, le=MOST)
    threads: Int | None = Field(None, ge=1, le=MOST)
    plugins: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_number_of_workers(self) -> RankConfig:
        check_workers(self.executor, self.workers)
        return self

    @property
    def at_once(self) -> int:
        """How many estimates are to be made at once."""
        return at_once(self.executor, self.workers)

    @property
    def timed(self) -> bool:
        """Whether an estimate may have to be ended: not here."""
        return False


def parse_rank(data: Any, where: str = "the configuration") -> RankConfig:
    """A `RankConfig` from plain data; a ConfigError that names each wrong key and the nearest right one."""
    if isinstance(data, RankConfig):
        return data
    return parse(RankConfig, data, where)


def read_rank(path: str | Path, overrides: Iterable[str] = ()) -> RankConfig:
    """A `RankConfig` from a YAML file, with `key=value` overrides."""
    return parse_rank(located(override(read_yaml(path), overrides), path), str(path))


def as_rank(config: RankConfig | Mapping[str, Any] | str | Path) -> RankConfig:
    """A checked configuration from whatever it was given as."""
    return read_rank(config) if isinstance(config, str | Path) else parse_rank(config)
