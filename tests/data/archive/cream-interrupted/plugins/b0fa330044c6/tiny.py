"""A space of 27 networks of a few hundred weights."""

from torch import nn

import archloom
from archloom.space import build_chain


@archloom.hookimpl
def register_search_spaces(register):
    register("tiny", Tiny)


class Around(nn.Module):
    """A convolution, and the layers behind it."""

    def __init__(self, body):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.body = body

    def forward(self, x):
        return self.body(self.stem(x))


class Tiny:
    """Three layers of four channels: nothing, or a convolution of width 1 or 3."""

    def __init__(self):
        self.choices = [archloom.Choice(f"layer{i}", ("skip", "k1", "k3")) for i in range(3)]

    def candidate(self, choice, option):
        if option == "skip":
            return nn.Identity()
        kernel = int(option[1:])
        conv = nn.Conv2d(4, 4, kernel, padding=kernel // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU())

    def around(self, body):
        return Around(body)

    def build(self, architecture):
        return build_chain(self, architecture)
