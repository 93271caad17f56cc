"""Heads: (N, in_channels) -> logits (N, num_classes). Of a tuple they take the last, that is the deepest."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from archloom import ConfigError, Features, LinearHead, deepest, topk_accuracy


def linear_head(in_channels: int, num_classes: int, *, dropout: float = 0.0) -> nn.Module:
    """Dropout, then one linear layer."""
    return LinearHead(in_channels, num_classes, dropout)


class LinearClsHead(nn.Module):
    """One linear layer, its weights from N(0, 0.01) and its bias 0. `topk`: which accuracies are told."""

    def __init__(self, in_channels: int, num_classes: int, *, topk: tuple[int, ...] = (1,)) -> None:
        super().__init__()
        _check("LinearClsHead", in_channels, num_classes, topk)
        self.in_channels, self.num_classes, self.topk = in_channels, num_classes, topk
        self.fc = _linear(in_channels, num_classes)

    def forward(self, x: Features) -> Tensor:
        return self.fc(deepest(x))

    def accuracies(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """{"top1": %, ...} for each k of `topk`; logits (N, num_classes), labels (N,)."""
        return topk_accuracy(logits, labels, self.topk)


class HiddenClsHead(nn.Module):
    """Linear, activation, dropout, linear; weights from N(0, 0.01), biases 0."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        hidden: int = 256,
        activation: Literal["relu", "tanh", "hardswish"] = "relu",
        dropout: float = 0.0,
        topk: tuple[int, ...] = (1,),
    ) -> None:
        super().__init__()
        _check("HiddenClsHead", in_channels, num_classes, topk)
        if hidden < 1:
            raise ConfigError(f"HiddenClsHead: hidden must be at least 1, not {hidden}")
        self.in_channels, self.num_classes, self.topk = in_channels, num_classes, topk
        self.hidden = _linear(in_channels, hidden)
        self.activation = {"relu": nn.ReLU, "tanh": nn.Tanh, "hardswish": nn.Hardswish}[activation]()
        self.dropout = nn.Dropout(dropout)
        self.fc = _linear(hidden, num_classes)

    def forward(self, x: Features) -> Tensor:
        return self.fc(self.dropout(self.activation(self.hidden(deepest(x)))))

    def accuracies(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """{"top1": %, ...} for each k of `topk`; logits (N, num_classes), labels (N,)."""
        return topk_accuracy(logits, labels, self.topk)


def _check(head: str, in_channels: int, num_classes: int, topk: tuple[int, ...]) -> None:
    for name, number in (("num_classes", num_classes), ("in_channels", in_channels)):
        if number <= 0:
            raise ConfigError(f"{head}: {name} must be at least 1, not {number}")
    if not topk or not all(1 <= k <= num_classes for k in topk):
        raise ConfigError(
            f"{head}: each of topk must lie in 1..{num_classes}, the classes; it is {list(topk)}"
        )


def _linear(c_in: int, c_out: int) -> nn.Linear:
    layer = nn.Linear(c_in, c_out)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer
