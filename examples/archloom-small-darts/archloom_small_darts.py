"""First-order DARTS (Liu, Simonyan and Yang, ICLR 2019, arXiv 1806.09055) on a small space of cells.

min over alpha  L_val(w*(alpha), alpha)   with   w*(alpha) = argmin over w  L_train(w, alpha)       (eqs. 3 and 4)
"""

import math
from itertools import islice

import torch
from torch import Tensor, nn

import archloom
from archloom.architecture import Architecture, Choice
from archloom.mixing import softmax
from archloom.model import assemble_shared
from archloom.randomness import derive_seed, forked_rng, torch_rng
from archloom.shared import derive
from archloom.strategy import Progress
from archloom.task import batches
from archloom.weight_sharing import held_still, spans
from archloom.wiring import build_wired

OPERATIONS = ("none", "skip_connect", "avg_pool_3x3", "conv_3x3")


class Cells:
    """Equal cells in a row, the image halved between them. Each node of a cell sums all nodes before it, each through
    an operation; node 0 is the cell's input and the last its output. An edge has the same operation in every cell.
    """

    def __init__(self, *, in_channels: int = 1, channels: int = 8, cells: int = 2, nodes: int = 4) -> None:
        self.in_channels, self.channels, self.cells, self.nodes = in_channels, channels, cells, nodes
        self.choices = [Choice(f"edge{i}_{j}", OPERATIONS) for j in range(nodes) for i in range(j)]
        self.layers = {f"cell{c}_{edge.name}": edge.name for c in range(cells) for edge in self.choices}

    def candidate(self, layer: str, option: str) -> nn.Module | None:
        """(N, C, H, W) -> (N, C, H, W); None for "none", which leaves the edge out."""
        if option in ("none", "skip_connect"):
            return None if option == "none" else nn.Identity()
        pool, norm = nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.BatchNorm2d(self.channels)
        conv = nn.Conv2d(self.channels, self.channels, 3, padding=1, bias=False)
        return nn.Sequential(pool, norm) if option == "avg_pool_3x3" else nn.Sequential(nn.ReLU(), conv, norm)

    def wire(self, layers: dict[str, nn.Module]) -> nn.Module:
        """The network of those layers that are there."""
        stem = nn.Conv2d(self.in_channels, self.channels, 3, padding=1)
        cells = [Cell(number, self.nodes, layers) for number in range(self.cells)]
        halved = [module for cell in cells for module in (cell, nn.MaxPool2d(2))][:-1]
        return nn.Sequential(stem, *halved, nn.BatchNorm2d(self.channels), nn.ReLU())

    def build(self, architecture: Architecture) -> nn.Module:
        return build_wired(self, architecture)


class Cell(nn.Module):
    def __init__(self, number: int, nodes: int, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        edge = f"cell{number}_edge{{}}_{{}}".format
        into = [
            {str(i): layers[edge(i, j)] for i in range(j) if edge(i, j) in layers} for j in range(1, nodes)
        ]
        self.nodes = nn.ModuleList(map(nn.ModuleDict, into))

    def forward(self, x: Tensor) -> Tensor:
        states = [x]
        for into in self.nodes:
            total = torch.zeros_like(x)
            for i, layer in into.items():
                given = layer(states[int(i)])
                if given is not None:  # a supernet may run "none" alone
                    total = total + given
            states.append(total)
        return states[-1]


class Darts:
    """Alpha, by images of the split "architecture", and w, by those of "weights", take turns, a step each."""

    needs = ("differentiable",)

    def __init__(
        self, context, *, epochs: int = 50, batch_size: int = 64, lr: float = 0.025, alpha_lr: float = 3e-4
    ) -> None:
        self.context, self.batch_size, self.lr, self.epochs = context, batch_size, lr, epochs
        where = {"seed": context.seed, "device": context.device}
        self.supernet = assemble_shared(context.space, context.task, context.model, **where)
        noise, decisions = torch_rng(context.seed, "alpha"), self.supernet.shared.mixable
        alpha = {name: 1e-3 * torch.randn(n, generator=noise) for name, n in decisions.items()}
        self.alpha = nn.ParameterDict(alpha).to(context.device)
        self.w_sgd = torch.optim.SGD(self.supernet.parameters(), lr, momentum=0.9, weight_decay=3e-4)
        self.adam = torch.optim.Adam(self.alpha.parameters(), alpha_lr, betas=(0.5, 0.999), weight_decay=1e-3)
        self.parts = {"w": self.supernet, "alpha": self.alpha, "w_sgd": self.w_sgd, "adam": self.adam}
        splits = ("architecture", "weights")
        self.data = {split: context.task.dataset(split, augment=True) for split in splits}
        steps = max(1, min(map(len, self.data.values())) // batch_size)
        self.plan, self.done, self.proposed = spans(epochs, {"both": steps}, unit_steps=100), 0, False

    def fit(self):
        """Train on from the last whole unit."""
        ranks = self.context.ranks
        for span in self.plan[self.done :]:
            cosine = (1 + math.cos(math.pi * span.epoch / self.epochs)) / 2
            self.w_sgd.param_groups[0]["lr"] = self.lr * cosine
            streams = [self.batches(split, span.epoch) for split in self.data]
            losses = torch.zeros(2, device=self.context.device)
            with forked_rng(
                self.context.seed, "fit", span.before
            ):  # dropout in a head draws from global state
                for held_out, given in islice(zip(*streams, strict=False), span.start, span.stop):
                    losses[0] += self.step(held_out, self.alpha, self.adam, still=self.supernet)
                    losses[1] += self.step(given, self.supernet, self.w_sgd, still=self.alpha)
            ranks.broadcast_buffers(self.supernet)
            self.done += 1
            alpha, w = (ranks.average(losses) / (span.stop - span.start)).tolist()
            yield Progress(self.done, len(self.plan), span.epochs, {"alpha.loss": alpha, "w.loss": w})

    def batches(self, split, epoch):
        order = {"seed": derive_seed(self.context.seed, split), "epoch": epoch, "shuffle": True}
        where = {"ranks": self.context.ranks, "device": self.context.device}
        return batches(self.data[split], self.batch_size, drop_last=True, **order, **where)

    def step(self, batch, moving, optimizer, *, still):
        """One step of `moving` against the gradient of the loss of a batch (x, y); the loss."""
        x, y = batch
        self.supernet.train()
        with held_still(still.parameters()):
            mixtures = {name: softmax(alpha, 1.0) for name, alpha in self.alpha.items()}  # eq. 2
            loss = self.supernet.loss(self.supernet(x, mixtures), y)
            optimizer.zero_grad()
            loss.backward()
            self.context.ranks.average_gradients(moving.parameters())
            if moving is self.supernet:
                nn.utils.clip_grad_norm_(moving.parameters(), 5.0)
            optimizer.step()
        return loss.detach()

    def propose(self):
        probabilities = {name: alpha.softmax(0).tolist() for name, alpha in self.alpha.items()}
        asked, self.proposed = self.proposed, True
        return None if asked else derive(self.context.space, probabilities)

    def observe(self, trial):
        """Nothing to learn: alpha is what the search knows."""

    def state_dict(self):
        return {"done": self.done, **{name: part.state_dict() for name, part in self.parts.items()}}

    def load_state_dict(self, state):
        self.done = state["done"]
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


@archloom.hookimpl
def register_search_spaces(register):
    register("small_cells", Cells)


@archloom.hookimpl
def register_strategies(register):
    register("small_darts", Darts)
