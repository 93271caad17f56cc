"""Block strings, rounding and overrides: values that need no network."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archloom.errors import ConfigError, UnknownName
from archloom_efficientnet import BASELINE, NAMED, BlockArgs, EfficientNet, NetworkConfig
from archloom_efficientnet.config import from_block_strings, named

counts = st.integers(1, 4000)
strides = st.tuples(st.integers(1, 9), st.integers(1, 9))
ratios = st.none() | st.floats(0, 1, allow_nan=False)
blocks = st.builds(BlockArgs, counts, counts, strides, counts, counts, counts, ratios, st.booleans())
strings = st.builds(
    "r{}_k{}_s{}{}_e{}_i{}_o{}{}{}".format,
    counts,
    counts,
    st.integers(1, 9),
    st.integers(1, 9),
    counts,
    counts,
    counts,
    st.sampled_from(["", "_se0", "_se1", "_se0.25", "_se0.0625"]),
    st.sampled_from(["", "_noskip"]),
)


@given(blocks)
def test_decoding_undoes_encoding(block):
    assert BlockArgs.decode(block.encode()) == block


@given(strings)
def test_encoding_undoes_decoding(string):
    assert BlockArgs.decode(string).encode() == string


def test_strides_count_in_both_directions_and_parts_come_in_any_order():
    block = BlockArgs.decode("k5_r2_s21_i16_o24_e6_noskip_se0.25")
    assert block == BlockArgs(2, 5, (2, 1), 6, 16, 24, 0.25, id_skip=False)
    assert BlockArgs.decode("r1_k3_s2_e1_i32_o16").stride == (2, 2)


@pytest.mark.parametrize(
    ("string", "named_in_message"),
    [
        ("r1_k3_s11_e1_i32", "o (output)"),
        ("r1_k3_s11_e1_i32_o16_q4", "q4"),
        ("r1_k3_s11_e1_i32_o16_k5", "k5"),
        ("r1_k3_s123_e1_i32_o16", "123"),
        ("r1_k3_s01_e1_i32_o16", "01"),
        ("r0_k3_s11_e1_i32_o16", "num_repeat"),
        ("r1_k3_s11_e1_i32_o16_se2", "se_ratio"),
        ("r1_k3.5_s11_e1_i32_o16", "3.5"),
        ("", "''"),
    ],
)
def test_a_wrong_block_string_is_refused_by_its_wrong_part(string, named_in_message):
    with pytest.raises(ConfigError, match=named_in_message.replace("(", r"\(").replace(")", r"\)")):
        BlockArgs.decode(string)


def test_the_baseline_is_what_every_named_network_scales():
    assert all(config.blocks == BASELINE for config in NAMED.values())
    assert [len(stage) for stage in named("efficientnet-b0").stages()] == [1, 2, 2, 3, 3, 4, 1]


@given(st.integers(1, 4000), st.floats(0.1, 8))
def test_rounded_channels_are_multiples_and_lose_at_most_a_tenth(filters, width):
    config = NetworkConfig(width_coefficient=width)
    rounded = config.round_filters(filters)
    assert rounded % 8 == 0
    assert rounded >= max(8, 0.9 * filters * width)
    assert rounded <= max(8, filters * width + 8)


def test_every_field_can_be_overridden_and_reaches_the_network():
    model = EfficientNet.from_name(
        "efficientnet-b0",
        in_channels=2,
        width_coefficient=0.5,
        depth_coefficient=0.3,
        image_size=96,
        dropout_rate=0.6,
        num_classes=5,
        batch_norm_momentum=0.8,
        batch_norm_epsilon=1e-2,
        drop_connect_rate=0.7,
        depth_divisor=4,
        min_depth=12,
    )
    assert model.features.stem.conv.weight.shape == (16, 2, 3, 3)
    assert [len(stage) for stage in model.features.stages] == [1, 1, 1, 1, 1, 2, 1]
    assert model.features.stages[0][0].args.output_filters == 12  # 8 without min_depth
    assert model.features.stages[2][0].args.output_filters == 20  # a multiple of 4, not of 8
    assert model.dropout.p == 0.6
    assert model.classifier.out_features == 5
    assert model.features.stem.bn.eps == 1e-2
    assert model.features.stem.bn.momentum == pytest.approx(0.2)
    assert list(model.features.blocks())[-1].drop_connect_rate == pytest.approx(0.7 * 7 / 8)
    assert model.config.image_size == 96


def test_a_misspelt_override_names_the_nearest_field():
    with pytest.raises(ConfigError, match=r"did you mean 'dropout_rate'"):
        EfficientNet.from_name("efficientnet-b0", dropout=0.5)


def test_an_unknown_network_lists_the_known_ones():
    with pytest.raises(UnknownName, match=r"did you mean 'efficientnet-b7'.*efficientnet-l2"):
        EfficientNet.from_name("efficientnet_b7")


def test_stages_that_do_not_fit_together_are_refused():
    with pytest.raises(ConfigError, match=r"takes 24 channels, and the one before it gives 16"):
        EfficientNet.from_block_strings(["r1_k3_s11_e1_i32_o16", "r1_k3_s22_e6_i24_o40"])


def test_a_stage_that_keeps_its_shape_has_a_residual_in_its_first_block_too():
    model = EfficientNet.from_block_strings(["r2_k3_s11_e1_i32_o32", "r2_k3_s11_e1_i32_o32_noskip"])
    assert [block.residual for block in model.features.blocks()] == [True, True, False, False]
    assert from_block_strings(["r1_k3_s11_e1_i32_o16"], num_classes=3).num_classes == 3
