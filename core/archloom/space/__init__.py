"""Search spaces: what one is, and what can be done with its choices whatever network they decide about.

protocol    `SearchSpace`, and what a space is made of
decisions   checked, drawn, changed, counted, listed
encoding    as rows of numbers, and as a line of text
"""

from .decisions import (
    canonical,
    changed,
    check,
    check_choices,
    decide,
    distinct,
    draw,
    everything,
    first_option,
    mutate,
    neighbours,
    other_options,
    sample,
    size,
)
from .encoding import Code, Encoding, from_text, one_hot, option_of, to_text
from .protocol import (
    Around,
    Chain,
    NamedArchitecture,
    SearchSpace,
    WeightFormat,
    build_chain,
    input_shape,
    resolution,
    side_of,
    violations,
    weight_formats,
)

__all__ = [
    "Around",
    "Chain",
    "Code",
    "Encoding",
    "NamedArchitecture",
    "SearchSpace",
    "WeightFormat",
    "build_chain",
    "canonical",
    "changed",
    "check",
    "check_choices",
    "decide",
    "distinct",
    "draw",
    "everything",
    "first_option",
    "from_text",
    "input_shape",
    "mutate",
    "neighbours",
    "one_hot",
    "option_of",
    "other_options",
    "resolution",
    "sample",
    "side_of",
    "size",
    "to_text",
    "violations",
    "weight_formats",
]
