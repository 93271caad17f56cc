"""BatchNorm's running statistics: whether they have settled, and how they are taken anew where they have not.

In a training of few batches they say what the network was rather than what it is. Judged by them a network that reads
97 % of its training images may read one in ten of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ConfigError
from ..model import evaluating
from .precision import precision_context
from .recipe import Recipe

Stream = Iterable[tuple[Tensor, Any]]

SETTLED = 10.0
"""Running statistics have settled after this many times the batches that they are an average over: what they started
from then weighs exp(-10). A BatchNorm of momentum 0.1 averages over 10 batches, and has settled after 100."""

IMAGES, BATCH = 1024, 128
"""How many training images statistics are taken from, and in which batches."""


class Statistics:
    """Lends networks statistics taken anew while they are judged, and gives them their running ones back.

    stream: makes the batches that the statistics are taken from, of training images without augmentation.
    """

    def __init__(self, recipe: Recipe, stream: Callable[[], Stream], precision: str = "float32") -> None:
        self._recipe, self._stream, self._precision = recipe, stream, precision
        self._running: dict[int, dict[str, Tensor]] = {}

    def lend(self, network: nn.Module, trained: nn.Module, batches: int, *, averaged: bool = False) -> int:
        """Take the statistics of `network` anew, unless they have settled; from how many images, 0 for none.

        trained: the network in training mode, `network` itself or what it averages: a BatchNorm that stands still
        there keeps what it has. batches: that it was trained on.
        """
        names = _unsettled(trained, self._recipe, batches, averaged)
        if not names:
            return 0
        modules = dict(network.named_modules())
        self._running[id(network)] = {
            f"{name}.{key}": value.clone() for name in names for key, value in modules[name].named_buffers()
        }
        return recalibrate_batchnorm(
            network, self._stream(), [modules[name] for name in names], self._precision
        )

    def running(self, network: nn.Module) -> dict[str, Tensor]:
        """The running statistics that the network does not have now, by their names in its state dict."""
        return self._running.get(id(network), {})

    @torch.no_grad()
    def give_back(self, *networks: nn.Module) -> None:
        """The running statistics of `networks` again, as they were."""
        for network in networks:
            state = network.state_dict(keep_vars=True)
            for key, value in self._running.pop(id(network), {}).items():
                state[key].copy_(value)


def _unsettled(trained: nn.Module, recipe: Recipe, batches: int, averaged: bool) -> list[str]:
    """The names of the BatchNorms whose running statistics have not settled after so many batches."""
    if recipe.recalibrate == "never":
        return []
    mean = 0.0 if not averaged or recipe.ema is None else 1 / (1 - recipe.ema)
    found = []
    for name, norm in trained.named_modules():
        if not (isinstance(norm, _BatchNorm) and norm.training and norm.running_mean is not None):
            continue
        if norm.momentum == 0:
            continue  # its statistics are to stand still
        # without a momentum they are the mean over the whole training, its beginning included
        memory = batches if norm.momentum is None else 1 / norm.momentum + mean
        if recipe.recalibrate == "always" or batches < SETTLED * memory:
            found.append(name)
    return found


def recalibrate_batchnorm(
    model: nn.Module,
    stream: Stream,
    norms: Sequence[nn.Module] | None = None,
    precision: str = "float32",
) -> int:
    """Replace BatchNorm's running statistics by those of the images of `stream`, in place; how many images.

    Each batch's mean and variance weigh as much as it has images, and an image that is a batch by itself joins
    another. Dropout and all else stay in eval mode. norms: by default all that track statistics; one that is not
    called keeps its own. Never call it on a supernet: it would change it. Raises ConfigError, and changes nothing,
    where there is one image alone and BatchNorm can take no variance from it.
    """
    chosen: list[Any] = [
        m
        for m in (model.modules() if norms is None else norms)
        if isinstance(m, _BatchNorm) and m.track_running_stats and m.running_mean is not None
    ]
    if not chosen:
        return 0
    kept = [([buffer.clone() for buffer in norm.buffers()], norm.momentum) for norm in chosen]
    seen = 0
    try:
        with evaluating(model), torch.no_grad():
            for norm in chosen:
                _reset(norm)
                norm.train()
            for x in _no_single_images(stream):
                seen += len(x)
                _weigh(chosen, len(x) / seen)
                with precision_context(x.device, precision):
                    model(x)
    except BaseException as error:
        for norm, (buffers, _) in zip(chosen, kept, strict=True):
            _restore(norm, buffers)
        if isinstance(error, ValueError) and seen == 1:
            raise ConfigError(
                "BatchNorm takes no variance from one image whose maps have one pixel; give the training splits two "
                "images or more"
            ) from error
        raise
    finally:
        for norm, (_, momentum) in zip(chosen, kept, strict=True):
            norm.momentum = momentum
    for norm, (buffers, _) in zip(chosen, kept, strict=True):
        if norm.num_batches_tracked is not None and norm.num_batches_tracked == 0:  # not called
            _restore(norm, buffers)
    return seen


def _reset(norm: Any) -> None:
    """`reset_running_stats`, also for a norm that does not count its batches."""
    norm.running_mean.zero_()
    norm.running_var.fill_(1)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.zero_()


def _weigh(norms: Sequence[Any], share: float) -> None:
    """Let the batch to come have this share in the mean: that of its images among those seen, itself included.

    For batches of one size it is the plain mean over batches, to the bit. A norm that is called several times in a
    batch, which its count of the first shows, takes the plain mean over its calls.
    """
    for norm in norms:
        calls = norm.num_batches_tracked
        if share == 1 and calls is not None:
            norm.momentum = None
        elif norm.momentum is None and calls > 1:
            continue
        else:
            norm.momentum = share


@torch.no_grad()
def _restore(norm: nn.Module, buffers: Sequence[Tensor]) -> None:
    for buffer, value in zip(norm.buffers(), buffers, strict=True):
        buffer.copy_(value)


def _no_single_images(stream: Stream) -> Iterator[Tensor]:
    """The images of each batch; one that is a batch by itself goes with the next batch, or with the last."""
    ready: Tensor | None = None
    single: Tensor | None = None
    for x, *_ in stream:
        if single is not None:
            x, single = torch.cat([single, x]), None
        if len(x) == 1:
            single = x
            continue
        if ready is not None:
            yield ready
        ready = x
    if single is not None:
        ready = single if ready is None else torch.cat([ready, single])
    if ready is not None:
        yield ready
