"""Batches of one image, which some networks cannot be trained on: found before anything is trained or written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import ArchloomError
from ..model import Model, assemble
from ..randomness import python_rng
from ..ranks import Ranks
from ..resolve import Resolved
from ..space import distinct, input_shape
from ..task import Split
from ..training import Recipe, check_single_images, way_out_of_single_images

DRAWS = 20
"""So many architectures are tried for one that can be built."""


def check_batches(r: Resolved, ranks: Ranks) -> None:
    """Refuse the recipe, an estimator or the method, with a ConfigError, where its batches have one image and the
    networks of the space cannot be trained on that."""
    for batch_size, option, splits, world in _trainings(r, ranks):
        images: Any = r.data.dataset(*splits, augment=True)
        if min(batch_size, len(images)) // world == 1 and (network := _network(r)) is not None:
            way_out = way_out_of_single_images(batch_size, option, splits, world)
            check_single_images(*network, way_out)


def _trainings(r: Resolved, ranks: Ranks) -> Iterator[tuple[int, str, tuple[Split, ...], int]]:
    """The size of the batches, the option that says it, the splits, and among how many processes they are shared."""
    whole: tuple[Split, ...] = ("weights", "architecture")
    if r.config.verdict.seeds:
        yield r.recipe.batch_size, "recipe.batch_size", whole, 1
    for part, estimator in zip(r.config.estimators, r.estimators, strict=True):
        if isinstance(recipe := getattr(estimator, "recipe", None), Recipe):
            yield recipe.batch_size, f"batch_size of the estimator '{part.type}'", whole, 1
    batch_size = None if r.method is None else r.method.options.get("batch_size")
    if r.method is not None and isinstance(batch_size, int) and batch_size >= ranks.world:
        yield batch_size, f"batch_size of the method '{r.method.entry.name}'", ("weights",), ranks.world


def _network(r: Resolved) -> tuple[Model, tuple[int, ...]] | None:
    """A network of the space and the shape of its images; None where none of a few can be built."""
    rng = python_rng(r.config.seed, "batches")
    for architecture in distinct(r.space, rng, draws=DRAWS):
        try:
            model = assemble(r.space, architecture, r.data, r.parts, seed=r.config.seed)
        except ArchloomError:
            continue
        return model, input_shape(r.space, architecture, r.data)
    return None
