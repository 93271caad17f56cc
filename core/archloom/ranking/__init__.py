"""How well does a predictor rank networks? Supernets and proxies against accuracies of networks trained alone.

`rank(config)` measures every predictor on the networks of a table, and compares the order with the table's.
"""

from .config import RankConfig, parse_rank, read_rank
from .study import Ranking, rank

__all__ = ["RankConfig", "Ranking", "parse_rank", "rank", "read_rank"]
