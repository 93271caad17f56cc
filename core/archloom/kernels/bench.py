"""How fast the kernels are: each op against eager PyTorch, PyTorch's own fused op, torch.compile and a copy.

All variants of a case are timed in each round of one process, so that what disturbs one disturbs all; medians
and quartiles are kept. Ratios say how many times faster than a variant the op is.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..ops import PAST_CACHES
from .workloads import Case, Variant, random_tensor, traffic, variants


def saved_bytes(call: Callable[[], Tensor]) -> int:
    """Bytes that the graph of `call()` keeps for its backward, each storage once."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        output = call()
        total = sum(kept.values())
        del output
    return total


class _Seen(TorchDispatchMode):
    """Notes whether an operator of ours runs."""

    def __init__(self) -> None:
        super().__init__()
        self.ours = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ours |= func.namespace == "archloom"
        return func(*args, **(kwargs or {}))


def _own(call: Callable[[], Any]) -> bool:
    with _Seen() as seen:
        call()
    return seen.ours


@dataclass(frozen=True)
class Row:
    """A variant's figures in a case, in seconds; `spread` is the quartile distance over the median.

    `least` is the fastest of all rounds: on a machine that others use too, the time without them. `own` says
    whether a kernel of ours ran, or the op left the work to PyTorch.
    """

    case: Case
    variant: str
    forward: float
    both: float
    spread_forward: float
    spread_both: float
    saved: int
    ratio_forward: float
    ratio_both: float
    bandwidth_forward: float
    bandwidth_both: float
    copy: float
    least_forward: float
    least_both: float
    own_forward: bool
    own_both: bool


def measure(case: Case, *, seconds: float = 2.0, compiled: bool = False) -> list[Row]:
    """Time every variant of `case`, all in each round, for about `seconds`; the first row is the op's own.

    Ratios are variant / archloom in time (above one: the op is faster). Bandwidth fractions hold the ideal
    traffic against `copy`, the bytes per second of y.copy_(x) on the same tensor in the same run.
    """
    found = variants(case, compiled)
    source = random_tensor(case, 99).detach()
    target = torch.empty_like(source)
    copies: list[float] = []
    grad = torch.randn_like(next(iter(found.values())).call())
    for variant in found.values():
        variant.saved = saved_bytes(variant.call)
        with torch.no_grad():
            forward = _own(variant.call)
        variant.own = forward, _own(partial(_timed_both, variant, grad))
        _timed_both(variant, grad)
        _timed_forward(variant)
    begun, rounds = time.perf_counter(), 0
    # what fits a cache is timed as it is in a loop of its own: the variant before it may have emptied the cache
    warm = case.n * case.bytes < PAST_CACHES
    chance = random.Random(0)
    while rounds < 5 or (time.perf_counter() - begun < seconds and rounds < 400):
        # results would lie at the same addresses in every round, and one variant's may collide in a cache's sets
        # with what it reads: what is held meanwhile moves them
        held = [torch.empty_like(source) for _ in range(chance.randrange(4))]
        held.append(torch.empty(chance.randrange(1 << 16), dtype=torch.uint8))
        names = chance.sample(list(found), len(found))  # no variant always after the same other
        for name in names:
            if warm:
                _timed_forward(found[name])
            found[name].forward.append(_timed_forward(found[name]))
        for name in names:
            if warm:
                _timed_both(found[name], grad)
            found[name].both.append(_timed_both(found[name], grad))
        if warm:
            target.copy_(source)
        copies.append(_timed(lambda: target.copy_(source)))
        del held
        rounds += 1
    return list(_rows(case, found, 2 * case.bytes / statistics.median(copies)))


def _timed(call: Callable[[], Any]) -> float:
    # one thread's own time does not count what other processes take from it
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    begun = clock()
    call()
    return clock() - begun


def _timed_forward(variant: Variant) -> float:
    with torch.no_grad():
        return _timed(variant.call)


def _timed_both(variant: Variant, grad: Tensor) -> float:
    return _timed(lambda: torch.autograd.grad(variant.call(), variant.inputs, grad))


def _spread(times: list[float]) -> float:
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / middle


def _rows(case: Case, found: dict[str, Variant], rate: float) -> Iterator[Row]:
    ours = found["archloom"]
    own = statistics.median(ours.forward), statistics.median(ours.both)
    ideal = traffic(case)
    for name, variant in found.items():
        forward, both = statistics.median(variant.forward), statistics.median(variant.both)
        yield Row(
            case=case,
            variant=name,
            forward=forward,
            both=both,
            spread_forward=_spread(variant.forward),
            spread_both=_spread(variant.both),
            saved=variant.saved,
            ratio_forward=forward / own[0],
            ratio_both=both / own[1],
            bandwidth_forward=ideal[0] * case.bytes / forward / rate,
            bandwidth_both=ideal[1] * case.bytes / both / rate,
            copy=rate,
            least_forward=min(variant.forward),
            least_both=min(variant.both),
            own_forward=variant.own[0],
            own_both=variant.own[1],
        )
