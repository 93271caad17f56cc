"""A space and an architecture from block strings: the inverse of `CreamSpace.block_strings`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from archloom import Architecture, SpaceError

from .blocks import BlockSpec
from .layout import FORMS, SE, Form
from .named import SIX
from .space import CreamSpace
from .strings import Rounding, decode_stage, encode_stage


def from_block_strings(
    stages: Sequence[Sequence[str]], *, depth: float = 1.0, rounding: Rounding = "ceil", in_channels: int = 3
) -> tuple[CreamSpace, Architecture]:
    """A space with exactly the blocks of these strings, and its architecture.

    The first and last stage are the fixed ones: one "ds" and one "cn" block. Between them stand "ir",
    "basic" and "bottleneck" blocks, all as the space's candidates are. depth, rounding: `decode_stage`'s,
    for the stages between.
    """
    if len(stages) < 3:
        raise SpaceError(
            "block strings of a Cream network have a fixed stage at either end: give three or more"
        )
    decoded = [decode_stage(stage, depth, rounding) for stage in stages[1:-1]]
    form = next((f for f in FORMS if _ends(FORMS[f]) == _ends_of(stages)), None)
    if form is None:
        known = " or ".join(f"{first} ... {last}" for first, last in map(_shown_ends, FORMS.values()))
        raise SpaceError(f"the first and the last stage of these block strings are not the space's: {known}")
    names = [[_name(block) for block in stage] for stage in decoded]
    space = CreamSpace(
        form=form,
        in_channels=in_channels,
        candidates=list(dict.fromkeys([*SIX, *(name for stage in names for name in stage)])),
        stages=[[stage[0].channels, len(stage), stage[0].stride] for stage in decoded],
    )
    architecture = space.architecture(names)
    for stage, blocks in enumerate(decoded, 1):
        for position, block in enumerate(blocks):
            choice = f"stage{stage}_block{position}"
            if (built := space.spec(choice, str(architecture[choice]))) != block:
                raise SpaceError(f"stage {stage}: the space's block is {built}, not {block}")
    return space, architecture


def _ends(form: Form) -> tuple[BlockSpec, BlockSpec]:
    return BlockSpec("ds", form.stem[0], (3,), se=SE), BlockSpec("cn", form.tail, (1,))


def _shown_ends(form: Form) -> tuple[str, ...]:
    return tuple(encode_stage([block])[0] for block in _ends(form))


def _ends_of(stages: Sequence[Sequence[str]]) -> tuple[BlockSpec, ...]:
    """The single blocks of the first and last stage, without the squeeze that a "cn" block ignores."""
    ends = [decode_stage(stage) for stage in (stages[0], stages[-1])]
    return tuple(replace(b, se=0.0) if b.type == "cn" else b for blocks in ends for b in blocks)


def _name(block: BlockSpec) -> str:
    if block.type in ("basic", "bottleneck"):
        return block.type
    kernels = ".".join(map(str, block.kernels))
    dilated = f"_d{block.dilation}" if block.dilation != 1 else ""
    return f"k{kernels}{dilated}_e{block.expansion:g}"
