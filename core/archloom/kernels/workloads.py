"""What the kernels are measured on: each op's cases, and every way to compute one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
SHAPES = ((16, 16, 32, 32), (64, 240, 14, 14), (32, 144, 56, 56), (32, 96, 112, 112))
P_DROP = 0.2


@dataclass(frozen=True)
class Case:
    """One row: an op at a shape, dtype and layout; n candidates where the op mixes."""

    op: str
    shape: tuple[int, int, int, int]
    dtype: str = "float32"
    layout: str = "contiguous"
    n: int = 1

    def __str__(self) -> str:
        many = f" N={self.n}" if self.n > 1 else ""
        return f"{self.op}{many} {self.shape} {self.dtype} {self.layout}"

    @property
    def bytes(self) -> int:
        """Of one tensor."""
        return torch.Size(self.shape).numel() * DTYPES[self.dtype].itemsize


@dataclass
class Variant:
    """One way to compute the case: `call()` gives the output, differentiable in `inputs`."""

    call: Callable[[], Tensor]
    inputs: list[Tensor]
    saved: int = 0
    own: tuple[bool, bool] = (False, False)
    forward: list[float] = field(default_factory=list)
    both: list[float] = field(default_factory=list)


def random_tensor(case: Case, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(case.shape, generator=generator).to(DTYPES[case.dtype])
    if case.layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    return x.requires_grad_()


def traffic(case: Case) -> tuple[float, float]:
    """Ideal bytes moved, forward and forward+backward, in units of one tensor (STREAM counting)."""
    n = case.n
    return {
        "swish": (2, 5),
        "drop_connect": (2, 4),
        "drop_connect_add": (3, 5),
        "mixed_sum": (n + 1, 3 * n + 2),
        "bn_mixed_sum": (2 * n + 1, 5 * n + 3),
        "bn_swish": (3, 8),
        "scale_gate": (2, 5),
    }[case.op]


def _mixing(case: Case) -> tuple[list[Tensor], Tensor]:
    weights = torch.softmax(torch.linspace(-1, 1, case.n), 0).requires_grad_()
    return [random_tensor(case, k) for k in range(case.n)], weights


def _swish(case: Case) -> dict[str, Variant]:
    x = random_tensor(case, 0)
    return {
        "archloom": Variant(lambda: ops.swish(x), [x]),
        "F.silu": Variant(lambda: F.silu(x), [x]),
        "x*sigmoid(x)": Variant(lambda: x * torch.sigmoid(x), [x]),
    }


def _drop(case: Case) -> dict[str, Variant]:
    x = random_tensor(case, 0)
    found = {
        "archloom": Variant(lambda: ops.drop_connect(x, P_DROP, True), [x]),
        "eager": Variant(lambda: _eager_drop(x), [x]),
    }
    if (depth := _stochastic_depth()) is not None:
        found["stochastic_depth"] = Variant(lambda: depth(x, P_DROP, "row", True), [x])
    return found


def _drop_add(case: Case) -> dict[str, Variant]:
    x, skip = random_tensor(case, 0), random_tensor(case, 1)
    found = {
        "archloom": Variant(lambda: ops.drop_connect_add(x, skip, P_DROP, True), [x, skip]),
        "eager": Variant(lambda: _eager_drop(x) + skip, [x, skip]),
    }
    if (depth := _stochastic_depth()) is not None:
        found["stochastic_depth"] = Variant(lambda: depth(x, P_DROP, "row", True) + skip, [x, skip])
    return found


def _eager_drop(x: Tensor) -> Tensor:
    """EfficientNet's expression: x / keep * mask."""
    keep = 1 - P_DROP
    mask = torch.floor(keep + torch.rand(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device))
    return x / keep * mask


def _stochastic_depth() -> Any | None:
    try:
        from torchvision.ops import stochastic_depth
    except ImportError:
        return None
    return stochastic_depth


def _mixed(case: Case) -> dict[str, Variant]:
    xs, w = _mixing(case)
    inputs = [*xs, w]

    def einsum() -> Tensor:
        return torch.einsum("n,nbchw->bchw", w.to(xs[0].dtype), torch.stack(xs))

    return {
        "archloom": Variant(lambda: ops.mixed_sum(xs, w), inputs),
        "eager": Variant(lambda: ops.mixed_sum_ref(xs, w), inputs),
        "stack+einsum": Variant(einsum, inputs),
    }


def _bn_mixed(case: Case) -> dict[str, Variant]:
    xs, w = _mixing(case)
    fused = [nn.BatchNorm2d(case.shape[1]) for _ in range(case.n)]
    eager = copy.deepcopy(fused)
    return {
        "archloom": Variant(
            lambda: ops.bn_mixed_sum(xs, w, fused),
            [*xs, w, *(p for norm in fused for p in norm.parameters())],
        ),
        "eager": Variant(
            lambda: ops.bn_mixed_sum_ref(xs, w, eager),
            [*xs, w, *(p for norm in eager for p in norm.parameters())],
        ),
    }


def _bn_act(case: Case) -> dict[str, Variant]:
    x = random_tensor(case, 0)
    fused = nn.BatchNorm2d(case.shape[1])
    eager = copy.deepcopy(fused)
    return {
        "archloom": Variant(lambda: ops.bn_swish(x, fused), [x, *fused.parameters()]),
        "eager": Variant(lambda: F.silu(eager(x)), [x, *eager.parameters()]),
    }


def _gate(case: Case) -> dict[str, Variant]:
    x = random_tensor(case, 0)
    s = torch.randn(*case.shape[:2], 1, 1, dtype=x.dtype).requires_grad_()
    return {
        "archloom": Variant(lambda: ops.scale_gate(x, s), [x, s]),
        "eager": Variant(lambda: x * torch.sigmoid(s), [x, s]),
    }


_VARIANTS: dict[str, Callable[[Case], dict[str, Variant]]] = {
    "swish": _swish,
    "drop_connect": _drop,
    "drop_connect_add": _drop_add,
    "mixed_sum": _mixed,
    "bn_mixed_sum": _bn_mixed,
    "bn_swish": _bn_act,
    "scale_gate": _gate,
}
_COMPILED_FROM = {"swish": "F.silu"}


def variants(case: Case, compiled: bool = False) -> dict[str, Variant]:
    """Every way to compute `case`; "archloom" is the op. `compiled` adds torch.compile of the eager one."""
    found = _VARIANTS[case.op](case)
    if compiled:
        eager = found[_COMPILED_FROM.get(case.op, "eager")]
        found["torch.compile"] = Variant(torch.compile(eager.call), eager.inputs)
    return found


def cases(
    ops_wanted: Sequence[str] | None = None, *, quick: bool = False, shapes: Sequence[Any] = SHAPES
) -> Iterator[Case]:
    """The whole table: each op at 1 to 150 MB, in float32 and bfloat16, both layouts, 4, 9 and 20 candidates.

    `quick` keeps float32, contiguous, nine candidates. What does not fit 5 GB of candidates is left out.
    """
    for op in ops_wanted or _VARIANTS:
        mixes = op in ("mixed_sum", "bn_mixed_sum")
        for shape in shapes:
            for dtype in ("float32",) if quick else ("float32", "bfloat16"):
                for layout in ("contiguous",) if quick else ("contiguous", "channels_last"):
                    for n in ((9,) if quick else (4, 9, 20)) if mixes else (1,):
                        case = Case(op, tuple(shape), dtype, layout, n)
                        if 6 * n * case.bytes < 5 << 30:
                            yield case
