"""A function of the user's own as an estimator."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Mapping
from typing import Any, Literal

from archloom import STATIC, TRAINING, Architecture, ConfigError, Context, Host, Metric, SearchError, nearest

DIRECTIONS: Mapping[str, Literal["max", "min"]] = {
    "max": "max",
    "maximize": "max",
    "min": "min",
    "minimize": "min",
}


class Function:
    """What a function of yours returns for an architecture: `train.py:evaluate`.

    path: file.py:function, the file beside the configuration, or package.module:function. metrics: what it
    returns, by name: max or min, or {direction: min, unit: ms}; of names alone more is better. Without metrics it
    returns one number, which is called as the function is, and more is better. expense: counted where a call
    takes no training; constraints on it are then checked before anything else is measured. epochs: how many a
    call takes, for the budget.

    The function is called as `function(architecture, context)`, or as `function(architecture)` where it takes one
    argument. It returns a mapping with all of the metrics, or one number where there is one.
    """

    needs = ()

    def __init__(
        self,
        host: Host,
        *,
        path: str,
        metrics: dict[str, Any] | list[str] | str | None = None,
        expense: Literal["counted", "trained"] = "trained",
        epochs: float = 0.0,
    ) -> None:
        if epochs < 0:
            raise ConfigError(f"estimator 'function': epochs is {epochs:g}; it cannot be below 0")
        self.path, self.epochs = path, epochs
        self.expense = STATIC if expense == "counted" else TRAINING
        self.metrics = tuple(metrics_of(path.rpartition(":")[2] if metrics is None else metrics))
        self._function = host.function(path)
        self._takes_context = takes_context(self._function, path)

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        """What the function returns; an error that names the metrics where it returns something else."""
        more = (context,) if self._takes_context else ()
        returned = self._function(architecture, *more)
        names = [metric.name for metric in self.metrics]
        if not isinstance(returned, Mapping):
            value = _number(returned)
            if value is None or len(names) > 1:
                wanted = (
                    f"a mapping with {', '.join(names)}" if len(names) > 1 else f"a number for {names[0]}"
                )
                raise SearchError(f"{self.path} returned {returned!r:.80}, not {wanted}")
            return {names[0]: value}
        if lacking := [name for name in names if name not in returned]:
            near = nearest(lacking[0], [str(key) for key in returned])
            hint = f" ('{near}' is there)" if near else ""
            raise SearchError(
                f"{self.path} returned {', '.join(map(str, returned)) or 'nothing'}, and not {', '.join(lacking)}"
                f"{hint}, which its 'metrics' name"
            )
        values = {name: _number(returned[name]) for name in names}
        if wrong := [name for name, value in values.items() if value is None]:
            raise SearchError(f"{self.path} returned {returned[wrong[0]]!r:.80} for {wrong[0]}, not a number")
        return {name: value for name, value in values.items() if value is not None}


def metrics_of(given: Mapping[str, Any] | list[str] | str) -> list[Metric]:
    """Metrics as a configuration writes them; a ConfigError for one that means nothing."""
    if isinstance(given, str):
        given = [given]
    if isinstance(given, list):
        given = dict.fromkeys(given, "max")
    if not given:
        raise ConfigError(
            "estimator 'function' needs its metrics: {accuracy: max, latency: {direction: min}}"
        )
    made = []
    for name, said in given.items():
        whole = {"direction": said} if isinstance(said, str) else {} if said is None else said
        known = {"direction", "unit"}
        if not isinstance(whole, Mapping) or not set(whole) <= known:
            raise ConfigError(
                f"estimator 'function': metric '{name}' is {said!r}; write max, min, or {{direction: min, unit: ms}}"
            )
        direction = DIRECTIONS.get(str(whole.get("direction", "max")))
        if direction is None:
            raise ConfigError(
                f"estimator 'function': the direction of '{name}' is {whole['direction']!r}; write max or min"
            )
        made.append(Metric(str(name), str(whole.get("unit", "1")), direction))
    return made


def takes_context(function: Callable[..., Any], path: str) -> bool:
    """Whether a function is given the context besides the architecture; a ConfigError where it takes neither."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError) as error:
        raise ConfigError(f"'{path}' does not say what it takes: {error}") from error
    place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [
        p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    first, beyond = bool(place) or several, [p for p in needed if p not in place[:2]]
    if not first or beyond:
        taken = ", ".join(map(str, parameters)) or "nothing"
        raise ConfigError(
            f"'{path}' takes ({taken}); it is called as function(architecture, context), or with the architecture alone"
        )
    return len(place) > 1 and (place[1] in needed or place[1].name == "context")


def _number(value: Any) -> float | None:
    """A number, also of NumPy's and PyTorch's; None for anything else."""
    if isinstance(value, numbers.Real):
        return float(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    return float(value) if isinstance(value, numbers.Real) else None
