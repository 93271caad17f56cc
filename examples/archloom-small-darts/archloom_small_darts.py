"""First-order DARTS (Liu, Simonyan and Yang, ICLR 2019, arXiv 1806.09055) on a small space of cells.

min over alpha  L_val(w*(alpha), alpha)   with   w*(alpha) = argmin over w  L_train(w, alpha)       (eqs. 3 and 4)
"""

import math
from itertools import islice

import torch
from torch import Tensor, nn

import archloom
from archloom.mixing import softmax
from archloom.shared import derive
from archloom.weight_sharing import held_still, spans

OPERATIONS = ("none", "skip_connect", "avg_pool_3x3", "conv_3x3")


class Cells:
    """Equal cells in a row, the image halved between them. Each node of a cell sums all nodes before it, each through
    an operation; node 0 is the cell's input and the last its output. An edge has the same operation in every cell.
    """

    def __init__(self, *, in_channels: int = 1, channels: int = 8, cells: int = 2, nodes: int = 4) -> None:
        self.in_channels, self.channels, self.cells, self.nodes = in_channels, channels, cells, nodes
        self.choices = [archloom.Choice(f"edge{i}_{j}", OPERATIONS) for j in range(nodes) for i in range(j)]
        self.layers = {f"cell{c}_{edge.name}": edge.name for c in range(cells) for edge in self.choices}

    def candidate(self, layer: str, option: str) -> nn.Module | None:
        """(N, C, H, W) -> (N, C, H, W); None for "none", which leaves the edge out."""
        if option in ("none", "skip_connect"):
            return None if option == "none" else nn.Identity()
        pool, norm = nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.BatchNorm2d(self.channels)
        conv = nn.Sequential(nn.ReLU(), nn.Conv2d(self.channels, self.channels, 3, padding=1, bias=False))
        return nn.Sequential(pool if option == "avg_pool_3x3" else conv, norm)

    def wire(self, layers: dict[str, nn.Module]) -> nn.Module:
        stem = nn.Conv2d(self.in_channels, self.channels, 3, padding=1)
        cells = [Cell(number, self.nodes, layers) for number in range(self.cells)]
        halved = [module for cell in cells for module in (cell, nn.MaxPool2d(2))][:-1]
        return nn.Sequential(stem, *halved, nn.BatchNorm2d(self.channels), nn.ReLU())

    def build(self, architecture: archloom.Architecture) -> nn.Module:
        return archloom.build_wired(self, architecture)


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
        parts = (context.space, context.task, context.model)
        self.supernet = archloom.assemble_shared(*parts, seed=context.seed, device=context.device)
        noise, decisions = archloom.torch_rng(context.seed, "alpha"), self.supernet.shared.mixable
        alpha = {name: 1e-3 * torch.randn(n, generator=noise) for name, n in decisions.items()}
        self.alpha = nn.ParameterDict(alpha).to(context.device)
        self.sgd = torch.optim.SGD(self.supernet.parameters(), lr, momentum=0.9, weight_decay=3e-4)
        self.adam = torch.optim.Adam(self.alpha.parameters(), alpha_lr, betas=(0.5, 0.999), weight_decay=1e-3)
        self.parts = {"w": self.supernet, "alpha": self.alpha, "sgd": self.sgd, "adam": self.adam}
        self.data = {part: context.task.dataset(part, augment=True) for part in ("architecture", "weights")}
        steps = max(1, min(map(len, self.data.values())) // batch_size)
        self.plan, self.done, self.proposed = spans(epochs, {"both": steps}, unit_steps=100), 0, False

    def fit(self):  # goes on from the last whole unit
        for span in self.plan[self.done :]:
            self.sgd.param_groups[0]["lr"] = self.lr * (1 + math.cos(math.pi * span.epoch / self.epochs)) / 2
            streams = [self.batches(split, span.epoch) for split in self.data]
            losses = torch.zeros(2, device=self.context.device)
            with archloom.forked_rng(self.context.seed, "fit", span.before):  # a head may have dropout
                for held_out, given in islice(zip(*streams, strict=False), span.start, span.stop):
                    losses[0] += self.step(held_out, self.alpha, self.adam, still=self.supernet)
                    losses[1] += self.step(given, self.supernet, self.sgd, still=self.alpha)
            self.context.ranks.broadcast_buffers(self.supernet)
            if not losses.isfinite().all():
                raise archloom.SearchError(
                    f"a loss is no number in epoch {span.epoch + 1}; lower lr or alpha_lr"
                )
            self.done += 1
            alpha, w = (self.context.ranks.average(losses) / (span.stop - span.start)).tolist()
            metrics = {"alpha.loss": alpha, "w.loss": w}
            yield archloom.Progress(self.done, len(self.plan), span.epochs, metrics)

    def batches(self, split, epoch):
        order = {"seed": archloom.derive_seed(self.context.seed, split), "epoch": epoch, "shuffle": True}
        where = {"ranks": self.context.ranks, "device": self.context.device}
        return archloom.batches(self.data[split], self.batch_size, drop_last=True, **order, **where)

    def step(self, batch, moving, optimizer, *, still):
        """One step of `moving` against the gradient of the loss of a batch (x, y); the loss."""
        self.supernet.train()
        with held_still(still.parameters()):
            mixtures = {name: softmax(alpha, 1.0) for name, alpha in self.alpha.items()}  # eq. 2
            loss = self.supernet.loss(self.supernet(batch[0], mixtures), batch[1])
            optimizer.zero_grad()
            loss.backward()
            self.context.ranks.average_gradients(moving.parameters())
            nn.utils.clip_grad_norm_(moving.parameters(), 5.0 if moving is self.supernet else math.inf)
            optimizer.step()
        return loss.detach()

    def propose(self):
        probabilities = {name: alpha.softmax(0).tolist() for name, alpha in self.alpha.items()}
        asked, self.proposed = self.proposed, True
        return None if asked else derive(self.context.space, probabilities)

    def observe(self, trial): ...  # alpha is what the search knows

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
