"""Block strings are read and written, one the inverse of the other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archloom.errors import SpaceError
from archloom_cream import CreamSpace, from_block_strings
from archloom_cream.blocks import BlockSpec
from archloom_cream.strings import decode_block, decode_stage, encode_block, encode_stage, scale_depth

ratios = st.one_of(st.just(0.0), st.floats(1e-7, 1.0))
kernels = st.lists(st.sampled_from([1, 3, 5, 7, 9]), min_size=1, max_size=3).map(tuple)


@st.composite
def specs(draw):
    kind = draw(st.sampled_from(["ds", "ir", "cn", "basic", "bottleneck"]))
    separable = kind in ("ds", "ir")
    return BlockSpec(
        kind,
        channels=draw(st.integers(1, 512)),
        kernels=draw(kernels) if separable else (draw(st.sampled_from([1, 3, 5])),),
        stride=draw(st.integers(1, 3)),
        expansion=draw(st.floats(1e-3, 1e6)) if kind == "ir" else 1,
        se=draw(ratios),
        dilation=draw(st.integers(1, 3)),
        residual=draw(st.booleans()),
    )


@given(specs(), st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_a_block_that_is_written_is_read_back(spec, repeats):
    assert decode_block(encode_block(spec, repeats)) == (spec, repeats)


@given(st.lists(st.tuples(specs(), st.integers(1, 4)), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_stage_that_is_written_is_read_back(groups):
    blocks = [replace(spec, stride=1) for spec, count in groups for _ in range(count)]
    blocks[0] = replace(blocks[0], stride=2)
    strings = encode_stage(blocks)
    assert decode_stage(strings) == tuple(blocks)
    assert encode_stage(decode_stage(strings)) == strings


def test_the_string_of_the_first_block_says_what_it_is():
    text = "ds_r1_k3_s1_e1_c16_se0.25"
    spec, repeats = decode_block(text)
    assert (spec, repeats) == (BlockSpec("ds", 16, (3,), 1, 1, 0.25), 1)
    assert encode_block(spec, repeats) == text
    assert decode_block("ir_r4_k3.5.7_s2_e6_c80_se0.5_d2_noskip") == (
        BlockSpec("ir", 80, (3, 5, 7), 2, 6, 0.5, 2, False),
        4,
    )


def test_a_strided_first_block_shares_its_string_with_its_repeats():
    assert encode_stage(decode_stage(["ir_r4_k5_s2_e6_c40"])) == ["ir_r4_k5_s2_e6_c40"]
    assert [b.stride for b in decode_stage(["ir_r2_k5_s2_e6_c40", "ir_r1_k3_s2_e4_c40"])] == [2, 1, 1]


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.sampled_from([0.2, 0.5, 0.8, 1.0, 1.1, 1.4, 2.0, 3.1]),
    st.sampled_from(["ceil", "round"]),
)
@settings(max_examples=100, deadline=None)
def test_depth_is_scaled_as_timm_scales_it(repeats, depth, rounding):
    builder = pytest.importorskip("timm.models._efficientnet_builder")
    strings = [f"ir_r{count}_k{3 + 2 * i}_s1_e6_c40_se0.25" for i, count in enumerate(repeats)]
    (theirs,) = builder.decode_arch_def([strings], depth_multiplier=depth, depth_trunc=rounding)
    ours = decode_stage(strings, depth, rounding)
    assert [block.kernels[0] for block in ours] == [block["dw_kernel_size"] for block in theirs]
    assert sum(scale_depth(repeats, depth, rounding)) == len(theirs)


def test_timm_reads_our_strings_as_we_mean_them():
    builder = pytest.importorskip("timm.models._efficientnet_builder")
    space = CreamSpace(depths=[4, 4, 5, 4, 4])
    network = space.named["cream_481"].architecture
    theirs = builder.decode_arch_def(space.block_strings(network)[1:-1])
    for name, block in zip(space.layers, [b for stage in theirs for b in stage], strict=True):
        spec = space.spec(name, network[name])
        read = (block["dw_kernel_size"], block["exp_ratio"], block["out_chs"], block["se_ratio"])
        assert read == (spec.kernels[0], spec.expansion, spec.channels, spec.se)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_an_architecture_s_strings_give_its_space_and_itself(data):
    candidates = ["k3_e4", "k5_e6", "k3.7_e2.5", "k3_d2_e4", "basic", "bottleneck"]
    form = data.draw(st.sampled_from(["imagenet", "small"]))
    count = len(CreamSpace(form=form).depths)
    depths = data.draw(st.lists(st.integers(1, 3), min_size=count, max_size=count))
    space = CreamSpace(form=form, candidates=candidates, depths=depths)
    stages = [[data.draw(st.sampled_from(candidates)) for _ in range(depth)] for depth in depths]
    architecture = space.architecture(stages)
    again, found = from_block_strings(space.block_strings(architecture))
    assert found == architecture
    assert again.layers == space.layers
    assert again.block_strings(found) == space.block_strings(architecture)


def test_skipped_blocks_have_no_string():
    space = CreamSpace(form="small", skip=True)
    strings = space.block_strings(space.architecture([["k3_e4"], ["k5_e6", "k5_e6"], ["k3_e4", "k7_e4"]]))
    assert strings[1:3] == [["ir_r1_k3_s1_e4_c24_se0.25"], ["ir_r2_k5_s2_e6_c40_se0.25"]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("er_k3_c16", "the type 'er' is none of"),
        ("ir_k3_s1_x6_c16", "'x6' is no field"),
        ("ir_k3_k5_c16", "gives 'k' twice"),
        ("ir_s1_e6", "lacks k and c"),
        ("ir_k4_c16", "kernels are odd"),
        ("ir_r0_k3_c16", "at least once"),
        ("ir_k3_c1.5", "'1.5' is no number for 'c'"),
        ("cn_k3_e6_c16", "does not expand"),
        ("ir_k3_c16_se2", "squeeze ratio"),
    ],
)
def test_a_string_that_cannot_be_meant_is_refused_with_its_reason(text, told):
    with pytest.raises(SpaceError, match=told):
        decode_block(text)


def test_strings_that_are_no_cream_network_are_refused_with_the_reason():
    good = CreamSpace(form="small")
    stages = good.block_strings(good.architecture([["k3_e4"] * 2] * 3))
    with pytest.raises(SpaceError, match="first and the last stage"):
        from_block_strings([["ds_k3_c99"], *stages[1:]])
    with pytest.raises(SpaceError, match="stage 2: the space's block is"):
        from_block_strings([*stages[:2], ["ir_k3_s2_e4_c40_se0.5"], *stages[3:]])
    with pytest.raises(SpaceError, match="depth factor"):
        decode_stage(stages[1], 0)
    with pytest.raises(SpaceError, match="only the first block"):
        encode_stage([BlockSpec("ir", 16), BlockSpec("ir", 16, stride=2)])
