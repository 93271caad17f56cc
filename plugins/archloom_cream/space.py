"""The Cream search space: five stages of inverted residuals between fixed first and last stages."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from archloom import Architecture, Choice, NamedArchitecture, SpaceError, WeightFormat, build_chain, check

from .blocks import BlockSpec, initialize, make_block
from .costs import block_macs, half
from .layout import FORMS, SE, SKIP, Layer, candidate_spec, checked_stages
from .named import NETWORKS, SIX
from .network import CreamNetwork
from .sizing import Size, by_cost, by_reference, reference_table
from .strings import encode_stage
from .weights import Place, reference_format

if TYPE_CHECKING:
    from archloom import Task


class CreamSpace:
    """Inverted residuals with squeeze-and-excitation: kernels 3, 5, 7 by expansions 4, 6, five stages of four.

    form: "imagenet" for images around 224, "small" for 8 to 32 (three stages of two, two halvings).
    in_channels: of the images.
    candidates: instead of the six. "k5_e6": kernel 5, expansion 6; "k3_d2_e6": dilated by 2; "k3.5_e4":
        half of the channels with kernel 3, half with 5; "basic", "bottleneck": the units of ResNet.
    skip: every block but a stage's first may be left out.
    stages: [channels, blocks, stride] for each stage, instead of the form's.
    depths: the number of blocks in each stage.
    macs: [low, high], a range of multiply-adds that depths and resolution are chosen for: of whole
        networks, with the head and 1000 classes (`archloom.cost.MACS`).
    resolution: side of the images, or several as a further choice; by default the task's, or what `macs`
        chose.
    reference: `macs` is taken as the reference code takes it, whose counts and scaling differ.
    """

    def __init__(
        self,
        *,
        form: Literal["imagenet", "small"] = "imagenet",
        in_channels: int = 3,
        candidates: list[str] | None = None,
        skip: bool = False,
        stages: list[list[int]] | None = None,
        depths: list[int] | None = None,
        macs: list[float] | None = None,
        resolution: int | list[int] | None = None,
        reference: bool = False,
    ) -> None:
        if form not in FORMS:
            raise SpaceError(f"the Cream space has no form '{form}'; it has {', '.join(FORMS)}")
        self.form, self.in_channels, self.skip = FORMS[form], in_channels, skip
        self.candidates = tuple(SIX if candidates is None else candidates)
        self._specs = {name: candidate_spec(name) for name in self.candidates}
        self._stages = checked_stages(self.form.stages if stages is None else stages)
        self._own_stages = stages is not None
        if macs is not None:
            if depths is not None or isinstance(resolution, list):
                raise SpaceError(
                    "'macs' chooses depths and one resolution: give no 'depths' beside it, and at most one "
                    "'resolution'"
                )
            size = self._sized(macs, resolution, reference)
            depths, resolution = list(size.depths), size.resolution
        self.depths = tuple([blocks for _, blocks, _ in self._stages] if depths is None else depths)
        if len(self.depths) != len(self._stages) or min(self.depths) < 1:
            raise SpaceError(
                f"'depths' gives each of the {len(self._stages)} stages one block or more, not {list(self.depths)}"
            )
        self.resolution = resolution
        self.layers = self._layers()
        self.choices: Sequence[Choice] = self._choices()
        self.recommended_model: Mapping[str, Any] = {
            "head": {"type": "CreamHead", "features": self.form.features, "dropout": 0.2}
        }

    def _layers(self) -> dict[str, Layer]:
        layers: dict[str, Layer] = {}
        c_in = self.form.stem[0]
        for stage, ((channels, _, stride), depth) in enumerate(
            zip(self._stages, self.depths, strict=True), 1
        ):
            for position in range(depth):
                name = f"stage{stage}_block{position}"
                layers[name] = Layer(stage, position, c_in, channels, 1 if position else stride)
                c_in = channels
        return layers

    def _choices(self) -> list[Choice]:
        choices = [
            Choice(name, (*self.candidates, SKIP) if self.skip and layer.position else self.candidates)
            for name, layer in self.layers.items()
        ]
        sides = self.resolution if isinstance(self.resolution, list) else [self.resolution]
        if odd := [side for side in sides if side is not None and side < 1]:
            raise SpaceError(f"a resolution is a positive number of pixels, not {odd[0]}")
        if isinstance(self.resolution, list):
            choices.append(Choice("resolution", tuple(self.resolution)))
        return choices

    # -- networks -----------------------------------------------------------------------------------

    def candidate(self, choice: Choice, option: str) -> nn.Module | None:
        """One block of the supernet, initialized; the identity for "skip", None for the resolution."""
        if choice.name not in self.layers:
            return None
        if option == SKIP:
            return nn.Identity()
        layer = self.layers[choice.name]
        return initialize(make_block(self.spec(choice.name, option), layer.c_in))

    def around(self, body: nn.Module) -> nn.Module:
        """3x3 convolution, depthwise-separable block -> body -> 1x1 convolution."""
        first, fixed, last = self._fixed()
        stem = nn.Sequential(
            OrderedDict(conv=make_block(first, self.in_channels), block=make_block(fixed, first.channels))
        )
        tail = make_block(last, self._stages[-1][0])
        return CreamNetwork(initialize(stem), body, initialize(tail), self._feature_info())

    def build(self, architecture: Architecture) -> nn.Module:
        """The network of `architecture`: (N, in_channels, H, W) -> (N, C, H', W')."""
        return build_chain(self, architecture)

    def scaled(
        self, architecture: Architecture, width: Callable[[int], int], depth: Callable[[int], int]
    ) -> nn.Module:
        """The network with other sizes: `width` changes every number of channels, `depth` that of each stage's
        blocks. What a stage lacks repeats its last block; blocks that are skipped are none.
        """
        chosen: list[list[str]] = [[] for _ in self.depths]
        for name, layer in self.layers.items():
            if architecture[name] != SKIP:
                chosen[layer.stage - 1].append(str(architecture[name]))
        blocks = [(stage + stage[-1:] * depth(len(stage)))[: depth(len(stage))] for stage in chosen]
        larger = copy.copy(self)
        stem = (width(self.form.stem[0]), self.form.stem[1])
        larger.form = replace(self.form, stem=stem, tail=width(self.form.tail))
        larger._stages = [(width(channels), n, stride) for channels, n, stride in self._stages]
        larger.depths, larger.skip, larger.resolution = tuple(map(len, blocks)), False, None
        larger.layers = larger._layers()
        larger.choices = larger._choices()
        return larger.build(larger.architecture(blocks))

    def spec(self, choice: str, option: str) -> BlockSpec:
        """The block that `option` is at `choice`."""
        layer = self.layers[choice]
        return replace(self._specs[option], channels=layer.c_out, stride=layer.stride)

    def _fixed(self) -> tuple[BlockSpec, BlockSpec, BlockSpec]:
        channels, stride = self.form.stem
        return (
            BlockSpec("cn", channels, (3,), stride),
            BlockSpec("ds", channels, (3,), se=SE),
            BlockSpec("cn", self.form.tail, (1,)),
        )

    def _feature_info(self) -> list[dict[str, Any]]:
        info, reduction = [], self.form.stem[1]
        for stage, ((channels, _, stride), depth) in enumerate(
            zip(self._stages, self.depths, strict=True), 1
        ):
            reduction *= stride
            module = f"body.stage{stage}_block{depth - 1}"
            info.append({"num_chs": channels, "reduction": reduction, "module": module})
        return info

    def input_shape(self, architecture: Architecture, task: Task) -> tuple[int, int, int]:
        """The resolution that was chosen or given; the task's shape where there is none."""
        channels, height, width = task.shape
        side = architecture["resolution"] if isinstance(self.resolution, list) else self.resolution
        return (channels, height, width) if side is None else (channels, int(side), int(side))

    # -- cost ---------------------------------------------------------------------------------------

    def macs(self, architecture: Architecture, side: int, num_classes: int = 1000) -> int:
        """MACs of the whole network with its `CreamHead`, for an image of `side` x `side`, in closed form."""
        total, inner = self._fixed_macs(self.depths, side, num_classes)
        for name, layer in self.layers.items():
            if architecture[name] != SKIP:
                total += block_macs(self.spec(name, str(architecture[name])), layer.c_in, inner)
            inner = half(inner, layer.stride)
        return total

    def _fixed_macs(self, depths: Sequence[int], side: int, num_classes: int) -> tuple[int, int]:
        """MACs of all that is not searched, and the side behind the stem."""
        first, fixed, last = self._fixed()
        inner = half(side, first.stride)
        end = inner
        for _, _, stride in self._stages:
            end = half(end, stride)
        head = self.form.features * (self.form.tail + num_classes)
        blocks = (
            block_macs(first, self.in_channels, side)
            + block_macs(fixed, first.channels, inner)
            + block_macs(last, self._stages[-1][0], end)
        )
        return blocks + head, inner

    def _sized(self, macs: Sequence[float], resolution: int | None, reference: bool) -> Size:
        if len(macs) != 2:
            raise SpaceError(f"'macs' is a range [low, high], not {list(macs)}")
        if not reference:
            sides = self.form.sides if resolution is None else (resolution,)
            return by_cost(macs[0], macs[1], len(self._stages), sides, self._cost_range)
        if self._own_stages or self.form is not FORMS["imagenet"] or self.candidates != SIX:
            raise SpaceError(
                "the reference's rule knows its own five stages and six blocks only; leave out 'reference'"
            )
        table = reference_table(
            [(channels, stride) for channels, _, stride in self._stages],
            self.form.stem[0],
            list(self._specs.values()),
        )
        size = by_reference(macs[0] / 1e6, macs[1] / 1e6, table)
        return size if resolution is None else size._replace(resolution=resolution)

    def _cost_range(self, depths: Sequence[int], side: int) -> tuple[int, int]:
        """MACs of the cheapest and of the dearest network with these depths, without skips."""
        fixed, side = self._fixed_macs(depths, side, 1000)
        cheapest = dearest = fixed
        c_in = self.form.stem[0]
        for (channels, _, stride), depth in zip(self._stages, depths, strict=True):
            for position in range(depth):
                step = 1 if position else stride
                specs = [replace(s, channels=channels, stride=step) for s in self._specs.values()]
                costs = [block_macs(spec, c_in, side) for spec in specs]
                cheapest, dearest = cheapest + min(costs), dearest + max(costs)
                c_in, side = channels, half(side, step)
        return cheapest, dearest

    # -- names, strings, weights --------------------------------------------------------------------

    def architecture(self, stages: Sequence[Sequence[str]], resolution: int | None = None) -> Architecture:
        """The architecture with these blocks in each stage; missing ones at a stage's end are skipped."""
        if len(stages) != len(self.depths):
            raise SpaceError(f"this Cream space has {len(self.depths)} stages, not {len(stages)}")
        decisions: dict[str, Any] = {}
        for stage, (given, depth) in enumerate(zip(stages, self.depths, strict=True), 1):
            if not 1 <= len(given) <= depth or (len(given) < depth and not self.skip):
                upto = f"1 to {depth}" if self.skip else str(depth)
                raise SpaceError(f"stage {stage} of this Cream space has {upto} blocks, not {len(given)}")
            options = [*given, *[SKIP] * (depth - len(given))]
            decisions |= {f"stage{stage}_block{i}": option for i, option in enumerate(options)}
        if isinstance(self.resolution, list):
            decisions["resolution"] = resolution
        return check(self, Architecture(decisions))

    @property
    def named(self) -> Mapping[str, NamedArchitecture]:
        """The published networks that this space can express, with its depths, skips and resolutions."""
        if self.form is not FORMS["imagenet"] or self._own_stages:
            return {}
        found = {}
        for name, network in NETWORKS.items():
            try:
                architecture = self.architecture(network.stages, network.resolution)
            except SpaceError:
                continue  # another depth, or a block that is no candidate here
            found[name] = NamedArchitecture(
                architecture,
                network.resolution,
                {} if isinstance(self.resolution, list) else {"resolution": network.resolution},
                network.published,
            )
        return found

    def weight_formats(self, architecture: Architecture) -> tuple[WeightFormat, ...]:
        """The reference's, in which the blocks that are left out have no number; none where a block is not
        one of its six."""
        places: dict[str, Place] = {}
        for name, layer in self.layers.items():
            if architecture[name] == SKIP:
                continue
            if architecture[name] not in SIX:
                return ()
            places[name] = (layer.stage, sum(stage == layer.stage for stage, _ in places.values()))
        return (reference_format(places, self.depths),)

    @property
    def supernet_format(self) -> WeightFormat:
        """The reference's checkpoints of the supernet, in which every block has its own number."""
        if self.candidates != SIX:
            raise SpaceError(
                f"the reference's supernet has the candidates {', '.join(SIX)}, not {', '.join(self.candidates)}"
            )
        places = {name: (layer.stage, layer.position) for name, layer in self.layers.items()}
        return reference_format(places, self.depths)

    def block_strings(self, architecture: Architecture) -> list[list[str]]:
        """All stages but the stem as block strings; `from_block_strings` is the inverse."""
        _, fixed, last = self._fixed()
        stages = [
            [
                self.spec(name, str(architecture[name]))
                for name, layer in self.layers.items()
                if layer.stage == stage and architecture[name] != SKIP
            ]
            for stage in range(1, len(self.depths) + 1)
        ]
        return [encode_stage(stage) for stage in ([fixed], *stages, [last])]
